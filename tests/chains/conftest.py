"""Real spectra, and a shelf of fitted objects that have been through joblib."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import joblib
import numpy as np
import pytest


@dataclass(frozen=True)
class Tecator:
    X: np.ndarray
    fat: np.ndarray
    fatty: np.ndarray
    wavelengths: np.ndarray


@pytest.fixture(scope="session")
def tecator() -> Tecator:
    with (files("nirs_store") / "data" / "tecator.csv").open(encoding="utf-8") as lines:
        header, *rows = csv.reader(line for line in lines if not line.startswith("#"))
    values = np.array(rows, dtype=float)
    fat = values[:, header.index("fat")]
    level = np.array(["lean", "medium", "fatty meat"])[np.digitize(fat, [10, 25])]
    X = np.ascontiguousarray(values[:, 4:])
    for array in (X, fat, level):
        array.flags.writeable = False
    return Tecator(X, fat, level, np.array(header[4:], dtype=float))


@dataclass
class Shelf:
    """Keeps objects as joblib bytes; loads each once and counts how often it is asked for."""

    dumped: dict[str, bytes] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def put(self, **objects: Any) -> None:
        for name, fitted in objects.items():
            buffer = io.BytesIO()
            joblib.dump(fitted, buffer)
            self.dumped[name] = buffer.getvalue()

    def load(self, artifact_id: str) -> Any:
        self.asked[artifact_id] += 1
        if artifact_id not in self.loaded:
            self.loaded[artifact_id] = joblib.load(io.BytesIO(self.dumped[artifact_id]))
        return self.loaded[artifact_id]

    def changed(self) -> list[str]:
        """Name the loaded objects that are no longer what was dumped."""
        fresh = {name: joblib.load(io.BytesIO(self.dumped[name])) for name in self.loaded}
        return [name for name in fresh if joblib.hash(fresh[name]) != joblib.hash(self.loaded[name])]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()
