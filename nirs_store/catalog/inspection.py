"""What `check` asks: the catalog as it lies, with the rows of pending commits beside it.

Nothing is written: pending rows become temporary tables of the in-memory connection that the
catalog is attached to. Only columns that every schema version has are named, so an older catalog
can be checked before its migration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from nirs_store.catalog.apply import DRAGS, OWNERS
from nirs_store.catalog.schema import CATALOG_ALIAS, SCHEMA_VERSION
from nirs_store.catalog.segments import Segment
from nirs_store.errors import CatalogDamaged

__all__ = [
    "BlobRow",
    "ChainRow",
    "Dangling",
    "Inspection",
    "Reference",
]

_ARRAYS = ("y_true", "y_pred", "y_proba", "sample_indices", "weights")

# The columns that are asked for; the bytes of arrays stay where they are.
_ASKED: dict[str, tuple[str, ...]] = {
    "sessions": ("session_id",),
    "runs": ("run_id",),
    "pipelines": ("pipeline_id", "run_id"),
    "chains": (
        "chain_id", "pipeline_id", "steps", "model_step_idx", "fold_artifacts", "shared_artifacts",
        "branch_path", "source_index", "fold_weights", "wavelengths",
    ),
    "predictions": ("prediction_id", "pipeline_id", "chain_id"),
    "arrays": ("array_hash",),
    "prediction_arrays": ("prediction_id", "pipeline_id", *_ARRAYS),
    "blobs": ("artifact_id", "artifact_path", "content_hash", "size_bytes"),
    "artifact_refs": ("ref_id", "artifact_id", "owner_kind", "owner_id", "pipeline_id"),
    "artifact_records": ("record_id", "pipeline_id", "artifact_id"),
    "artifact_links": ("link_id", "record_id", "artifact_id", "pipeline_id"),
    "logs": ("log_id", "pipeline_id"),
    "file_versions": ("version_id", "artifact_id"),
    "evaluations": ("evaluation_id", "episodes_id", "samples_id"),
}  # fmt: skip

# child, its key, the column that names the parent, the parent, the parent's key
_RELATIONS = (
    ("pipelines", "pipeline_id", "run_id", "runs", "run_id"),
    ("chains", "chain_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("predictions", "prediction_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("predictions", "prediction_id", "chain_id", "chains", "chain_id"),
    ("prediction_arrays", "prediction_id", "prediction_id", "predictions", "prediction_id"),
    ("logs", "log_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("artifact_records", "record_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("artifact_links", "link_id", "record_id", "artifact_records", "record_id"),
)


class Dangling(NamedTuple):
    """A row whose parent is not there."""

    table: str
    key: str
    column: str
    parent: str


class ChainRow(NamedTuple):
    """What tells which artifacts a chain needs; JSON columns as text."""

    chain_id: str
    steps: str
    model_step_idx: int
    fold_artifacts: str | None
    shared_artifacts: str | None
    branch_path: str | None
    source_index: int | None
    fold_weights: str | None


class BlobRow(NamedTuple):
    """An artifact and its file."""

    artifact_id: str
    path: str
    content_hash: str
    size: int


class Reference(NamedTuple):
    """Who holds an artifact."""

    ref_id: str
    artifact_id: str
    owner_kind: str
    owner_id: str


class Inspection:
    """Questions to a catalog that is open read-only, and to the commits that it has not got yet.

    Parameters
    ----------
    con
        The catalog, attached read-only.
    segments
        Pending commits in their order. Those that were applied already do not count, and neither do rows
        that applying would drop because their owner was deleted.

    Raises
    ------
    CatalogDamaged
        From every method: the rows that it asks for cannot be read.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, segments: Sequence[Segment]) -> None:
        self._con = con
        self._waiting: set[str] = set()
        self._lacking = self._older_than()
        if segments:
            applied = {str(row[0]) for row in self._rows("SELECT txid FROM applied")}
            self._lay_beside([segment for segment in segments if segment.txid not in applied])

    def _older_than(self) -> set[str]:
        """Tables that came after this catalog was made: an older one is checked as it is.

        DuckDB's list of tables takes ten times as long as any other question here, so it is not asked of a catalog
        of the present version; what that lacks, it has lost.
        """
        with contextlib.suppress(CatalogDamaged):  # said by whoever asks for the version itself
            if self.version() == SCHEMA_VERSION:
                return set()
        listed = "SELECT table_name FROM duckdb_tables() WHERE database_name = ?"
        return set(_ASKED) - {str(row[0]) for row in self._rows(listed, [CATALOG_ALIAS])}

    def _lay_beside(self, segments: list[Segment]) -> None:
        deleted = bool(self._rows("SELECT 1 FROM dead LIMIT 1"))
        if deleted:
            self._rows("CREATE TEMP TABLE gone AS SELECT id, kind FROM dead")
        for table, columns in _ASKED.items():
            parts = [s.tables[table].select(list(columns)) for s in segments if table in s.tables]
            if not parts:
                continue
            self._waiting.add(table)
            if not deleted:
                self._con.register(f"waiting_{table}", pa.concat_tables(parts))
                continue
            self._con.register("incoming", pa.concat_tables(parts))
            try:
                dropped = " OR ".join(
                    f"EXISTS (SELECT 1 FROM gone g WHERE g.id = i.{column} AND g.kind = '{kind}')"
                    for column, kind in OWNERS.get(table, ())
                    if column in columns
                )
                dropped = dropped or "FALSE"
                drag = DRAGS.get(table)
                self._rows(
                    f"CREATE TEMP TABLE waiting_{table} AS SELECT * FROM incoming i WHERE NOT ({dropped})"
                )
                if drag is not None:
                    self._rows(f"INSERT INTO gone SELECT i.{drag}, 'deleted' FROM incoming i WHERE {dropped}")
            finally:
                self._con.unregister("incoming")

    def _all(self, table: str) -> str:
        """A table with its pending rows."""
        columns = ", ".join(_ASKED[table])
        own = f"SELECT {columns} FROM {table}"
        if table in self._lacking:
            nothing = ", ".join(f"NULL::VARCHAR AS {column}" for column in _ASKED[table])
            own = f"SELECT {nothing} WHERE FALSE"
        if table not in self._waiting:
            return f"({own})"
        return f"({own} UNION ALL SELECT {columns} FROM waiting_{table})"

    def _rows(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        try:
            return self._con.execute(sql, params if params is not None else []).fetchall()
        except duckdb.Error as error:
            raise CatalogDamaged(f"the catalog cannot be read: {error}") from error

    def version(self) -> int:
        """Schema version of the catalog."""
        return int(self._rows("SELECT value FROM nirs_store_meta WHERE key = 'schema_version'")[0][0])

    # -- counts --------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Rows of each table that people record, pending ones included."""
        parts = (
            # A pending row may repeat one that is there: the same array, artifact or session.
            f"SELECT '{table}', count(DISTINCT {columns[0]}) FROM {self._all(table)}"
            if table in self._waiting
            else f"SELECT '{table}', count(*) FROM {table}"
            for table, columns in _ASKED.items()
            if table in self._waiting or table not in self._lacking
        )
        return {str(table): int(count) for table, count in self._rows(" UNION ALL ".join(parts))}

    def dropped(self) -> dict[str, int]:
        """Rows dropped so far because what they belong to was deleted, by table."""
        rows = self._rows("SELECT table_name, sum(rows) FROM dropped GROUP BY ALL ORDER BY ALL")
        return {str(table): int(count) for table, count in rows}

    def deferred(self) -> list[tuple[str, str]]:
        """Changes whose row never came: what was to be done, and to which id."""
        return [
            (str(kind), str(ident))
            for kind, ident in self._rows(
                "SELECT kind, id FROM deferred d WHERE "
                f"NOT EXISTS (SELECT 1 FROM {self._all('runs')} r WHERE r.run_id = d.id) AND "
                f"NOT EXISTS (SELECT 1 FROM {self._all('pipelines')} p WHERE p.pipeline_id = d.id) "
                "ORDER BY number, position"
            )
        ]

    # -- rows that belong together -------------------------------------------------------------

    def dangling(self) -> list[Dangling]:
        """Rows whose parent is neither in the catalog nor pending."""
        parts = (
            f"SELECT '{child}', c.{key}, '{column}', c.{column} FROM {self._all(child)} c "
            f"WHERE c.{column} IS NOT NULL AND NOT EXISTS "
            f"(SELECT 1 FROM {self._all(parent)} p WHERE p.{parent_key} = c.{column})"
            for child, key, column, parent, parent_key in _RELATIONS
        )
        return [Dangling(*map(str, row)) for row in self._rows(" UNION ALL ".join(parts) + " ORDER BY ALL")]

    def missing_arrays(self) -> list[str]:
        """Hashes that predictions or chains name and no row of `arrays` has."""
        return [
            str(row[0])
            for row in self._rows(
                f"SELECT DISTINCT h FROM {self._array_uses()} u WHERE NOT EXISTS "
                f"(SELECT 1 FROM {self._all('arrays')} a WHERE a.array_hash = u.h) ORDER BY h"
            )
        ]

    def users_of_array(self, array_hash: str) -> list[str]:
        """Ids of the predictions and chains that name an array."""
        return [
            str(row[0])
            for row in self._rows(
                f"SELECT DISTINCT owner FROM {self._array_uses()} WHERE h = ? ORDER BY owner",
                [array_hash],
            )
        ]

    def _array_uses(self) -> str:
        names = ", ".join(_ARRAYS)
        return (
            f"(SELECT h, owner FROM (SELECT unnest([{names}]) AS h, prediction_id AS owner "
            f"FROM {self._all('prediction_arrays')} UNION ALL "
            f"SELECT wavelengths, chain_id FROM {self._all('chains')}) WHERE h IS NOT NULL)"
        )

    # -- artifacts -----------------------------------------------------------------------------

    def chains(self) -> Iterator[ChainRow]:
        """All chains, ordered by id."""
        columns = ", ".join(ChainRow._fields)
        for row in self._rows(f"SELECT {columns} FROM {self._all('chains')} ORDER BY chain_id"):
            yield ChainRow(*row)

    def blobs(self) -> list[BlobRow]:
        """All artifacts that have a row."""
        return [
            BlobRow(str(ident), str(path), str(digest), int(size))
            for ident, path, digest, size in self._rows(
                "SELECT artifact_id, first(artifact_path), first(content_hash), first(size_bytes) "
                f"FROM {self._all('blobs')} GROUP BY artifact_id ORDER BY artifact_id"
            )
        ]

    def references(self) -> list[Reference]:
        """All references."""
        return [
            Reference(*map(str, row))
            for row in self._rows(
                "SELECT DISTINCT ref_id, artifact_id, owner_kind, owner_id "
                f"FROM {self._all('artifact_refs')} ORDER BY ref_id"
            )
        ]

    def recorded(self) -> dict[str, list[str]]:
        """Artifacts that records of the artifact layer hold: their own, and those that they need."""
        found: dict[str, list[str]] = {}
        for record, artifact in self._rows(
            f"SELECT record_id, artifact_id FROM {self._all('artifact_records')} UNION "
            f"SELECT l.record_id, l.artifact_id FROM {self._all('artifact_links')} l "
            f"JOIN {self._all('artifact_records')} r USING (record_id) ORDER BY ALL"
        ):
            found.setdefault(str(record), []).append(str(artifact))
        return found

    def filed(self) -> dict[str, list[str]]:
        """Artifacts that versions of files hold."""
        return {
            str(version): [str(artifact)]
            for version, artifact in self._rows(
                f"SELECT version_id, artifact_id FROM {self._all('file_versions')} "
                "WHERE artifact_id IS NOT NULL ORDER BY version_id"
            )
        }

    def evaluated(self) -> dict[str, list[str]]:
        """Tables of episodes and samples that evaluations hold."""
        return {
            str(row[0]): [str(artifact) for artifact in row[1:] if artifact is not None]
            for row in self._rows(
                f"SELECT evaluation_id, episodes_id, samples_id FROM {self._all('evaluations')} "
                "WHERE coalesce(episodes_id, samples_id) IS NOT NULL ORDER BY evaluation_id"
            )
        }

    def missing_sessions(self) -> list[str]:
        """Sessions that hold artifacts and have no row."""
        return [
            str(row[0])
            for row in self._rows(
                f"SELECT DISTINCT owner_id FROM {self._all('artifact_refs')} r WHERE owner_kind = 'session' "
                f"AND NOT EXISTS (SELECT 1 FROM {self._all('sessions')} s WHERE s.session_id = r.owner_id) "
                "ORDER BY owner_id"
            )
        ]
