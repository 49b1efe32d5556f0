"""Opening the catalog of a nirs4all workspace, of either generation, without touching it.

Versions 0.7 and 0.8.0 keep ``store.duckdb``; from 0.8.5 on it is ``store.sqlite``. SQLite is asked to take the
file for immutable, so that it makes no lock and no journal next to it; where a journal lies there already, which
an immutable reader would ignore, a copy elsewhere is opened instead.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nirs_store.errors import CatalogDamaged, ForeignCatalog, InvalidInput, NotAWorkspace, StoreBusy

# The tables that are read, with the key of each table. Parents first.
TABLES = {
    "runs": "run_id",
    "pipelines": "pipeline_id",
    "chains": "chain_id",
    "predictions": "prediction_id",
    "prediction_arrays": "prediction_id",
    "artifacts": "artifact_id",
    "logs": "log_id",
    "projects": "project_id",
}
# Tables of results that have no counterpart here; only counted.
OTHER_TABLES = ("conformal_results", "tuning_results", "robustness_results")
_NEEDED = frozenset({"runs", "pipelines", "chains", "predictions", "artifacts", "logs"})
_BATCH = 2000
_ALIAS = "theirs"


class _Database(Protocol):
    columns: str
    """SQL that lists every table with its columns, in their order."""

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]: ...

    def close(self) -> None: ...


class _DuckDB:
    columns = (
        f"SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = '{_ALIAS}' AND table_name IN "
        f"(SELECT table_name FROM duckdb_tables() WHERE database_name = '{_ALIAS}') ORDER BY table_name, column_index"
    )

    def __init__(self, path: Path) -> None:
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "temp_directory": "",
        }
        # Attached and not opened: functions that a write-ahead log of nirs4all's calls are there only then.
        self._con = duckdb.connect(":memory:", config=config)
        try:
            name = str(path).replace("'", "''")
            self._con.execute(f"ATTACH '{name}' AS {_ALIAS} (READ_ONLY)")
            self._con.execute("SET enable_external_access = false")
        except duckdb.Error as error:
            self._con.close()
            text = str(error)
            if "lock" in text.lower():
                raise StoreBusy(
                    f"{path} is open in another program: {text} Nothing was read. Close it there and try again."
                ) from error
            raise NotAWorkspace(f"{path} cannot be read as a DuckDB database: {text}") from error

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        # A cursor of its own: several tables are read at the same time.
        with closing(self._con.cursor()) as cursor:
            cursor.execute(f"USE {_ALIAS}")
            cursor.execute(sql)
            while batch := cursor.fetchmany(_BATCH):
                yield from batch

    def close(self) -> None:
        self._con.close()


class _SQLite:
    columns = (
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c "
        "WHERE m.type = 'table' ORDER BY m.name, c.cid"
    )

    def __init__(self, path: Path) -> None:
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        journals = [path.with_name(path.name + ending) for ending in ("-wal", "-journal")]
        try:
            if any(journal.exists() and journal.stat().st_size for journal in journals):
                self._copy = tempfile.TemporaryDirectory(prefix="nirs_store-")
                for part in (path, *journals):
                    if part.exists():
                        shutil.copyfile(part, Path(self._copy.name) / part.name)
                self._con = sqlite3.connect(Path(self._copy.name) / path.name)
            else:
                address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
                self._con = sqlite3.connect(address, uri=True)
            self._con.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            self._clean()
            raise NotAWorkspace(f"{path} cannot be read as an SQLite database: {error}") from error

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        with closing(self._con.execute(sql)) as cursor:
            yield from cursor

    def close(self) -> None:
        self._con.close()
        self._clean()

    def _clean(self) -> None:
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None


class Nirs4allSource:
    """A nirs4all workspace, open for reading."""

    def __init__(self, root: Path, catalog: Path, database: _Database) -> None:
        self.root = root
        self.catalog = catalog
        self._database = database
        self._columns: dict[str, list[str]] = {}
        for table, column in database.rows(database.columns):
            self._columns.setdefault(str(table), []).append(str(column))
        kind = "DuckDB" if catalog.suffix == ".duckdb" else "SQLite"
        self.generation = kind if "prediction_arrays" in self._columns else f"{kind} + Parquet"
        self._before = _stamp(catalog)

    def has(self, table: str) -> bool:
        """Whether the catalog has a table."""
        return table in self._columns

    def columns(self, table: str) -> list[str]:
        """Names of a table's columns; none when there is no such table."""
        return self._columns.get(table, [])

    def count(self, table: str) -> int:
        """Rows of a table; 0 when there is no such table."""
        if not self.has(table):
            return 0
        return int(next(self._database.rows(f"SELECT count(*) FROM {_known(table)}"))[0])

    def filled(self, table: str, columns: Sequence[str]) -> dict[str, int]:
        """How many rows have something in each of some columns; those with none are left out."""
        there = [column for column in columns if column in self.columns(table)]
        if not there:
            return {}
        sums = ", ".join(f"count({_quoted(column)})" for column in there)
        counts = next(self._database.rows(f"SELECT {sums} FROM {_known(table)}"))
        return {column: int(n) for column, n in zip(there, counts, strict=True) if n}

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """Every row of a table as a dict; in the order of its key, but for arrays, which are too large to sort."""
        if not self.has(table):
            return
        names = self.columns(table)
        wanted = ", ".join(_quoted(name) for name in names)
        order = "" if table == "prediction_arrays" else f" ORDER BY {TABLES[_known(table)]}"
        for row in self._database.rows(f"SELECT {wanted} FROM {_known(table)}{order}"):
            yield dict(zip(names, row, strict=True))

    def check_unchanged(self) -> None:
        """Make sure that no process wrote to the catalog while it was read."""
        if _stamp(self.catalog) != self._before:
            raise StoreBusy(
                f"{self.catalog} was written to while it was read. Wait until nirs4all has finished and run the "
                "migration again; what has arrived already is kept."
            )


@contextmanager
def open_source(folder: Path) -> Iterator[Nirs4allSource]:
    """Open a nirs4all workspace for reading."""
    if not folder.is_dir():
        raise NotAWorkspace(f"{folder} is not a folder, so it is not a nirs4all workspace. Nothing was read.")
    # A workspace that nirs4all itself converted has both files; the older one is its backup.
    for name, opener in (("store.sqlite", _SQLite), ("store.duckdb", _DuckDB)):
        catalog = folder / name
        if catalog.is_file():
            with closing(opener(catalog)) as database:
                source = Nirs4allSource(folder, catalog, database)
                _check_tables(source)
                yield source
            return
    raise NotAWorkspace(
        f"{folder} is not a nirs4all workspace: it has neither store.sqlite nor store.duckdb. Nothing was read. "
        "Name the folder that was given to nirs4all as workspace_path (often called 'workspace')."
    )


def tombstones(folder: Path) -> frozenset[str]:
    """Predictions whose arrays nirs4all has deleted but not yet taken out of its files."""
    path = folder / "arrays" / "_tombstones.json"
    if not path.is_file():
        return frozenset()
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}. Nothing was migrated from it.") from error
    return frozenset(str(name) for name in found) if isinstance(found, dict | list) else frozenset()


def _check_tables(source: Nirs4allSource) -> None:
    if source.has("nirs_store_meta"):
        raise ForeignCatalog(
            f"{source.root} is a nirs_store workspace already; there is nothing to migrate. Open it as it is."
        )
    missing = sorted(table for table in _NEEDED if not source.has(table))
    if missing:
        raise ForeignCatalog(
            f"{source.catalog} is not the catalog of a nirs4all workspace: it has no tables {', '.join(missing)}. "
            "Nothing was read."
        )


def _known(table: str) -> str:
    if table not in TABLES and table not in OTHER_TABLES:
        raise KeyError(table)
    return table


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _stamp(path: Path) -> list[tuple[int, int]]:
    """Time and size of a catalog and of the log next to it, in which SQLite may put what is new."""
    there = [part for part in (path, path.with_name(path.name + "-wal")) if part.exists()]
    return [(part.stat().st_mtime_ns, part.stat().st_size) for part in there]


# -- The arrays of nirs4all's predictions: from a table of lists, or from its Parquet files.


_NUMBERS = {
    **dict.fromkeys(("y_true", "y_pred", "y_proba"), np.float64),
    "sample_indices": np.int32,
    "weights": np.float64,
}
# Other columns of the Parquet files; they have no place in a prediction here.
UNPLACED = ("X", "spectra", "sample_metadata", "result_metadata")
_ROWS = 1000


class Nirs4allArrays(NamedTuple):
    """The arrays of one prediction."""

    prediction_id: str
    arrays: dict[str, NDArray[Any]]
    misfits: tuple[str, ...]
    unplaced: tuple[str, ...]


def read_arrays(source: Nirs4allSource) -> Iterator[Nirs4allArrays]:
    """Return the arrays of every prediction once; of several versions the last, as nirs4all does."""
    for row in source.rows("prediction_arrays"):
        yield _arrays_of(row)
    files = sorted((source.root / "arrays").glob("*.parquet"))
    deleted = tombstones(source.root)
    last = {str(row["prediction_id"]): place for place, row in _versions(files, ["prediction_id"])}
    for place, row in _versions(files, None):
        prediction_id = str(row["prediction_id"])
        if last[prediction_id] == place and prediction_id not in deleted:
            yield _arrays_of(row)


def _versions(
    files: Sequence[Path], columns: list[str] | None
) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """Return every row of the files with its place; of one prediction, a later one takes the place of those before."""
    for number, path in enumerate(files):
        places = count()
        for batch in _batches(path, columns):
            for row in batch.to_pylist():
                yield (number, next(places)), row


def _batches(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            yield from file.iter_batches(batch_size=_ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise CatalogDamaged(
            f"{path} cannot be read: {error}. The migrated part is kept; restore the file and run the "
            "migration again."
        ) from error


def _arrays_of(row: Mapping[str, Any]) -> Nirs4allArrays:
    found: dict[str, NDArray[Any]] = {}
    for name, kind in _NUMBERS.items():
        labels = row.get(f"{name}_labels")
        if isinstance(labels, str):
            found[name] = _labels(labels, str(row["prediction_id"]))
        elif row.get(name) is not None:
            found[name] = values = np.array(row[name], dtype=kind)
            shape = [int(length) for length in row.get(f"{name}_shape") or ()]
            if shape and math.prod(shape) == values.size:
                found[name] = values.reshape(shape)
    misfits = _fit(found)
    unplaced = tuple(name for name in UNPLACED if row.get(name) is not None)
    return Nirs4allArrays(str(row["prediction_id"]), found, misfits, unplaced)


def _fit(found: dict[str, NDArray[Any]]) -> tuple[str, ...]:
    """Give every array one entry per sample; take out, and name, those that cannot have one."""
    indices = found.get("sample_indices")
    known = [len(found[name]) for name in ("y_true", "y_pred") if name in found]
    n_samples = len(indices) if indices is not None and len(indices) else min(known, default=0)
    misfits = []
    for name, values in list(found.items()):
        # Older versions keep tables as flat lists, without their shape.
        flat = values.ndim == 1 and name in ("y_true", "y_pred", "y_proba")
        if flat and n_samples and values.size > n_samples and values.size % n_samples == 0:
            values = found[name] = values.reshape(n_samples, -1)
        if len(values) != n_samples:
            misfits.append(name)
            del found[name]
    return tuple(misfits)


def _labels(text: str, prediction_id: str) -> NDArray[Any]:
    try:
        coded = json.loads(text)
        kind = np.str_ if coded["label_type"] == "str" else np.int64
        vocabulary = np.array(coded["vocabulary"], dtype=kind)
        return np.asarray(vocabulary[np.array(coded["indices"], dtype=np.int64)].reshape(coded["shape"]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CatalogDamaged(
            f"The labels of prediction {prediction_id!r} in the source cannot be read: {error!r}. The migrated part "
            "is kept."
        ) from error
