"""What cannot be fitted is said in a line; the traceback is for ``--debug``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest


@pytest.mark.parametrize(
    ("channels", "samples", "words"), [(1, 40, "n_components"), (30, 6, "cannot|n_components|folds|split")]
)
def test_a_template_that_does_not_fit_is_refused_in_a_line(
    channels: int, samples: int, words: str, run: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "fat": rng.normal(size=samples),
            **{f"{850 + 2 * k}": rng.normal(size=samples) for k in range(channels)},
        }
    )
    frame.write_csv(tmp_path / "s.csv")
    call = (
        "library",
        "run",
        "pls_baseline",
        "--data",
        tmp_path / "s.csv",
        "--target",
        "fat",
        "-w",
        tmp_path / "ws",
    )
    shown = run(*call, expect=2).stderr.splitlines()
    assert len(shown) <= 3
    assert any(word in shown[-1] for word in words.split("|"))
