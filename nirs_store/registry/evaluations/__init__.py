"""Evaluations: recorded with their episodes or samples, ranked, compared, summarised; and champions."""

from __future__ import annotations

from nirs_store.registry.evaluations.book import Evaluations
from nirs_store.registry.evaluations.comparisons import ModelComparison
from nirs_store.registry.evaluations.page import Summary

__all__ = ["Evaluations", "ModelComparison", "Summary"]
