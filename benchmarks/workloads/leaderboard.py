"""W3: asking a large catalog."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.adapters.base import Adapter
from benchmarks.clock import alternately, median, processes, timed
from benchmarks.sizes import Size

_COLD = (
    "import sys, pathlib; from benchmarks.adapters import make; "
    "a = make(sys.argv[1], pathlib.Path(sys.argv[2])); assert a.top(10, 'set3'); a.close()"
)
# What somebody would write by hand against the file, with the answer as a Polars frame.
_TOP = (
    "SELECT * FROM predictions WHERE dataset_name = 'set3' AND partition = 'val' ORDER BY val_score LIMIT 10"
)
_QUESTIONS = {
    "top10": _TOP,
    "means": (
        "SELECT model_class, count(val_score), avg(val_score), stddev_samp(val_score), min(val_score), "
        "max(val_score) FROM predictions GROUP BY model_class ORDER BY model_class"
    ),
    "best_pipeline": (
        "SELECT * FROM predictions WHERE partition = 'val' "
        "QUALIFY row_number() OVER (PARTITION BY pipeline_id ORDER BY val_score) = 1 ORDER BY pipeline_id"
    ),
    "best_model": (
        "SELECT * FROM predictions WHERE partition = 'val' "
        "QUALIFY row_number() OVER (PARTITION BY model_class ORDER BY val_score) = 1 ORDER BY model_class"
    ),
}
# Seconds after which a question is not asked again.
_ENOUGH = 20.0
_COLD_BARE = (
    "import sys, duckdb, polars; "
    f'con = duckdb.connect(sys.argv[1], read_only=True); assert con.sql("{_TOP}").pl().height'
)


def leaderboard(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Warm medians of 20, and whole processes; ours in turn with the bare DuckDB query on the same file."""
    found: dict[str, float] = {}
    for rows in size.predictions if peer in ("nirs_store", "plain") else (size.peer_predictions,):
        place = folder / f"w3-{rows}"
        place.mkdir()
        adapter = make(peer, place)
        filling = timed(partial(adapter.fill, fixture.leaderboard(rows)))
        adapter.close()
        adapter = make(peer, place)
        _check(adapter, rows)
        if peer == "nirs_store":
            measured = _ours(adapter, folder, place, size.starts)
        else:
            repeats = 20 if peer == "plain" else 5
            measured = {
                "top10_ms": _warm(lambda a=adapter: a.top(10, "set3"), repeats),
                "means_ms": _warm(adapter.class_means, min(repeats, 20 if peer == "plain" else 3)),
            }
            adapter.close()
            measured["cold_s"] = processes(min(3, size.starts), ["-c", _COLD, peer, str(place)])[0]
        measured["fill_s"] = filling
        found |= {f"{name}@{rows}": value for name, value in measured.items()}
    return found


def _warm(call: Callable[[], Any], repeats: int) -> float:
    call()
    seconds = [timed(call)]
    # Some need a minute for what others do in milliseconds: then once has to do.
    while len(seconds) < repeats and sum(seconds) < _ENOUGH:
        seconds.append(timed(call))
    return 1e3 * median(seconds)


def _check(adapter: Adapter, rows: int) -> None:
    columns = fixture.leaderboard(rows)
    wanted = sorted(
        v
        for v, d, p in zip(columns["val"], columns["dataset"], columns["partition"], strict=True)
        if d == "set3" and p == "val"
    )[:10]
    if adapter.top(10, "set3") != wanted or len(adapter.class_means()) != 8:
        sys.exit(f"{adapter.name} answers otherwise than the fixture")


def _ours(adapter: Any, folder: Path, place: Path, starts: int) -> dict[str, float]:
    import duckdb

    adapter.close()
    # DuckDB lets one process open a file once only: the bare query gets a copy with the same bytes.
    bare = folder / "bare.duckdb"
    shutil.copyfile(place / "store.duckdb", bare)
    store = make("nirs_store", place).store  # type: ignore[attr-defined]
    con = duckdb.connect(str(bare), read_only=True)
    asked: dict[str, Callable[[], Any]] = {
        "top10": lambda: store.top_predictions(10, dataset_name="set3"),
        "means": lambda: store.aggregate_predictions("model_class"),
        "best_pipeline": lambda: store.top_predictions(1, group_by="pipeline_id"),
        "best_model": lambda: store.top_predictions(1, group_by="model_class"),
    }
    found = {}
    for name, sql in _QUESTIONS.items():
        if asked[name]().height != con.sql(sql).pl().height:
            sys.exit(f"{name}: the store and the bare query differ")
        # In blocks, because a person asks several times in a row, and a block keeps the catalog open.
        ours, direct = alternately(20, asked[name], lambda s=sql: con.sql(s).pl(), block=5)
        found |= {f"{name}_ms": 1e3 * ours, f"{name}_bare_ms": 1e3 * direct}
    store.close()
    con.close()
    ours, direct = processes(
        min(5, starts), ["-c", _COLD, "nirs_store", str(place)], ["-c", _COLD_BARE, str(bare)]
    )
    bare.unlink()
    return {**found, "cold_s": ours, "cold_bare_s": direct}
