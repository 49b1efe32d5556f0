"""`Files`: what `store.files` is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirs_store.catalog import file_queries
from nirs_store.lazily import polars as pl
from nirs_store.registry.files.groups import GroupMethods
from nirs_store.registry.files.processing import ProcessingRun

__all__ = ["Files"]


class Files(GroupMethods):
    """Files of any kind: named, typed, versioned, checked, in the same folder as everything else.

    `store.files` is one; `within` gives one for a folder of names.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     for text in (b"one", b"two"):
    ...         version = store.files.put(text, "notes/today.txt", type="log", tags="diary")
    ...     print(version)
    ...     store.files.get("notes/today.txt", version="v1")
    notes/today.txt v2: log, 3 bytes, none; stored uncompressed: too small to shrink
    b'one'
    >>> folder.cleanup()
    """

    def processing(
        self,
        name: str,
        *,
        module: str | None = None,
        module_version: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> ProcessingRun:
        """Make a processing run: ``with store.files.processing("deid") as run:``, or `start` and `end` it.

        Parameters
        ----------
        name : str
        module, module_version : str, optional
            What processes; said of every file that is put meanwhile.
        parameters : dict, optional
            Plain data.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     try:
        ...         with store.files.processing("blur", module="video_deid") as run:
        ...             _ = run.announce("interview.mp4", type="video_deid")
        ...             raise OSError("no frames")
        ...     except OSError:
        ...         found = store.files.metadata("interview.mp4")
        >>> found["status"], found["message"]
        ('failed', 'OSError: no frames')
        >>> folder.cleanup()
        """
        return ProcessingRun(self, name, module, module_version, parameters)

    def processing_runs(self, name: str | None = None) -> pl.DataFrame:
        """List processing runs, newest first; one whose program died shows as interrupted."""
        alive = self._engine.living_sessions
        return self._engine.query(lambda con: file_queries.list_processing(con, name, alive()))
