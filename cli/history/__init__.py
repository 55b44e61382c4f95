"""Queries of the log: a past version, the differences of two, the cause of a change. Reads a live log or an export."""
