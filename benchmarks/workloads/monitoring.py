"""W15: a year of a calibration in service: predictions are logged, references come in, a month is looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold

from benchmarks import fixture
from benchmarks.clock import alternately, median, timed
from benchmarks.sizes import Size
from nirs_store import WorkspaceStore, record_cross_validation

_CHANNELS = 50
_AT_ONCE = 1000
_BATCH = 10_000
# One sample in a hundred goes to the laboratory.
_REFERRED = 100


def monitoring(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Milliseconds of a monthly chart, and of 1,000 predictions with the log and without."""
    X, y = fixture.spectra(80, _CHANNELS, 31)
    random, start = np.random.default_rng(0), datetime(2026, 1, 1, tzinfo=UTC)
    n = size.measured
    step = timedelta(days=365) / n
    new = X[random.integers(0, len(X), _BATCH)]
    with WorkspaceStore(folder / "monitoring") as store:
        chain = record_cross_validation(
            store, PLSRegression(4, scale=False), X, y, cv=KFold(4), dataset_name="corn", target="fat"
        ).chain_id
        store.calibrations.register("fat", chain, alias="production")
        for begin in range(0, n, _BATCH):
            rows = range(begin, min(n, begin + _BATCH))
            store.predict(
                "fat@production",
                new[: len(rows)],
                sample_ids=[f"s{row}" for row in rows],
                measured_at=[start + row * step for row in rows],
                instrument=f"bench {begin // _BATCH % 3}",
                on_outlier="ignore",
            )
        names = [f"s{row}" for row in range(0, n, _REFERRED)]
        store.references.add_many(
            {"sample_id": names, "value": random.normal(10, 2, len(names))}, target="fat"
        )

        def month() -> None:
            found = store.calibrations.monitor("fat", since="2026-06-01", until="2026-07-01")
            if not n / 14 < found.n_measurements < n / 10 or found.n < found.n_measurements // 110:
                raise SystemExit(f"{found.n_measurements} measurements and {found.n} samples of one month")

        month()
        found = {"measurements": float(n), "month_ms": 1e3 * median([timed(month) for _ in range(5)])}
        some = new[:_AT_ONCE]
        ids = [f"t{row}" for row in range(len(some))]
        logged, unlogged = alternately(
            5,
            lambda: store.predict("fat@production", some, sample_ids=ids, on_outlier="ignore"),
            lambda: store.predict("fat@production", some, sample_ids=ids, on_outlier="ignore", log=False),
        )
        found |= {"logged_ms": 1e3 * logged, "unlogged_ms": 1e3 * unlogged}
        found["year_ms"] = 1e3 * timed(lambda: store.calibrations.monitor("fat"))
    return found
