"""Analyses regular expressions of policy: an example of one, and a text that one matches and another does not."""
