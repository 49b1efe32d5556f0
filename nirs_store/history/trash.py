"""The trash of a workspace: what was deleted, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nirs_store.audit.guard import store_setting
from nirs_store.audit.trail import attempting
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.maintenance import trash
from nirs_store.maintenance.gc import collect, prune_arrays
from nirs_store.records.notes import note
from nirs_store.values import as_text

_MOST_DAYS = 36_500.0


@dataclass(frozen=True)
class Emptied:
    """What left the trash for good, or with `dry_run` would: deletions, files and their bytes."""

    entries: tuple[str, ...]
    files: int = 0
    bytes: int = 0


class Trash:
    """The trash of a store, as ``store.trash``.

    Deleted runs, pipelines, chains, predictions, evaluations and versions of calibrations lie here for 30 days, with
    the artifacts and arrays that they need; a gc and a vacuum remove what is older.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     with store.run("corn") as run:
    ...         pass
    ...     deleted = store.delete_run(run.run_id)
    ...     store.list_runs().height, store.trash.list()["name"].to_list()
    ...     back = store.trash.restore(run.run_id)
    ...     store.list_runs()["name"].to_list()
    (0, ['corn'])
    ['corn']
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine, forget: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self._forget = forget

    @property
    def days(self) -> float:
        """For how many days a deletion can be undone."""
        return self._engine.query(trash.keep_days)

    def keep(self, days: float | None) -> None:
        """Set for how many days a deletion can be undone; 0 lets the next gc empty the trash, None means 30.

        Raises
        ------
        InvalidInput
            Not a number of days from 0 to 36,500. Nothing was changed.
        """
        kept = None if days is None else {"days": _days(days, "days")}
        with attempting(self._engine, "set_trash", "workspace"):
            store_setting(self._engine, trash.SETTING, lambda _: kept, "set_trash", {"days": days})

    def list(self) -> pl.DataFrame:
        """Return what can be restored, newest first.

        Returns
        -------
        polars.DataFrame
            ``trash_id``, ``kind`` ("run", "pipeline", "chain", "prediction", "evaluation", "calibration"; "chains" of a
            retention), ``object_id``, ``name``, ``operation``, ``rows``, ``size_bytes`` (of the rows, compressed),
            ``deleted_at`` and ``until``, when a gc may remove it.
        """
        return self._engine.query(trash.trash_rows)

    def restore(self, identifier: str) -> Sequence[tuple[str, str]]:
        """Bring back a deletion: exactly the same rows under the same ids.

        Parameters
        ----------
        identifier : str
            Id of the deletion, or of anything that it deleted, or the end of one. Chains that one retention deleted
            come back together.

        Returns
        -------
        list of (kind, id)
            The restored ids. Parents that are in the trash too come first.

        Raises
        ------
        UnknownId
            The trash holds nothing of that id.
        OverwriteRefused
            Something has taken an id that would come back. Nothing was changed.
        InvalidInput
            A parent is gone for good. Nothing was changed.
        """
        wanted = as_text(identifier, "identifier").strip()

        def work(con: Connection) -> list[tuple[str, str]]:
            back = trash.restore(con, wanted)
            for kind, object_id in back:
                note(self._engine, "restore_trash", kind, object_id, con=con)
            return back

        with attempting(self._engine, "restore_trash"):
            back = self._engine.change(work)
        self._forget()
        return back

    def empty(self, older_than: float | None = None, *, dry_run: bool = False) -> Emptied:
        """Remove deletions for good, with the files and arrays that nothing else holds.

        Parameters
        ----------
        older_than : float, optional
            Only those from more than so many days ago; by default all.
        dry_run : bool
            Say which, and change nothing.

        Raises
        ------
        InvalidInput
            Not a number of days. Nothing was changed.
        """
        days = None if older_than is None else _days(older_than, "older_than")

        def due(con: Connection) -> list[str]:
            return trash.due(con, now=days is None, older_than=days)

        if dry_run:
            return Emptied(tuple(self._engine.query(due)))

        collector = self._engine.claims.collector

        def work(con: Connection) -> tuple[list[str], list[str]]:
            if collector is not None:
                # Who may not delete the objects of a shared workspace is refused before a row is gone.
                collector.claimed()
            ids = due(con)
            held = trash.artifacts(con, ids)
            trash.empty(con, ids)
            prune_arrays(con)
            if ids:
                note(self._engine, "empty_trash", "workspace", details={"count": len(ids)}, con=con)
            return ids, held

        with attempting(self._engine, "empty_trash", "workspace"):
            ids, held = self._engine.change(work)
        self._forget()
        done = collect(self._engine, only=held) if held else None
        return Emptied(tuple(ids), done.files if done else 0, done.bytes if done else 0)

    def __repr__(self) -> str:
        return f"<trash of {self._engine.layout.root}>"


def _days(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_DAYS:
        raise InvalidInput(
            f"{name}: expected a number of days from 0 to {_MOST_DAYS:,.0f}, found {value!r}. Nothing was changed."
        )
    return float(value)
