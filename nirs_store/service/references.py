"""Reference values of the laboratory: added later and repeatedly, corrected with their history, joined by sample id."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from nirs_store.audit.trail import attempting, moment
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.display import counted
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId, quoted
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records.notes import add_note, check_guard, note
from nirs_store.records.queries import frame
from nirs_store.service.log import clean_ids, user_name
from nirs_store.service.statistics import replicate_error
from nirs_store.values import as_array, as_name, is_frame, native, one_of

Combine = Literal["mean", "median", "latest"]

#: Rows that were not corrected or withdrawn since, as a table `r`; of two corrections of one row (of two transactions,
#: or of an older version of the library) the later one counts.
CURRENT = (
    "(SELECT * FROM sample_references WHERE value IS NOT NULL AND reference_id NOT IN "
    "(SELECT replaces FROM sample_references WHERE replaces IS NOT NULL UNION ALL "
    "SELECT reference_id FROM sample_references WHERE replaces IS NOT NULL "
    "QUALIFY row_number() OVER (PARTITION BY replaces ORDER BY added_at DESC, reference_id DESC) > 1))"
)
#: How replicates of a sample become one value, as SQL.
COMBINED = {
    "mean": "avg(r.value)",
    "median": "median(r.value)",
    "latest": "arg_max(r.value, (coalesce(r.measured_at, r.added_at), r.reference_id))",
}
# Targets are compared without case, as monitoring does.
_OF_TARGET = "($target::VARCHAR IS NULL OR lower(r.target) = lower($target))"
Ids = list[str]
Rows = list[dict[str, Any]]
_FIELDS = ("target", "unit", "lab", "method", "measured_at", "note")
_EXISTING = ("refuse", "skip", "add")


class References:
    """Reference values of a store, as ``store.references``.

    Several values of one sample and target are replicates: monitoring uses their mean by default, and computes the
    standard error of the laboratory (SEL) from them.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     _ = store.references.add("4711", [18.1, 18.5], target="fat", lab="north")
    ...     _ = store.references.add("4711", 18.9, target="fat", lab="south")
    ...     store.references.combined("fat").select("sample_id", "value", "n").rows()
    [('4711', 18.5, 3)]
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        sample_id: Any,
        value: Any,
        *,
        target: str | None = None,
        unit: str | None = None,
        lab: str | None = None,
        method: str | None = None,
        measured_at: Any = None,
        note: str | None = None,
    ) -> Ids:
        """Add the value of a sample, or several replicates at once.

        Parameters
        ----------
        sample_id : str
            The name that predictions of the sample are logged with.
        value : float or sequence of float
            In the unit of the calibration.
        target : str, optional
            The determined property, such as ``"fat"``. A value without a target is used only for samples that were
            predicted for one target.
        unit : str, optional
            Its unit; if the calibration has another unit, monitoring leaves the value out and says so.
        lab, method, note : str, optional
            Who determined it, how, and free text.
        measured_at : datetime, date or ISO 8601 text, optional
            When it was determined; UTC if no time zone is given.

        Returns
        -------
        list of str
            An id for each value.

        Raises
        ------
        InvalidInput, ForbiddenContent
            Nothing was recorded.
        """
        with attempting(self._engine, "add_reference"):
            name = clean_ids([sample_id], 1)[0]
            given = [value] if np.ndim(value) == 0 else list(value)
            about = {"target": target, "unit": unit, "lab": lab, "method": method, "measured_at": measured_at}
            rows = [_row(name, each, about | {"note": note}, "value") for each in given]
            if not rows:
                raise InvalidInput("value: expected a number; found an empty list. Nothing was recorded.")
            return self._write(rows)

    def add_many(
        self,
        table: Any,
        *,
        sample_id: str | None = None,
        value: str | None = None,
        target: str | None = None,
        unit: str | None = None,
        lab: str | None = None,
        method: str | None = None,
        measured_at: Any = None,
        existing: str = "refuse",
    ) -> Ids:
        """Add the values of a data frame, or of a CSV, Excel or Parquet file.

        Parameters
        ----------
        table : data frame, path, or `nirs_store.reading.Spectra`
            One row per value. The columns ``target, unit, lab, method, measured_at, note`` are used if present; a row
            without a value is left out.
        sample_id, value : str, optional
            Names of the columns with the names of the samples and the values. By default ``sample_id`` (or ``id``,
            ``sample``), and ``value`` or the column named like `target`.
        target, unit, lab, method, measured_at : optional
            For all rows, if the table has no such column.
        existing : {"refuse", "skip", "add"}
            What to do with rows that are already stored unchanged. A file that is added twice must not count as
            replicates, so it is refused by default; "add" stores its rows as replicates.

        Returns
        -------
        list of str
            Ids of what was added.

        Raises
        ------
        InvalidInput
            A column is missing, a value is not a number, or rows are stored already. Nothing was recorded.
        """
        with attempting(self._engine, "add_reference"):
            one_of("existing", existing, _EXISTING)
            about = {"target": target, "unit": unit, "lab": lab, "method": method, "measured_at": measured_at}
            rows = _rows_of(table, sample_id, value, about)
            if existing == "add":
                return self._write(rows)
            self._guard(rows)
            return self._decide(lambda con: _new(con, rows, existing))

    def plan_many(
        self,
        table: Any,
        *,
        sample_id: str | None = None,
        value: str | None = None,
        target: str | None = None,
        unit: str | None = None,
        lab: str | None = None,
        method: str | None = None,
        measured_at: Any = None,
    ) -> pl.DataFrame:
        """Return the rows that `add_many` would read from a table, and record nothing; parameters as there.

        Returns
        -------
        polars.DataFrame
            ``sample_id, value, target, unit, lab, method, measured_at, note``; ``stored``, whether the
            same row is already stored; and ``measured``, the number of logged predictions of the sample.

        Raises
        ------
        InvalidInput
            A column is missing, or a value is not a number.
        """
        about = {"target": target, "unit": unit, "lab": lab, "method": method, "measured_at": measured_at}
        rows = _rows_of(table, sample_id, value, about)
        placed = [{**row, "place": place} for place, row in enumerate(rows)]
        new = self._engine.query(lambda con: _new(con, placed, "skip"))
        left = {row["place"] for row in new}
        sql = (
            "SELECT sample_id, count(*) FROM measurements WHERE list_contains($names, sample_id) AND role = 'reported' "
            "GROUP BY sample_id"
        )
        names = sorted({str(row["sample_id"]) for row in rows})
        logged = self._engine.query(lambda con: dict(con.execute(sql, {"names": names}).fetchall()))
        schema: dict[str, Any] = {"sample_id": pl.String, "value": pl.Float64}
        schema |= dict.fromkeys(_FIELDS, pl.String) | {"measured_at": pl.Datetime("us")}
        found = pl.DataFrame(rows, schema=schema, orient="row")
        return found.with_columns(
            stored=pl.Series([place not in left for place in range(len(rows))]),
            measured=pl.Series([logged.get(row["sample_id"], 0) for row in rows], dtype=pl.Int64),
        )

    def correct(self, reference_id: str, value: Any, reason: str) -> str:
        """Replace a value, and return the id of the new one; the old value stays in the history.

        Raises
        ------
        UnknownId
            No current value has that id.
        InvalidInput
            The value is not a number, or no reason was given.
        """
        return self._replace(
            reference_id,
            reason,
            lambda old: _row(old["sample_id"], value, {name: old[name] for name in _FIELDS}, "value"),
        )

    def withdraw(self, reference_id: str, reason: str) -> None:
        """Take a value out of use; it stays in the history.

        Raises
        ------
        UnknownId, InvalidInput
        """

        def emptied(old: Mapping[str, Any]) -> dict[str, Any]:
            row = {name: old[name] for name in ("sample_id", *_FIELDS)}
            return row | {"measured_at": moment(row["measured_at"], "measured_at"), "value": None}

        self._replace(reference_id, reason, emptied)

    def _replace(
        self, reference_id: str, reason: str, new: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> str:
        """Record what replaces a current row, and return its id."""
        with attempting(self._engine, "correct_reference"):
            asked, why = as_name(reference_id, "reference_id"), as_name(reason, "reason")
            check_guard(self._engine, {"references": [{"note": why}]})
            return self._decide(
                lambda con: [new(_current(con, asked)) | {"replaces": asked, "note": why}],
                "correct_reference",
            )[0]

    def list(
        self, sample_id: Any = None, *, target: str | None = None, history: bool = False
    ) -> pl.DataFrame:
        """List values in the order in which they were added.

        Parameters
        ----------
        sample_id, target : optional
            Only those of them.
        history : bool
            Include values that were corrected or withdrawn; ``replaces`` gives the id of the corrected value.
        """
        name = None if sample_id is None else clean_ids([sample_id], 1)[0]
        table = "sample_references" if history else CURRENT
        sql = (
            f"SELECT r.* FROM {table} r WHERE ($sample::VARCHAR IS NULL OR r.sample_id = $sample) "
            f"AND {_OF_TARGET} ORDER BY r.added_at, r.reference_id"
        )
        return self._engine.query(lambda con: frame(con, sql, {"sample": name, "target": target}))

    def combined(self, target: str | None = None, *, combine: Combine = "mean") -> pl.DataFrame:
        """Return the combined value, the number of replicates and their spread, one row per sample and target.

        Parameters
        ----------
        target : str, optional
            Only this one.
        combine : {"mean", "median", "latest"}
            How to combine replicates.
        """
        one_of("combine", combine, get_args(Combine))
        sql = (
            f"SELECT r.sample_id, min(r.target) AS target, {COMBINED[combine]} AS value, count(*) AS n, "
            f"stddev_samp(r.value) AS sd FROM {CURRENT} r WHERE {_OF_TARGET} GROUP BY r.sample_id, lower(r.target) "
            "ORDER BY ALL"
        )
        return self._engine.query(lambda con: frame(con, sql, {"target": target}))

    def sel(self, target: str | None = None) -> tuple[float, int]:
        """Return the standard error of the laboratory from replicates, and its degrees of freedom (0 without any)."""
        rows = self.list(target=target)
        if not rows.height:
            return float("nan"), 0
        named = rows.select(
            pl.concat_str(
                pl.col("sample_id"), pl.col("target").str.to_lowercase().fill_null(""), separator="\n"
            )
        )
        return replicate_error(rows["value"].to_numpy(), named.to_series().to_numpy())

    def _guard(self, rows: Rows) -> None:
        names = ("sample_id", "target", "lab", "method", "note")
        check_guard(self._engine, {"references": [{name: row.get(name) for name in names} for row in rows]})

    def _decide(self, choose: Callable[[Connection], Rows], operation: str = "add_reference") -> Ids:
        """Record the rows that are chosen, where the choice depends on what is stored already."""
        if self._engine.recorder.in_transaction:
            # Committed with the transaction or not at all.
            return self._write(self._engine.query(choose), operation)

        def work(con: Connection) -> Ids:
            # Chosen under the lock: what another process records meanwhile is chosen after this is stored.
            rows = _whole(choose(con))
            Table(con, "sample_references").insert(rows)
            if rows:
                one, facts = _told(rows)
                note(self._engine, operation, None, one, details=facts, con=con)
            return [row["reference_id"] for row in rows]

        return self._engine.change(work)

    def _write(self, rows: Rows, operation: str = "add_reference") -> Ids:
        if not rows:
            return []
        self._guard(rows)
        whole = _whole(rows)
        with self._engine.recording(commit=True) as buffer:
            for row in whole:
                buffer.add("sample_references", row)
            one, facts = _told(whole)
            add_note(self._engine, buffer, operation, None, one, details=facts)
        return [row["reference_id"] for row in whole]

    def __repr__(self) -> str:
        return f"<reference values of {self._engine.layout.root}>"


def _whole(rows: Rows) -> Rows:
    """Return rows as they are stored: each with an id, a time and a user."""
    same = {"added_at": now_naive(), "added_by": user_name()}
    return [{**row, **same, "reference_id": new_id()} for row in rows]


def _told(rows: Rows) -> tuple[str | None, dict[str, int]]:
    """Return what the audit trail says about stored rows: the id of a single one, and how many they are."""
    facts = {"values": len(rows), "samples": len({row["sample_id"] for row in rows})}
    return (rows[0]["reference_id"] if len(rows) == 1 else None), facts


def _current(con: Connection, reference_id: str) -> dict[str, Any]:
    found = frame(con, f"SELECT r.* FROM {CURRENT} r WHERE r.reference_id = $id", {"id": reference_id})
    if not found.height:
        raise UnknownId(
            "reference", reference_id,
            "It was never added, or was corrected since; list(history=True) shows it.",
        )  # fmt: skip
    return found.row(0, named=True)


def _new(con: Connection, rows: Rows, existing: str) -> Rows:
    """Return the rows that are not stored yet."""
    names = sorted({str(row["sample_id"]) for row in rows})
    told = ("sample_id", "value", "target", "unit", "lab", "method", "measured_at")
    sql = f"SELECT DISTINCT {', '.join(told)} FROM {CURRENT} r WHERE list_contains($names, sample_id)"
    there = set(con.execute(sql, {"names": names}).fetchall())
    new = [row for row in rows if tuple(row[name] for name in told) not in there]
    if len(new) < len(rows) and existing == "refuse":
        raise InvalidInput(
            f"Stored already, word for word: {len(rows) - len(new)} of {counted(len(rows), 'row')}. Nothing was "
            "recorded. existing='skip' leaves them out, existing='add' takes them as replicates."
        )
    return new


def _row(name: str | None, value: Any, about: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a checked row."""
    if name is None:
        raise InvalidInput(f"{where}: expected the name of a sample; found none. Nothing was recorded.")
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInput(
            f"{where}: expected a finite number; found {value!r} ({name}). Nothing was recorded."
        )
    row: dict[str, Any] = {"sample_id": name, "value": number}
    for field in _FIELDS:
        given = about.get(field)
        if field == "measured_at":
            row[field] = moment(given, field)
        else:
            # A laboratory may be a number in a table.
            said = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
            row[field] = None if said is None else as_name(said, field).strip()
    return row


def _rows_of(table: Any, sample_id: str | None, value: str | None, about: Mapping[str, Any]) -> Rows:
    """Read the rows of a table that have a value."""
    found = _read(table)
    ids = _column(found, sample_id, ("sample_id", "id", "sample"), "sample_id")
    target = about["target"]
    values = _column(found, value, ("value", *((target,) if target else ())), "value")
    if target is None and values != "value" and "target" not in found.columns:
        target = values
    fixed = {**about, "target": target}
    _refuse_text(found[values], values)
    rows = []
    for place, row in enumerate(found.iter_rows(named=True), 1):
        if not _is_missing(row[values]):
            own = {name: row[name] if name in row else fixed.get(name) for name in _FIELDS}
            rows.append(_row(clean_ids([row[ids]], 1)[0], row[values], own, f"row {place}, {values}"))
    if not rows:
        raise InvalidInput("The table has no row with a value. Nothing was recorded.")
    return rows


def _refuse_text(column: pl.Series, name: str) -> None:
    """Name the cell that made text of a column of numbers, such as "<0.5"; its other cells may be numbers."""
    from nirs_store.reading.cells import is_missing, parse_number

    if column.dtype != pl.String:
        return
    for place, cell in enumerate(column.to_list(), 1):
        if cell and not is_missing(cell) and parse_number(cell) is parse_number(cell, ",") is None:
            raise InvalidInput(
                f"row {place}, {name}: expected a number; found {quoted(cell)}. Nothing was recorded. Write a number "
                "there, or leave the cell empty to leave the row out."
            )


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _read(table: Any) -> pl.DataFrame:
    """Return a table as polars, from a frame or a file."""
    from nirs_store.reading import Spectra
    from nirs_store.reading.collect import read_labels

    if isinstance(table, Spectra):
        frame_ = table.references
        return (
            frame_ if table.ids is None else frame_.with_columns(sample_id=pl.Series(table.ids.astype(str)))
        )
    if isinstance(table, (str, Path)):
        return read_labels(Path(table))
    given = native(table, "table")
    if isinstance(given, pl.DataFrame):
        return given
    if is_frame(given):
        converted: pl.DataFrame = pl.from_pandas(given)
        return converted
    if isinstance(given, Mapping):
        if len({np.size(values) for values in given.values()}) > 1:
            raise ShapeMismatch("table: its columns have different lengths. Nothing was recorded.")
        return pl.DataFrame({name: as_array(values, name).tolist() for name, values in given.items()})
    if isinstance(given, Iterable):
        return pl.DataFrame(list(given))
    raise InvalidInput(f"table: expected a data frame or a file; found {type(table).__name__}.")


def _column(table: pl.DataFrame, named: str | None, usual: Iterable[str], what: str) -> str:
    """Return the name of a column, compared without case."""
    known = {name.casefold(): name for name in table.columns}
    if named is not None:
        return one_of(what, named, table.columns)
    found = next((known[name.casefold()] for name in usual if name.casefold() in known), None)
    if found is None:
        raise InvalidInput(
            f"{what}: no column is called {' or '.join(usual)}; found {', '.join(table.columns)}. Say which one: "
            f"{what}=... Nothing was recorded."
        )
    return found
