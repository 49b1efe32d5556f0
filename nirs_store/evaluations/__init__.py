"""Evaluations: recorded, ranked, compared, summarized; and champions."""
