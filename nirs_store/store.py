"""`WorkspaceStore`: the one object a training loop works with.

It owns a folder. Opening, closing and handing it to another process are here; the methods are in
`facade`, and they delegate to `catalog`, `chains`, `bundle` and `upkeep`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nirs_store.blobs.cache import ByteLRU
from nirs_store.catalog.engine import Engine, Settings
from nirs_store.catalog.layout import as_folder
from nirs_store.catalog.values import as_seconds
from nirs_store.contexts import RunContext, open_run
from nirs_store.errors import InvalidInput
from nirs_store.facade.evaluations import EvaluationMethods
from nirs_store.facade.files import FileMethods
from nirs_store.facade.history import HistoryMethods
from nirs_store.facade.models import ModelMethods
from nirs_store.facade.recording import RecordingMethods
from nirs_store.facade.safekeeping import SafekeepingMethods
from nirs_store.facade.upkeep import UpkeepMethods
from nirs_store.facade.viewing import ViewMethods

__all__ = ["WorkspaceStore"]

_DURABILITIES = ("pipeline", "call")
_CACHE_BYTES = 256 << 20
_CACHED_PLANS = 256
_EXPORTED_BYTES = 8 << 20


class WorkspaceStore(
    RecordingMethods,
    ModelMethods,
    ViewMethods,
    HistoryMethods,
    UpkeepMethods,
    FileMethods,
    EvaluationMethods,
    SafekeepingMethods,
):
    """A workspace folder: runs, pipelines, chains, predictions, logs and fitted models.

    Parameters
    ----------
    workspace_path : str or Path
        The folder; made when missing.
    read_only : bool
        Write nothing, create no file.
    lock_timeout : float
        Seconds that a query waits for other processes before `StoreBusy`. Recording never waits.
    durability : {"pipeline", "call"}
        When recorded rows become durable: at the end of a pipeline (at the latest after one
        second), or at each call.
    cache_bytes : int
        Bound on the loaded models that replay keeps in memory.
    create : bool
        False: raise `NotAWorkspace` instead of making a new workspace.
    threads, memory_limit
        Passed to DuckDB (e.g. ``2``, ``"1GB"``).
    audit : bool
        False: what this object does is not noted in the audit trail.

    Raises
    ------
    NotAWorkspace, ForeignCatalog, SchemaTooNew, CatalogDamaged, ReadOnlyStore
        The folder cannot be used; it was left as it was.
    InvalidInput
        An argument that makes no sense, such as a path that is no UTF-8 or too long.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     with store.run("corn", datasets=["corn"]) as run:
    ...         with run.pipeline("pls", dataset_name="corn") as p:
    ...             p.complete(best_val=0.12, metric="rmse")
    ...     store.list_runs()["status"].to_list()
    ['completed']
    >>> folder.cleanup()
    """

    def __init__(
        self,
        workspace_path: str | Path,
        *,
        read_only: bool = False,
        lock_timeout: float = 30.0,
        durability: str = "pipeline",
        cache_bytes: int = _CACHE_BYTES,
        create: bool = True,
        threads: int | None = None,
        memory_limit: str | None = None,
        audit: bool = True,
    ) -> None:
        if durability not in _DURABILITIES:
            raise InvalidInput(
                f"durability: expected one of {', '.join(_DURABILITIES)}, found {durability!r}."
            )
        settings = Settings(
            as_folder(workspace_path, "workspace_path"),
            read_only=read_only,
            create=create,
            lock_timeout=as_seconds(lock_timeout, "lock_timeout"),
            durability=durability,
            threads=threads,
            memory_limit=memory_limit,
            audit=bool(audit),
        )
        self._start(settings, cache_bytes)

    def _start(self, settings: Settings, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        self._objects = ByteLRU(cache_bytes)
        self._plans = ByteLRU(_CACHED_PLANS)
        self._exported = ByteLRU(_EXPORTED_BYTES)
        self._engine = Engine.open(settings)
        # Weak: a store that nobody holds is closed, at interpreter exit at the latest.
        self._finalizer = weakref.finalize(self, self._engine.finish)

    # -- the object ----------------------------------------------------------------------------

    @property
    def workspace_path(self) -> Path:
        """The folder."""
        return self._engine.layout.root

    def close(self) -> None:
        """Commit what is buffered and let everything go; a second call does nothing.

        Raises
        ------
        WriteFailed
            The last rows could not be written. The store stays open: free space and call again.
        """
        if self._engine.settings.session_id is None:  # a copy in a worker leaves it to the store it came from
            self._keep_to_policy("on_close")
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " (closed)" if self._engine.closed else "" if self._engine.writable else " (read-only)"
        return f"WorkspaceStore({str(self.workspace_path)!r}){state}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._engine.hand_over(), self._cache_bytes))

    def flush(self) -> None:
        """Commit everything buffered; durable when this returns."""
        self._engine.flush()

    def transaction(self) -> AbstractContextManager[None]:
        """Make everything that this thread records in a `with` block one commit.

        An exception discards the block's rows (blobs stay until a gc). Queries inside the block
        do not see its rows.
        """
        self._engine.check_writable()
        return self._engine.recorder.transaction()

    @contextmanager
    def run(
        self,
        name: str,
        config: Any = None,
        datasets: Sequence[str | Mapping[str, Any]] | str | Mapping[str, Any] = (),
        *,
        environment: Mapping[str, Any] | None = None,
    ) -> Iterator[RunContext]:
        """Record a run: completed on a normal exit, failed with the traceback on an exception.

        Parameters
        ----------
        name : str
            Any text.
        config : Any
            Plain data.
        datasets : sequence
            Names, or dicts with a ``name``; one by itself counts as a list of one.
        environment : mapping, optional
            What `nirs_store.capture_environment` gave.
        """
        with open_run(self, name, config, datasets, environment) as run:
            yield run


def _reopen(settings: Settings, cache_bytes: int) -> WorkspaceStore:
    """Open a pickled store in the process that received it."""
    store = WorkspaceStore.__new__(WorkspaceStore)
    store._start(settings, cache_bytes)
    return store
