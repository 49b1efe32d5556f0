"""The audit trail: who did what to this workspace and when, as a chain of hashes that shows any edit."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, cast

from nirs_store.addresses import refuse_address, user_path
from nirs_store.audit.guard import GuardRules, store_setting
from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.db.changes import Break, Head, head_of, read_head, verify_chain
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.errors import InvalidInput, NirsStoreError, UnknownFormat, did_you_mean
from nirs_store.ids import naive, utcnow
from nirs_store.lazy import polars as pl
from nirs_store.reading.cells import safe_cell
from nirs_store.records import notes as audit_notes
from nirs_store.records.named import find_version, is_name
from nirs_store.records.notes import check_guard, note
from nirs_store.records.queries import frame, page_of

OBJECT_KINDS = (
    "run", "pipeline", "chain", "prediction", "artifact", "file", "dataset", "bundle", "evaluation", "processing",
    "backup", "archive", "file_type", "workspace", "calibration",
)  # fmt: skip
"""What entries, links and pins can be about."""

EXPORTED = (
    "number", "made_at", "user", "host", "pid", "operation", "object_kind", "object_id", "success", "message",
    "details", "previous_hash", "entry_hash",
)  # fmt: skip
_COLUMNS = ", ".join("user_name AS user" if name == "user" else name for name in EXPORTED)
_BATCH = 4096


def check_kind(kind: Any) -> str:
    """Return a kind of object, or an error that names the nearest."""
    if kind not in OBJECT_KINDS:
        hint = did_you_mean(kind, OBJECT_KINDS)
        raise InvalidInput(f"Unknown kind {kind!r}: expected one of {', '.join(OBJECT_KINDS)}.{hint}")
    return str(kind)


def moment(value: Any, name: str) -> datetime | None:
    """Return a moment (datetime, date, or ISO 8601 text; without a zone it is UTC) for comparison."""
    value = _plain_time(value)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidInput(
                f"{name}: expected a moment such as 2026-03-01T12:00, found {value!r}."
            ) from error
    if isinstance(value, datetime):
        try:
            return naive(value)
        except OverflowError as error:
            raise InvalidInput(f"{name}: {value} is outside the years 1 to 9999 of UTC.") from error
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    raise InvalidInput(f"{name}: expected a datetime, date or ISO 8601 text, found {type(value).__name__}.")


def _plain_time(value: Any) -> Any:
    """Return a moment of numpy or pandas as the standard library has it; "not a time" is None."""
    if type(value).__module__.partition(".")[0] not in ("numpy", "pandas"):
        return value
    if getattr(getattr(value, "dtype", None), "kind", "") == "M":
        return None if value != value else value.astype("datetime64[us]").item()
    if hasattr(value, "to_pydatetime"):
        # NaT is a datetime, and equals nothing.
        return None if value != value else value.to_pydatetime(warn=False)
    return value


#: Every operation that this version notes.
OPERATIONS = (
    "add_dataset", "delete_dataset", "export_dataset", "get_dataset", "select_dataset",
    "archive", "backup", "begin_pipeline", "begin_run", "cleanup", "cleanup_old_tests", "complete_pipeline",
    "complete_run", "declare_type", "delete", "delete_evaluation", "delete_prediction", "delete_run",
    "add_domain", "delete_calibration", "delete_pipeline", "delete_chain", "edit_run", "empty_trash", "restore_trash",
    "set_trash",
    "end_processing", "export_audit", "export_chain", "fail_pipeline", "fail_run", "find_champions", "gc",
    "get", "import_bundle", "link", "load_artifact", "log_metric", "log_step", "pin", "predictor", "purge_artifacts",
    "put", "put_group", "replay_chain",
    "record_evaluation", "register_calibration", "remove_alias", "remove_backup", "repair",
    "restore_archive", "restore_backup", "retention", "save_artifact",
    "save_chain", "save_prediction", "save_prediction_arrays", "set_alias", "set_champion", "set_guard",
    "add_reference", "challenge", "correct_calibration", "correct_reference", "delete_measurements", "end_challenge",
    "retire_correction", "set_retention", "set_rule", "set_status", "sign", "start_processing",
    "switch_audit", "unlink", "unpin", "vacuum",
)  # fmt: skip


def _check_operations(con: Connection, operation: Any) -> None:
    """Refuse an operation that is neither noted by this version nor in the trail."""
    for name in (operation,) if isinstance(operation, str) else operation:
        if name in OPERATIONS:
            continue
        # What another version of this library noted can be asked for as well.
        there = [
            str(row[0]) for row in con.execute("SELECT DISTINCT operation FROM audit_entries").fetchall()
        ]
        if name not in there:
            known = sorted({*OPERATIONS, *there})
            hint = did_you_mean(name, known)
            raise InvalidInput(
                f"operation: there is none called {name!r}.{hint} It is one of {', '.join(known)}."
            )


_FILTERS = {
    "operation": "list_contains($operation, operation)",
    "success": "success = $success",
    "object_kind": "object_kind = $object_kind",
    "object_id": "object_id = $object_id",
    "user": "user_name = $user",
    "since": "made_at >= $since",
    "until": "made_at < $until",
}


def _where(con: Connection, filters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Check filters as `Audit.query` takes them; return the condition and its parameters."""
    params = {name: value for name, value in filters.items() if value is not None}
    if "operation" in params:
        _check_operations(con, params["operation"])
        given = params["operation"]
        params["operation"] = [given] if isinstance(given, str) else list(given)
    if "object_kind" in params:
        check_kind(params["object_kind"])
    for name in ("since", "until"):
        if name in params:
            params[name] = moment(params[name], name)
    return " AND ".join(["TRUE", *(_FILTERS[name] for name in params)]), params


def audit_frame(
    con: Connection, *, limit: int | None, offset: int = 0, newest_first: bool = False, **filters: Any
) -> pl.DataFrame:
    """Entries that fit, in order of their number."""
    where, params = _where(con, filters)
    order = "DESC" if newest_first else "ASC"
    return frame(
        con,
        f"SELECT {_COLUMNS} FROM audit_entries WHERE {where} ORDER BY number {order} LIMIT $limit OFFSET $offset",
        params | page_of(limit, offset),
    )


def audit_rows(con: Connection, *, by_month: bool, **filters: Any) -> Iterator[dict[str, Any]]:
    """Entries that fit, one after the other, however many; months first where that is asked."""
    # Entries are numbered as they reach the catalog: around the end of a month that need not be their time.
    where, params = _where(con, filters)
    cursor = con.cursor()
    try:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM store.audit_entries WHERE {where} ORDER BY "
            f"{'date_trunc($month, made_at), ' if by_month else ''}number",
            params | ({"month": "month"} if by_month else {}),
        )
        names = [str(column[0]) for column in cursor.description or ()]
        while rows := cursor.fetchmany(_BATCH):
            for row in rows:
                yield dict(zip(names, row, strict=True))
    finally:
        cursor.close()


_CONTAINERS = {
    "chain": (
        ("pipeline", "SELECT pipeline_id FROM chains WHERE chain_id = $id"),
        ("run", "SELECT p.run_id FROM chains c JOIN pipelines p USING (pipeline_id) WHERE c.chain_id = $id"),
    ),
    "prediction": (
        ("chain", "SELECT chain_id FROM predictions WHERE prediction_id = $id"),
        ("pipeline", "SELECT pipeline_id FROM predictions WHERE prediction_id = $id"),
        (
            "run",
            "SELECT p.run_id FROM predictions d JOIN pipelines p USING (pipeline_id) WHERE d.prediction_id = $id",
        ),
    ),
    "pipeline": (("run", "SELECT run_id FROM pipelines WHERE pipeline_id = $id"),),
    "calibration": (("chain", "SELECT chain_id FROM calibration_versions WHERE version_id = $id"),),
}


def history(con: Connection, kind: str, identifier: str, *, related: bool) -> pl.DataFrame:
    """Entries about an object, and about the pipeline and run that it belongs to."""
    check_kind(kind)
    if kind in ("chain", "calibration") and isinstance(identifier, str) and is_name(identifier):
        row = find_version(con, identifier)
        identifier = str(row["chain_id" if kind == "chain" else "version_id"])
    parts = [f"object_kind = '{kind}' AND object_id = $id"]
    for container, sql in _CONTAINERS.get(kind, ()) if related else ():
        parts.append(f"object_kind = '{container}' AND object_id IN ({sql})")
    where = " OR ".join(f"({part})" for part in parts)
    return frame(
        con, f"SELECT {_COLUMNS} FROM audit_entries WHERE {where} ORDER BY number", {"id": identifier}
    )


def errors_by_operation(con: Connection) -> dict[str, tuple[int, int]]:
    """Entries and failed ones among them, by operation, most failures first."""
    rows = con.execute(
        "SELECT operation, count(*), count(*) FILTER (NOT success) AS failed FROM audit_entries "
        "GROUP BY operation ORDER BY failed DESC, operation"
    ).fetchall()
    return {str(row[0]): (int(row[1]), int(row[2])) for row in rows}


# -- Writing the audit trail to files: JSON, CSV, or JSON lines a month.


FORMATS = ("json", "jsonl", "csv")


def export_entries(
    engine: Engine, path: Path, format: str, since: Any, until: Any
) -> tuple[list[Path], Head]:
    """Write the entries; returns the files and the head of the trail at that moment."""
    if format not in FORMATS:
        hint = did_you_mean(format, FORMATS)
        raise UnknownFormat(
            f"format: expected one of {', '.join(FORMATS)}, found {format!r}.{hint} Nothing was written."
        )
    refuse_address(path, "path")
    if format != "jsonl" and path.is_dir():
        raise InvalidInput(f"{path} is a folder; name the file to write. Nothing was written.")
    if format == "jsonl" and path.is_file():
        raise InvalidInput(
            f"{path} is a file; name a folder, which gets one file per month. Nothing was written."
        )

    def ask(con: Connection) -> tuple[list[Path], Head]:
        head = head_of(con)
        rows = audit_rows(con, by_month=format == "jsonl", since=since, until=until)
        return _write(path, format, map(_plain, rows), head), head

    return engine.query(ask)


def _write(path: Path, format: str, rows: Iterator[dict[str, Any]], head: Head) -> list[Path]:
    if format == "jsonl":
        ensure_dir(path)
        written = []
        for month, entries in groupby(rows, key=lambda row: row["made_at"][:7]):
            target = path / f"audit_{month.replace('-', '')}.jsonl"
            write_file(target, (f"{_json(entry)}\n".encode() for entry in entries))
            written.append(target)
        return written
    ensure_dir(path.parent)
    write_file(path, _csv(rows) if format == "csv" else _document(rows, head))
    return [path]


def _document(rows: Iterable[dict[str, Any]], head: Head) -> Iterator[bytes]:
    top = {"exported_at": utcnow().isoformat(), "head": head._asdict()}
    yield f'{_json(top)[:-1]}, "entries": ['.encode()
    for place, row in enumerate(rows):
        yield f"{',' if place else ''}\n{_json(row)}".encode()
    yield b"\n]}\n"


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.DictWriter(text, EXPORTED, lineterminator="\n")
    writer.writeheader()
    yield text.getvalue().encode()
    for row in rows:
        text.seek(0)
        text.truncate()
        cells = {**row, "details": None if row["details"] is None else _json(row["details"])}
        writer.writerow(
            {key: safe_cell(cell) if isinstance(cell, str) else cell for key, cell in cells.items()}
        )
        yield text.getvalue().encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    at: datetime = row["made_at"]
    details = row["details"]
    return {
        **row,
        "made_at": at.replace(tzinfo=UTC).isoformat(timespec="microseconds"),
        "details": None if details is None else json.loads(details),
    }


# -- What verifying the audit trail found, and the heads that it is compared with.


@dataclass(frozen=True)
class AuditReport:
    """What verifying the trail found.

    Attributes
    ----------
    entries : int
    head : Head
        The last entry.
    breaks : tuple of Break
        Entries that were altered, replaced or removed; the first twenty.
    kept_head : bool
        Whether it was compared with the head that this workspace keeps.
    outside_head : bool
        Whether it was compared with a head that was kept elsewhere. Without that, entries that were removed from the
        end, together with the head that the workspace keeps, cannot be noticed.
    """

    entries: int
    head: Head
    breaks: tuple[Break, ...] = ()
    kept_head: bool = False
    outside_head: bool = False

    @property
    def ok(self) -> bool:
        """Whether the trail is whole."""
        return not self.breaks

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "ok": self.ok,
            "entries": self.entries,
            "head": self.head._asdict(),
            "breaks": [found._asdict() for found in self.breaks],
            "kept_head": self.kept_head,
            "outside_head": self.outside_head,
        }

    def __str__(self) -> str:
        if self.ok:
            found = f"{self.entries:,} entries, head {self.head.entry_hash[:12]}"
            if self.outside_head:
                return f"The audit trail is whole: {found}, compared with a head kept elsewhere."
            if self.kept_head:
                return (
                    f"The audit trail is whole: {found}. It agrees with the head that the workspace keeps; only one "
                    "kept elsewhere (`nirs-store audit head`) shows entries that were removed together with that."
                )
            return (
                f"No entry that is there was altered: {found}. No kept head was there to compare with, so it cannot be "
                "told whether the last entries were removed. Give one kept elsewhere (`nirs-store audit head`)."
            )
        lines = [f"entry {found.number}: {found.reason}" for found in self.breaks]
        return "\n".join(
            [*lines, f"The audit trail is broken in {len(lines)} places ({self.entries:,} entries)."]
        )


def as_head(given: Any) -> Head:
    """Take what `Audit.head` gave, also as it comes back from JSON."""
    try:
        if isinstance(given, Mapping):
            return Head(int(given["number"]), str(given["entry_hash"]))
        number, digest = given
        return Head(int(number), str(digest))
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidInput(
            f"head: expected what head() gave (number and entry_hash), found {given!r}."
        ) from error


F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def attempting(
    engine: Engine, operation: str, kind: str | None = None, identifier: object = None
) -> Iterator[None]:
    """Note an error that leaves the block, once an error."""
    try:
        yield
    except (NirsStoreError, OSError) as error:
        audit_notes.note_failure(engine, error, operation, kind, identifier)
        raise


def attempted(operation: str, kind: str | None = None) -> Callable[[F], F]:
    """Decorate a method of something with an ``_engine``: an error that leaves it is noted."""
    # With a `kind`, the first argument is the id of what the call is about.

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Not by `attempting`: recording a prediction comes this way.
            try:
                return method(self, *args, **kwargs)
            except (NirsStoreError, OSError) as error:
                subject = next(iter((*args, *kwargs.values())), None) if kind is not None else None
                audit_notes.note_failure(self._engine, error, operation, kind, subject)
                raise

        return cast(F, call)

    return decorate


def guarded(
    engine: Engine,
    operation: str,
    values: Mapping[str, Any],
    object_kind: str | None = None,
    object_id: str | None = None,
) -> None:
    """Refuse arguments (by name) that the workspace's guard forbids, and note the attempt."""
    with attempting(engine, operation, object_kind, object_id):
        check_guard(engine, values)


class Audit:
    """The audit trail of a store, as ``store.audit``.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     with store.run("corn") as run:
    ...         store.tag_run(run.run_id, "calibration")
    ...     store.audit.history("run", run.run_id)["operation"].to_list()
    ...     store.audit.verify().ok
    ['begin_run', 'edit_run', 'complete_run']
    True
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine, *, store: object = None) -> None:
        self._engine = engine
        # Held, so that a store which nothing else holds is not closed under its view.
        self._store = store

    @property
    def guard(self) -> GuardRules:
        """What must not be stored in metadata, notes and tags."""
        return GuardRules(self._engine)

    @property
    def enabled(self) -> bool:
        """Whether what this store does is noted now."""
        return audit_notes.auditing(self._engine, ask=True)

    @property
    def reads(self) -> bool:
        """Whether replays, and reads of models and files, are noted too."""
        setting = self._engine.rules(ask=True).get("audit") or {}
        return self.enabled and bool(setting.get("reads"))

    def switch(self, on: bool, *, reads: bool = False) -> None:
        """Switch the trail of this workspace on or off, for every process; both are noted.

        Parameters
        ----------
        on : bool
            Whether changes are noted.
        reads : bool
            Also note reads: replays (`replay_chain`), predictors, fitted objects and files that are handed out. Each
            costs a row in the next commit of the store that reads.
        """
        if not isinstance(on, bool) or not isinstance(reads, bool) or (reads and not on):
            raise InvalidInput(
                f"on, reads: expected True or False, and reads only with on=True; found {on!r}, {reads!r}. "
                "Nothing was changed."
            )
        # The note that it was switched off has to come before, the one that it was switched on after.
        store_setting(
            self._engine,
            "audit",
            lambda _: ({"reads": True} if reads else None) if on else {"enabled": False},
            "switch_audit",
            {"on": on} | ({"reads": True} if reads else {}),
        )

    # -- asking --------------------------------------------------------------------------------------

    def query(
        self,
        operation: str | Sequence[str] | None = None,
        success: bool | None = None,
        since: Any = None,
        until: Any = None,
        object_kind: str | None = None,
        object_id: str | None = None,
        *,
        user: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        newest_first: bool = False,
    ) -> pl.DataFrame:
        """Return the entries that match all filters, oldest first.

        Parameters
        ----------
        operation : str or sequence of str, optional
        success : bool, optional
            False: what was refused or failed.
        since, until : datetime, date or ISO 8601 text, optional
            From `since` on, before `until`; without a zone they are UTC.
        object_kind, object_id : str, optional
        user : str, optional
        limit, offset : int
        newest_first : bool

        Returns
        -------
        polars.DataFrame
            ``number``, ``made_at``, ``user``, ``host``, ``pid``, ``operation``, ``object_kind``, ``object_id``,
            ``success``, ``message``, ``details`` (JSON), ``previous_hash``, ``entry_hash``.

        Raises
        ------
        InvalidInput
            An unknown operation or kind (the nearest is named), or no moment.
        """
        filters = {
            "operation": operation,
            "success": success,
            "since": since,
            "until": until,
            "object_kind": object_kind,
            "object_id": object_id,
            "user": user,
        }
        return self._engine.query(
            lambda con: audit_frame(con, limit=limit, offset=offset, newest_first=newest_first, **filters)
        )

    def history(self, kind: str, identifier: str, *, related: bool = True) -> pl.DataFrame:
        """Return what became of an object: entries about it, and (with `related`) about what it belongs to.

        A chain belongs to its pipeline and run, whose entries tell when it was recorded.
        """
        return self._engine.query(lambda con: history(con, kind, identifier, related=related))

    # -- handing out and verifying ----------------------------------------------------------------------

    def head(self) -> Head:
        """Return number and hash of the last entry; keep it elsewhere, and `verify` shows what is missing since.

        It is also written into the workspace, where every later check expects it, unless the store has ``audit=False``.
        """
        head = self._engine.query(head_of)
        self._keep(head)
        return head

    def export(
        self, path: str | Path, format: str = "json", *, since: Any = None, until: Any = None
    ) -> list[Path]:
        """Write entries to a file, with their hashes, and hand out the head.

        Parameters
        ----------
        path : path
            The file; for ``"jsonl"`` a folder, which gets one file per month, ``audit_YYYYMM.jsonl``.
        format : {"json", "jsonl", "csv"}
        since, until : datetime, date or ISO 8601 text, optional

        Returns
        -------
        list of Path
            The files that were written.

        Raises
        ------
        UnknownFormat
            The message names the nearest format. Nothing was written.
        InvalidInput, WriteFailed
        """
        engine = self._engine
        with attempting(engine, "export_audit", "workspace"):
            written, head = export_entries(engine, user_path(path), format, since, until)
        self._keep(head)
        note(
            engine,
            "export_audit",
            "workspace",
            details={"format": format, "files": len(written), "head": head.number},
        )
        return written

    def verify(self, head: Head | Sequence[Any] | Mapping[str, Any] | None = None) -> AuditReport:
        """Recompute the whole chain of hashes.

        Parameters
        ----------
        head : Head, (number, hash) or mapping, optional
            A head that was handed out earlier and kept elsewhere. The last one that this workspace keeps is
            always looked for.

        Returns
        -------
        AuditReport
            With ``ok``; prints itself.
        """
        kept = read_head(self._engine.layout)
        given = None if head is None else as_head(head)

        def ask(con: Connection) -> AuditReport:
            entries, breaks = verify_chain(con, [each for each in (kept, given) if each is not None])
            return AuditReport(
                entries,
                head_of(con),
                tuple(breaks),
                kept_head=kept is not None,
                outside_head=given is not None,
            )

        return self._engine.query(ask)

    def _keep(self, head: Head) -> None:
        # A store that was opened to look at notes nothing, this neither.
        if self._engine.writable and self._engine.settings.audit:
            write_file(self._engine.layout.audit_head, json.dumps(head._asdict()).encode())

    def __repr__(self) -> str:
        on = audit_notes.auditing(self._engine)
        return f"<audit trail of {self._engine.layout.root}, {'on' if on else 'off'}>"
