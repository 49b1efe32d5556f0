"""Reading a source batch by batch, every row already in the form in which it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from nirs_store.db.database import Connection
from nirs_store.db.journal import encode_array
from nirs_store.db.schema import arrow_schema, column_names
from nirs_store.db.sql import incoming, number
from nirs_store.db.table import Table
from nirs_store.ids import now_naive, sha256_hex
from nirs_store.migration.artifacts import Nirs4allArtifacts
from nirs_store.migration.chains import ChainRows, chain_row
from nirs_store.migration.reading import Nirs4allArrays, Nirs4allSource, read_arrays
from nirs_store.migration.report import Notes
from nirs_store.migration.rows import (
    Unusable,
    identifier,
    json_value,
    log_row,
    pipeline_row,
    prediction_row,
    run_row,
)

# -- Rows that arrive from elsewhere with ids and moments of their own: each once, however often it comes.


# Rows that a person may have deleted since they arrived: those stay away.
_MAY_BE_DEAD = ("runs", "pipelines", "chains", "predictions", "prediction_arrays")


def key_of(table: str) -> str:
    """Return the column by which a table's rows are known."""
    return column_names(table)[0]


def insert_missing(con: Connection, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert the rows whose key is neither there nor deleted, inside the caller's transaction."""
    key = key_of(table)
    unique = {row[key]: dict(row) for row in rows}
    if not unique:
        return 0
    schema = arrow_schema(table)
    columns = ", ".join(schema.names)
    alive = ""
    if table in _MAY_BE_DEAD:
        alive = f" AND NOT EXISTS (SELECT 1 FROM dead d WHERE d.id = i.{key} AND d.kind = 'deleted')"
    with incoming(con) as arriving:
        arriving.rows = pa.Table.from_pylist(list(unique.values()), schema=schema)
        return number(
            con,
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {arriving.name} i "
            f"WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.{key} = i.{key}){alive}",
        )


def existing(con: Connection, table: str, ids: Sequence[str]) -> set[str]:
    """Those of some keys that a table has."""
    return set(Table(con, table).keys(**{key_of(table): list(ids)}))


def stored_rows(con: Connection, table: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows by key, as they are stored: JSON as text, moments without a zone."""
    names = column_names(table)
    sql = f"SELECT {', '.join(names)} FROM {table} WHERE {names[0]} IN (SELECT unnest(?))"
    return {
        str(row[0]): dict(zip(names, row, strict=True)) for row in con.execute(sql, [list(ids)]).fetchall()
    }


Present = Callable[[str, Sequence[str]], set[str]]
"""Tells which keys of a table the target has."""

T = TypeVar("T")
_BATCH = 1000
_CHAINS = 50


@dataclass
class Batch:
    """Rows of one table that belong into one transaction."""

    kind: str
    table: str
    found: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    references: list[dict[str, Any]] = field(default_factory=list)
    arrays: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """Keys of the rows."""
        return [row[key_of(self.table)] for row in self.rows]


class Import:
    """Everything that a source has, in an order in which parents come first."""

    def __init__(
        self, source: Nirs4allSource, notes: Notes, session_id: str, *, unpickle: bool = False
    ) -> None:
        self._source = source
        self._notes = notes
        self._session_id = session_id
        self._configs: dict[str, Any] = {}
        self.artifacts = Nirs4allArtifacts(source, notes, unpickle=unpickle)
        self.totals = {table: source.count(table) for table in ("runs", "pipelines", "chains", "predictions")}
        self.totals |= {"arrays": self.totals["predictions"], "logs": source.count("logs")}

    def batches(self, present: Present) -> Iterator[Batch]:
        """Yield batch after batch; `present` is asked for the parents of the next, so each must have arrived."""
        source, session_id = self._source, self._session_id
        projects = {str(row["project_id"]): str(row["name"]) for row in source.rows("projects")}
        yield from self._rows("runs", lambda row: run_row(row, session_id, projects, source.generation))
        yield from self._rows("pipelines", self._pipeline, "runs", present)
        yield from self._chains(present)
        yield from self._predictions(present)
        yield from self._arrays(present)
        yield from self._rows("logs", log_row, "pipelines", present)

    def _rows(
        self,
        table: str,
        convert: Callable[[Mapping[str, Any]], dict[str, Any]],
        parent: str | None = None,
        present: Present | None = None,
    ) -> Iterator[Batch]:
        """Return the rows of a table; of those that need a parent, the ones whose parent has arrived."""
        for rows in _in_batches(self._source.rows(table), _BATCH):
            batch = Batch(table, table, len(rows))
            batch.rows = list(self._converted(table, rows, convert))
            if parent is not None and present is not None:
                key = key_of(parent)
                there = present(parent, sorted({row[key] for row in batch.rows}))
                batch.rows = [row for row in batch.rows if self._has(table, row, key, there)]
            yield batch

    def _has(self, table: str, row: Mapping[str, Any], key: str, there: set[str]) -> bool:
        if row[key] in there:
            return True
        self._notes.add(table, f"its {key.removesuffix('_id')} was not brought over", row[key_of(table)])
        return False

    def _converted(
        self, table: str, rows: Iterable[Mapping[str, Any]], convert: Callable[[Mapping[str, Any]], T]
    ) -> Iterator[T]:
        for row in rows:
            try:
                yield convert(row)
            except Unusable as reason:
                self._notes.add(table, str(reason), str(row.get(key_of(table))))

    def _chains(self, present: Present) -> Iterator[Batch]:
        for rows in _in_batches(self._source.rows("chains"), _CHAINS):
            batch = Batch("chains", "chains", len(rows))
            there = present("pipelines", sorted({str(row.get("pipeline_id")) for row in rows}))
            for chain in self._converted("chains", rows, self._chain):
                if not self._has("chains", chain.row, "pipeline_id", there):
                    continue
                batch.rows.append(chain.row)
                batch.artifacts |= chain.artifacts
                batch.references += [
                    self._reference(chain.row, sha, name) for sha, name in chain.artifacts.items()
                ]
                for reason in chain.reasons:
                    self._notes.add("chains", reason, chain.row["chain_id"])
            yield batch

    def _chain(self, row: Mapping[str, Any]) -> ChainRows:
        return chain_row(row, self._configured(str(row.get("pipeline_id"))), self.artifacts)

    def _pipeline(self, row: Mapping[str, Any]) -> dict[str, Any]:
        # Chains come later, and are read with the steps of their pipeline at hand.
        self._configs[str(row.get("pipeline_id"))] = row.get("expanded_config")
        return pipeline_row(row, self._session_id)

    def _configured(self, pipeline_id: str) -> list[Any]:
        """Return the configured steps of a pipeline."""
        try:
            config = json_value(self._configs.get(pipeline_id))
        except Unusable:
            return []
        steps = config.get("steps") if isinstance(config, Mapping) else config
        return steps if isinstance(steps, list) else []

    def _reference(self, chain: Mapping[str, Any], sha: str, artifact_id: str) -> dict[str, Any]:
        operator_class, artifact_type = self.artifacts.facts(artifact_id)
        return {
            # The same for each migration, so that a chain never holds an artifact twice.
            "ref_id": sha256_hex(f"{chain['chain_id']}\n{sha}".encode())[:32],
            "artifact_id": sha,
            "owner_kind": "chain",
            "owner_id": chain["chain_id"],
            "pipeline_id": chain["pipeline_id"],
            "operator_class": operator_class,
            "artifact_type": artifact_type,
            "created_at": chain["created_at"] or now_naive(),
        }

    def _predictions(self, present: Present) -> Iterator[Batch]:
        for batch in self._rows("predictions", prediction_row, "pipelines", present):
            chains = present("chains", sorted({row["chain_id"] for row in batch.rows if row["chain_id"]}))
            for row in batch.rows:
                if row["chain_id"] and row["chain_id"] not in chains:
                    reason = "its chain was not brought over; it came over without"
                    self._notes.add("predictions", reason, row["prediction_id"])
                    row["chain_id"] = None
            yield batch

    def _arrays(self, present: Present) -> Iterator[Batch]:
        for found in _in_batches(read_arrays(self._source), _BATCH):
            batch = Batch("arrays", "prediction_arrays", len(found))
            there = present("predictions", [one.prediction_id for one in found])
            for one in found:
                if one.prediction_id not in there:
                    self._notes.add("arrays", "their prediction was not brought over", one.prediction_id)
                    continue
                for name in one.misfits:
                    reason = (
                        f"{name} does not have one entry per sample (nirs4all keeps weights of folds there)"
                    )
                    self._notes.add("arrays", reason, one.prediction_id)
                for name in one.unplaced:
                    self._notes.add("arrays", f"{name} has no counterpart", one.prediction_id)
                row, stored = _array_row(one)
                batch.rows.append(row)
                batch.arrays += stored
            yield batch


def _array_row(one: Nirs4allArrays) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    row: dict[str, Any] = {"prediction_id": identifier(one.prediction_id)}
    stored = []
    for name, values in one.arrays.items():
        key, dtype, shape, data = encode_array(values, name)[0]
        row[name] = key
        stored.append({"array_hash": key, "dtype": dtype, "shape": shape, "data": data})
    return row, stored


def _in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
