"""The audit trail: who did what and when, and the rules of what may be recorded."""
