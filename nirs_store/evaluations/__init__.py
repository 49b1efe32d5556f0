"""Evaluations: recorded, ranked, compared, summarised; and champions."""
