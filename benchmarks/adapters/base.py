"""What the workloads ask of a peer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    # Not for the clock: a cold process of a peer makes no spectra.
    from benchmarks.fixture import Pipeline


class Adapter:
    """A peer, opened on a folder. A workload that needs what a peer lacks passes it over."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # Recording (W1, W6, W7, W9)

    def begin(self, name: str) -> str:
        """Begin a run; returns its id."""
        raise NotImplementedError

    def record(self, item: Pipeline) -> str:
        """Record one pipeline whole; returns what names its chain. As durable as the peer gets."""
        raise NotImplementedError

    def end(self) -> None:
        """Complete the run."""
        raise NotImplementedError

    def close(self) -> None:
        """Let everything go."""

    # Equality: read in a new process what was recorded

    def read_back(self, chains: list[str]) -> tuple[list[float], list[np.ndarray]]:
        """Validation scores of all predictions, and all `y_pred`, in any order."""
        raise NotImplementedError

    def predict(self, chain: str, X: np.ndarray) -> np.ndarray:
        """Mean prediction of the chain's models (W4)."""
        raise NotImplementedError

    # Single tasks

    def save(self, obj: Any) -> None:
        """Save one fitted object (W2)."""
        raise NotImplementedError

    def fill(self, columns: dict[str, list[Any]]) -> None:
        """Bring in many predictions, by the quickest way there is (W3; not timed)."""
        raise NotImplementedError

    def top(self, n: int, dataset: str) -> list[float]:
        """Best validation scores of one data set (W3)."""
        raise NotImplementedError

    def class_means(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of the validation score by model class (W3)."""
        raise NotImplementedError

    def export(self, chain: str, path: Path) -> Path:
        """Write a chain as one file, or folder; returns where (W5)."""
        raise NotImplementedError

    @staticmethod
    def predict_file(path: Path, X: np.ndarray) -> np.ndarray:
        """Predict with an exported file (W5)."""
        raise NotImplementedError

    def clean(self, run: str) -> None:
        """Delete a run and give its space back (W6)."""
        raise NotImplementedError

    def runs(self) -> int:
        """How many runs there are (W8)."""
        raise NotImplementedError
