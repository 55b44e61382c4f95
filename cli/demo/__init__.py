"""`meshlog demo`: what happens (`story`), how it looks (`view`), what it found (`report`)."""
