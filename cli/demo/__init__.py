"""`meshlog demo`: its acts (`scenario`), their display (`display`), the results (`report`)."""
