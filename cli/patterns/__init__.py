"""Regular expressions of policy as languages: an example of one, and what one matches and another does not."""
