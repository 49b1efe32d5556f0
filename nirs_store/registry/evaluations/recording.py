"""Recording an evaluation: everything is checked, blobs are durable, then rows and champion in one transaction."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from nirs_store.catalog import evaluation_rows as rows
from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.buffer import naive, now_naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.environment import capture_environment
from nirs_store.catalog.guard import check_guard
from nirs_store.catalog.values import as_float, as_text, to_json
from nirs_store.errors import InvalidInput, NirsStoreError, UnknownId
from nirs_store.ids import new_id, sha256_hex
from nirs_store.lazily import polars as pl
from nirs_store.registry.audit import note
from nirs_store.registry.evaluations.champions import crown
from nirs_store.registry.evaluations.scoring import better_of
from nirs_store.registry.evaluations.tables import as_table, to_parquet

__all__ = ["BETTER", "STATUSES", "one_of", "record"]

STATUSES = ("completed", "failed", "in_progress", "pending")
BETTER = ("higher", "lower", "zero")
TABLE_TYPE = "evaluation_table"
# An id names files of an export too.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_GLOBAL = ("global_score", "score")


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    """Check a spelling; the nearest is suggested.

    Raises
    ------
    InvalidInput
    """
    if isinstance(value, str) and value in known:
        return value
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidInput(
        f"{name}: expected one of {', '.join(known)}, found {value!r}.{hint} Nothing was changed."
    )


def record(
    engine: Engine,
    model_id: str,
    suite: str,
    scores: Mapping[str, float] | float,
    *,
    success_rate: float | None,
    episodes: Any,
    samples: Any,
    metric: str | None,
    better: str | None,
    chain_id: str | None,
    run_id: str | None,
    evaluation_id: str | None,
    status: str,
    champion: bool,
    files: Sequence[str],
    tags: Sequence[str],
    metadata: Mapping[str, Any] | None,
    seeds: Any,
    parameters: Mapping[str, Any] | None,
    container: str | None,
    message: str | None,
    created_at: Any,
) -> str:
    """Record an evaluation; see `Evaluations.record`."""
    engine.check_writable()
    identifier = evaluation_id if evaluation_id is not None else new_id()
    try:
        if not isinstance(identifier, str) or _ID.fullmatch(identifier) is None:
            raise InvalidInput(
                f"evaluation_id: expected at most 128 letters, digits, '_', '.' and '-', found {identifier!r}. "
                "Nothing was recorded."
            )
        tables = {
            name: as_table(value, name)
            for name, value in (("episodes", episodes), ("samples", samples))
            if value is not None
        }
        found = _scores(scores)
        rate = _rate(success_rate, tables.get("episodes"))
        row: dict[str, Any] = {
            "evaluation_id": identifier,
            "model_id": _name(model_id, "model_id"),
            "suite": _name(suite, "suite"),
            "chain_id": None if chain_id is None else as_text(chain_id, "chain_id"),
            "run_id": None if run_id is None else as_text(run_id, "run_id"),
            "status": one_of("status", status, STATUSES),
            "scores": to_json(found, "scores"),
            "success_rate": rate,
            "n_episodes": tables["episodes"].height if "episodes" in tables else None,
            "n_samples": tables["samples"].height if "samples" in tables else None,
            "files": to_json([as_text(each, "files") for each in _listed(files, "files")], "files"),
            "tags": to_json([as_text(each, "tags") for each in _listed(tags, "tags")], "tags"),
            "metadata": to_json(None if metadata is None else dict(metadata), "metadata"),
            "environment": to_json(
                capture_environment(seeds=seeds, parameters=parameters, container=container), "environment"
            ),
            "message": None if message is None else as_text(message, "message"),
            "created_at": now_naive() if created_at is None else _moment(created_at),
        }
        if better is not None:
            one_of("better", better, BETTER)
        if metric is not None and metric not in found and metric != "success_rate":
            one_of("metric", metric, [*found, "success_rate"])
        told = {"metadata": metadata, "tags": list(tags), "message": message, "parameters": parameters}
        check_guard(engine, {name: value for name, value in told.items() if value})
        _store(engine, row, tables, found, metric, better, champion)
    except NirsStoreError as error:
        note(engine, "record_evaluation", "evaluation", str(identifier), success=False, message=str(error))
        raise
    note(
        engine, "record_evaluation", "evaluation", identifier, details={"model_id": model_id, "suite": suite}
    )
    return identifier


def _store(
    engine: Engine,
    row: dict[str, Any],
    tables: Mapping[str, pl.DataFrame],
    found: Mapping[str, float | None],
    metric: str | None,
    better: str | None,
    champion: bool,
) -> None:
    # Before any file is written; and again in the transaction, where nobody can come in between.
    engine.query(lambda con: _check(con, row, found, metric, better))
    blobs: dict[str, tuple[str, dict[str, Any]]] = {}
    # The session's row comes before any claim of its.
    with engine.recording():
        pass
    with ExitStack() as held:
        for what, table in tables.items():
            data = to_parquet(table)
            artifact_id = sha256_hex(data)
            # Claim first, look second: a gc that did not see the claim has moved the file away by now.
            held.enter_context(engine.recorder.claiming(artifact_id))
            info = engine.blobs.put(data, "parquet", digest=artifact_id)
            row[f"{what}_id"] = artifact_id
            known = {
                "artifact_path": info.path,
                "content_hash": artifact_id,
                "operator_class": "polars.DataFrame",
                "artifact_type": TABLE_TYPE,
                "format": "parquet",
                "size_bytes": info.size,
            }
            blobs[artifact_id] = what, known
        engine.blobs.wait(list(blobs))

        def write(con: Connection) -> None:
            row["metric"], row["better"] = _check(con, row, found, metric, better)
            rows.add_evaluation(con, row)
            for artifact_id, (_, known) in blobs.items():
                rows.hold_blob(con, row["evaluation_id"], artifact_id, known)
            # That of its chain follows from its row.
            rows.link_sources(con, row["evaluation_id"], _file_sources(row))
            if champion and row["status"] == "completed":
                crown(con, row | {"scores": dict(found)})

        def work(access: CatalogAccess) -> None:
            access.transact(write)

        engine.exclusive(work)
    if blobs:
        engine.recorder.release_claims()


def _file_sources(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    from nirs_store.catalog.values import from_json

    return [("file", version_id) for version_id in from_json(row["files"]) or ()]


def _check(
    con: Connection,
    row: Mapping[str, Any],
    found: Mapping[str, float | None],
    metric: str | None,
    better: str | None,
) -> tuple[str, str]:
    """Check against what is recorded already; gives the metric that ranks and its direction."""
    _check_owners(con, row)
    chosen = _metric(con, row, found, metric)
    said = rows.directions(con, row["suite"], chosen)
    if better is not None and said is not None and better != said:
        raise InvalidInput(
            f"better: in the suite {row['suite']!r} {said!r} is better for {chosen!r}, found {better!r}. Nothing was "
            "recorded; use another suite, or another name for the score."
        )
    return chosen, better_of(chosen, better or said)


def _check_owners(con: Connection, row: Mapping[str, Any]) -> None:
    for kind in ("run", "chain"):
        identifier = row[f"{kind}_id"]
        if identifier is not None and not rows.exists(con, kind, identifier):
            raise UnknownId(kind, identifier, "Nothing was recorded.")
    if rows.exists(con, "evaluation", row["evaluation_id"]):
        raise InvalidInput(
            f"evaluation_id: {row['evaluation_id']!r} is recorded already. Nothing was changed; give another id, or "
            "none."
        )


def _metric(
    con: Connection, row: Mapping[str, Any], found: Mapping[str, float | None], asked: str | None
) -> str:
    """The score that counts: what was asked for, what the suite goes by, else the first one."""
    if asked is not None:
        return asked
    before = rows.suite_metric(con, row["suite"])
    if before is not None and (before[0] in found or before[0] == "success_rate"):
        return before[0]
    for name in (*_GLOBAL, *found):
        if name in found:
            return name
    return "success_rate"


def _scores(scores: Any) -> dict[str, float | None]:
    if isinstance(scores, Mapping):
        found = {
            as_text(name, "scores"): as_float(value, f"scores[{name!r}]") for name, value in scores.items()
        }
    else:
        found = {"score": as_float(scores, "scores")}
    if not found or all(value is None for value in found.values()):
        raise InvalidInput(
            "scores: expected a number, or a mapping of names to numbers with at least one; found none. "
            "Nothing was recorded."
        )
    return {name: None if value is None or math.isnan(value) else value for name, value in found.items()}


def _rate(given: float | None, episodes: pl.DataFrame | None) -> float | None:
    rate = as_float(given, "success_rate")
    if rate is None and episodes is not None and "success" in episodes.columns:
        column = episodes["success"]
        if column.dtype == pl.Boolean or column.dtype.is_numeric():
            mean = column.cast(pl.Float64).mean()
            rate = mean if isinstance(mean, float) else None
    if rate is not None and not 0 <= rate <= 1:
        raise InvalidInput(
            f"success_rate: expected a share between 0 and 1, found {rate!r}. Nothing was recorded."
        )
    return rate


def _name(value: Any, name: str) -> str:
    text = as_text(value, name)
    if not text.strip():
        raise InvalidInput(f"{name}: expected a name, found {value!r}. Nothing was recorded.")
    return text


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise InvalidInput(f"{name}: expected a list of texts, found {values!r}. Nothing was recorded.")
    return list(values)


def _moment(value: Any) -> Any:
    if not hasattr(value, "astimezone"):
        raise InvalidInput(f"created_at: expected a datetime, found {value!r}. Nothing was recorded.")
    return naive(value)
