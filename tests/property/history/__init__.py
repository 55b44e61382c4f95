"""Claims about the past: replay, why, plan, rollback."""
