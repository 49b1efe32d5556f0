"""The evaluations that a question is about, each with its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nirs_store.catalog import evaluation_rows as rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.artifacts import read_artifact
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.values import from_json
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.lazily import polars as pl
from nirs_store.registry.evaluations.champions import value_of
from nirs_store.registry.evaluations.recording import one_of
from nirs_store.registry.evaluations.scoring import better_of, sort_value
from nirs_store.registry.evaluations.tables import from_parquet

__all__ = ["TABLES", "WHICH", "Entries", "Entry", "entries_of", "table_of"]

WHICH = ("latest", "best", "all")
TABLES = ("episodes", "samples")


@dataclass(frozen=True)
class Entry:
    """One evaluation with what was recorded of the metric."""

    evaluation_id: str
    model_id: str
    scores: dict[str, float | None]
    success_rate: float | None
    recorded: float | None
    created_at: datetime
    row: dict[str, Any]
    table: pl.DataFrame | None

    def value(self, metric: str) -> float | None:
        """The recorded value of a metric."""
        return value_of({"scores": self.scores, "success_rate": self.success_rate}, metric)


@dataclass(frozen=True)
class Entries:
    """Evaluations of a suite, oldest first, and what they are ranked by."""

    suite: str
    metric: str
    better: str
    items: tuple[Entry, ...]


def table_of(engine: Engine, row: dict[str, Any], what: str | None = None) -> pl.DataFrame | None:
    """The episodes or samples of an evaluation (None: whichever it has)."""
    for name in TABLES if what is None else (what,):
        if row[f"{name}_id"] is not None:
            return from_parquet(read_artifact(engine, row[f"{name}_id"]))
    return None


def entries_of(
    engine: Engine,
    suite: str,
    metric: str | None,
    *,
    models: Sequence[str] | None = None,
    which: str = "latest",
    tables: bool = True,
    what: str | None = None,
) -> Entries:
    """Completed evaluations of a suite: the latest or best of each model, or all.

    Raises
    ------
    UnknownId
        No evaluation is of that suite, or of one of the models.
    InvalidInput
    """
    one_of("which", which, WHICH)
    if what is not None:
        one_of("table", what, TABLES)

    def ask(con: Connection) -> tuple[tuple[str, str] | None, str | None, pl.DataFrame, list[str]]:
        default = rows.suite_metric(con, suite)
        said = None if default is None else rows.directions(con, suite, metric or default[0])
        found = rows.evaluation_rows(con, {"suite": suite, "status": "completed"})
        return default, said, found, rows.suites(con)

    default, said, found, known = engine.query(ask)
    if default is None:
        raise UnknownId("suite", suite, f"There are: {', '.join(known) or 'none'}.")
    chosen = metric or default[0]
    better = better_of(chosen, said)
    kept = [_entry(row, chosen) for row in found.to_dicts()]
    if models is not None:
        if isinstance(models, str):
            raise InvalidInput("models: expected a list of model ids, found one text.")
        missing = sorted(set(models) - {entry.model_id for entry in kept})
        if missing:
            raise UnknownId("model", missing[0], f"Suite {suite!r} has {', '.join(_models(kept)) or 'none'}.")
        kept = [entry for entry in kept if entry.model_id in set(models)]
    if which != "all":
        kept = _one_a_model(kept, better, best=which == "best")
    if tables:
        kept = [Entry(**{**entry.__dict__, "table": table_of(engine, entry.row, what)}) for entry in kept]
    return Entries(suite, chosen, better, tuple(kept))


def _models(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.model_id for entry in entries))


def _entry(row: dict[str, Any], metric: str) -> Entry:
    scores = from_json(row["scores"])
    recorded = value_of({"scores": scores, "success_rate": row["success_rate"]}, metric)
    return Entry(
        row["evaluation_id"],
        row["model_id"],
        scores,
        row["success_rate"],
        recorded,
        row["created_at"],
        row,
        None,
    )


def _one_a_model(entries: Sequence[Entry], better: str, *, best: bool) -> list[Entry]:
    chosen: dict[str, Entry] = {}
    for entry in entries:
        before = chosen.get(entry.model_id)
        if (
            before is None
            or not best
            or sort_value(entry.recorded, better) > sort_value(before.recorded, better)
        ):
            chosen[entry.model_id] = entry
    return list(chosen.values())
