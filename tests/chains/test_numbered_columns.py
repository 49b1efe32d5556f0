"""Columns that are numbered in another order than they stand in are not taken by their places."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression

from nirs_store import WorkspaceStore, load_bundle, record_cross_validation
from nirs_store.errors import ShapeMismatch

X = np.random.default_rng(0).normal(size=(24, 12)).cumsum(1)
Y = X[:, 2] - X[:, 9]
ORDERS = {"reversed": np.arange(12)[::-1], "as text": np.array(sorted(range(12), key=str)), "swapped": np.r_[2, 0, 1, 3:12]}  # fmt: skip
NAMES: dict[str, list[Any]] = {"V": [f"V{k}" for k in range(12)], "f_": [f"f_{k}" for k in range(12)], "scan 1": [f"scan {k} raw" for k in range(1, 13)], "numbers": list(range(12))}  # fmt: skip


def record(store: Any, frame: Any = X, **more: Any) -> str:
    return str(
        record_cross_validation(store, PLSRegression(2), frame, Y, cv=3, dataset_name="d", **more).chain_id
    )


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("numbered")
    with WorkspaceStore(folder / "ws") as store:
        chain, grid = record(store), record(store, wavelengths=np.arange(1100.0, 1124.0, 2))
        bundle = load_bundle(store.export_chain(chain, folder / "a.n4a"), allow_pickle=True)
        script = runpy.run_path(str(store.export_chain(chain, folder / "a.n4a.py", format="n4a.py")))[
            "predict"
        ]
        yield {
            "replay": lambda frame: store.replay_chain(chain, frame),
            "predictor": lambda frame: store.predictor(chain).predict(frame),
            "predict": lambda frame: store.predict(chain, frame, on_outlier="ignore"),
            "grid by place": lambda frame: store.replay_chain(grid, frame),
            "grid given": lambda frame: store.replay_chain(grid, frame, np.arange(1100.0, 1124.0, 2)),
            "transform": lambda frame: store.transform(chain, frame),
            "diagnose": lambda frame: store.diagnose(chain, frame),
            "bundle": bundle.predict,
            "script": script,
        }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_door_refuses_them_and_takes_them_in_order(doors: Any, name: str, order: str) -> None:
    columns = NAMES[name]
    right, place = pd.DataFrame(X, columns=columns), ORDERS[order]
    wrong = right.iloc[:, place]
    for door, call in doors.items():
        if name == "numbers" and door.startswith("grid"):
            continue  # numbers are wavelengths where the chain has a grid
        call(right)
        with pytest.raises((ShapeMismatch, ValueError), match="numbered in another order"):
            call(wrong)
        if name != "numbers":
            with pytest.raises((ShapeMismatch, ValueError), match="numbered in another order"):
                call(pl.DataFrame(X[:, place], schema=[columns[k] for k in place]))


def test_recording_keeps_text_and_refuses_what_it_would_not_keep(tmp_path: Path) -> None:
    turned = np.arange(12)[::-1]
    text = pd.DataFrame(X, columns=NAMES["V"]).iloc[:, turned]
    numbers = pd.DataFrame(X).iloc[:, turned]
    with WorkspaceStore(tmp_path / "ws") as store:
        chain = record(store, text)
        store.replay_chain(chain, text)
        with pytest.raises(ShapeMismatch, match="same in another order"):
            store.replay_chain(chain, text.iloc[:, ::-1])
        for frame, more in ((numbers, {}), (text, {"wavelengths": np.arange(12) + 900.0})):
            with pytest.raises(ShapeMismatch, match="numbered in another order"):
                record(store, frame, **more)
        with pytest.raises(ShapeMismatch, match="X_test are numbered"):
            record(store, X, X_test=text, y_test=Y)
