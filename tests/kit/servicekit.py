"""A small data set, and calibrations recorded from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation

MEAT = load_tecator()
X, Y = MEAT.X[:90, ::4], MEAT.fat[:90]
GRID = MEAT.wavelengths[::4]
NEW = MEAT.X[120:126, ::4]
TESTED = {"X_test": MEAT.X[90:120, ::4], "y_test": MEAT.fat[90:120], "target_unit": "%"}


class Recorded(NamedTuple):
    """A copy of the workspace, and the chains with 2 and 4 latent variables."""

    folder: Path
    first: str
    second: str


def record(store: WorkspaceStore, components: int, values: Any = Y, **options: object) -> str:
    """Record one small cross-validation."""
    settings: dict[str, object] = {
        "cv": KFold(3),
        "dataset_name": "meat",
        "wavelengths": GRID,
        "target": "fat",
    }
    model = PLSRegression(components, scale=False)
    return record_cross_validation(store, model, X, values, **(settings | options)).chain_id  # type: ignore[arg-type]


def alter(folder: Path, statement: str) -> None:
    """Change the catalog of a workspace that nobody has open, behind the library's back."""
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute(statement)
