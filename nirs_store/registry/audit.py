"""The audit trail: who did what to this workspace and when, as a chain of hashes that shows any edit."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nirs_store.blobs.durable import write_file
from nirs_store.catalog import audit_notes, audit_queries
from nirs_store.catalog.access import Connection
from nirs_store.catalog.audit_rows import Head, head_of, verify_chain
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.guard import check_guard
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.lazily import later
from nirs_store.lazily import polars as pl
from nirs_store.registry.guard import GuardRules, store_setting

if TYPE_CHECKING:
    from nirs_store.registry import audit_export, audit_report
else:
    audit_export = later("nirs_store.registry.audit_export")
    audit_report = later("nirs_store.registry.audit_report")

__all__ = ["Audit", "Head", "attempted", "attempting", "guarded", "note"]

F = TypeVar("F", bound=Callable[..., Any])


def note(
    engine: Engine,
    operation: str,
    object_kind: str | None = None,
    object_id: str | None = None,
    *,
    success: bool = True,
    message: str | None = None,
    details: Mapping[str, Any] | None = None,
    con: Connection | None = None,
) -> None:
    """Note an operation, or a refused attempt, in the audit trail.

    Parameters
    ----------
    engine : Engine
        Of the open store. One that is read-only, closed or opened with ``audit=False`` takes no notes.
    operation : str
        A verb and what it is done to: ``"put_file"``.
    object_kind, object_id : str, optional
        What it is about; kinds as in `nirs_store.catalog.audit_queries.OBJECT_KINDS`.
    success : bool
        False for what was refused or failed. Such a note stays when the transaction around it is given up.
    message : str, optional
        Why it failed, or a remark.
    details : mapping, optional
        Plain data.
    con : Connection, optional
        Inside a transaction of the catalog: the note becomes a part of that transaction. Otherwise it is
        recorded as everything else, in the commit of this thread that comes next.
    """
    audit_notes.note(
        engine,
        operation,
        object_kind,
        object_id,
        success=success,
        message=message,
        details=details,
        con=con,
    )


def attempting(
    engine: Engine, operation: str, kind: str | None = None, identifier: object = None
) -> _Attempt:
    """Make a context that notes an error that leaves it, once an error."""
    return _Attempt(engine, operation, kind, identifier)


class _Attempt:
    def __init__(self, engine: Engine, operation: str, kind: str | None, identifier: object) -> None:
        self._about = (engine, operation, kind, identifier)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if isinstance(error, (NirsStoreError, OSError)):
            engine, operation, about, identifier = self._about
            audit_notes.note_failure(engine, error, operation, about, identifier)


def attempted(operation: str, kind: str | None = None) -> Callable[[F], F]:
    """Decorate a method of something with an ``_engine``: an error that leaves it is noted.

    With a `kind`, the first argument is the id of what the call is about.
    """

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except (NirsStoreError, OSError) as error:
                subject = None
                if kind is not None:
                    subject = args[0] if args else next(iter(kwargs.values()), None)
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
    """Refuse arguments (by name) that the workspace's guard forbids, and note the attempt.

    Raises
    ------
    ForbiddenContent
        Nothing was recorded.
    """
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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def guard(self) -> GuardRules:
        """What must not be stored in metadata, notes and tags."""
        return GuardRules(self._engine)

    @property
    def enabled(self) -> bool:
        """Whether what this store does is noted now."""
        return audit_notes.auditing(self._engine)

    def switch(self, on: bool) -> None:
        """Switch the trail of this workspace on or off, for every process; both are noted."""
        if not isinstance(on, bool):
            raise InvalidInput(f"on: expected True or False, found {on!r}. Nothing was changed.")
        # The note that it was switched off has to come before, the one that it was switched on after.
        store_setting(
            self._engine,
            "audit",
            lambda _: None if on else {"enabled": False},
            "switch_audit",
            {"on": on},
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
        """Entries that fit all that is given, in their order.

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
            An unknown kind (the nearest is named), or no moment.
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
            lambda con: audit_queries.audit_frame(
                con, limit=limit, offset=offset, newest_first=newest_first, **filters
            )
        )

    def history(self, kind: str, identifier: str, *, related: bool = True) -> pl.DataFrame:
        """What became of an object: entries about it, and (with `related`) about what it belongs to.

        A chain belongs to its pipeline and run, whose entries tell when it was recorded.
        """
        return self._engine.query(lambda con: audit_queries.history(con, kind, identifier, related=related))

    # -- handing out and verifying ----------------------------------------------------------------------

    def head(self) -> Head:
        """Number and hash of the last entry; keep it elsewhere, and `verify` shows what is missing since.

        It is also written into the workspace, where every later check expects it.
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
            The file; for ``"jsonl"`` a folder, which gets one file a month, ``audit_YYYYMM.jsonl``.
        format : {"json", "jsonl", "csv"}
        since, until : datetime, date or ISO 8601 text, optional

        Returns
        -------
        list of Path
            The files that were written.

        Raises
        ------
        UnknownFormat
            The nearest is named. Nothing was written.
        InvalidInput, WriteFailed
        """
        engine = self._engine
        with attempting(engine, "export_audit", "workspace"):
            written, head = audit_export.export_entries(engine, Path(path), format, since, until)
        self._keep(head)
        note(
            engine,
            "export_audit",
            "workspace",
            details={"format": format, "files": len(written), "head": head.number},
        )
        return written

    def verify(
        self, head: Head | Sequence[Any] | Mapping[str, Any] | None = None
    ) -> audit_report.AuditReport:
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
        heads = [
            *audit_report.kept_heads(self._engine.layout),
            *([] if head is None else [audit_report.as_head(head)]),
        ]

        def ask(con: Connection) -> audit_report.AuditReport:
            entries, breaks = verify_chain(con, heads)
            return audit_report.AuditReport(entries, head_of(con), tuple(breaks))

        return self._engine.query(ask, committed=True)

    def _keep(self, head: Head) -> None:
        if self._engine.writable:
            write_file(self._engine.layout.audit_head, json.dumps(head._asdict()).encode())

    def __repr__(self) -> str:
        return f"<audit trail of {self._engine.layout.root}, {'on' if self.enabled else 'off'}>"
