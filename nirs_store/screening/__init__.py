"""Screen many candidates and keep few: preprocessing, model and components; searches of scikit-learn and Optuna."""

from __future__ import annotations

from nirs_store.screening.board import Board
from nirs_store.screening.screen import screen
from nirs_store.screening.search import SearchRecord, optuna_callback, record_search

__all__ = ["Board", "SearchRecord", "optuna_callback", "record_search", "screen"]
