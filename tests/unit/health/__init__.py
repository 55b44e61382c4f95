"""The table of checks, each over facts that a test makes."""
