"""Archives of a selection, and backups of everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from nirs_store.facade.base import Facade
from nirs_store.lazily import later

if TYPE_CHECKING:
    from nirs_store.upkeep import archive as archives
    from nirs_store.upkeep import archive_format, archive_restore
    from nirs_store.upkeep import backups as backups_api
else:
    archives = later("nirs_store.upkeep.archive")
    archive_format = later("nirs_store.upkeep.archive_format")
    archive_restore = later("nirs_store.upkeep.archive_restore")
    backups_api = later("nirs_store.upkeep.backups")

__all__ = ["SafekeepingMethods"]

Progress = Callable[[int, int], None]


class SafekeepingMethods(Facade):
    """What leaves the workspace to be safe, and comes back."""

    _backups: backups_api.Backups | None = None

    @property
    def backups(self) -> backups_api.Backups:
        """Backups of this workspace; see `nirs_store.upkeep.backups`."""
        if self._backups is None:
            self._backups = backups_api.Backups(self._engine)
        return self._backups

    @overload
    def archive(
        self,
        path: str | Path,
        *,
        runs: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
        evaluations: Sequence[str] | None = None,
        overwrite: bool = False,
        dry_run: Literal[False] = False,
        progress: Progress | None = None,
    ) -> archives.Archive: ...

    @overload
    def archive(
        self,
        path: str | Path,
        *,
        runs: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
        evaluations: Sequence[str] | None = None,
        overwrite: bool = False,
        dry_run: Literal[True],
        progress: Progress | None = None,
    ) -> archives.ArchivePlan: ...

    def archive(
        self,
        path: str | Path,
        *,
        runs: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
        evaluations: Sequence[str] | None = None,
        overwrite: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> archives.Archive | archives.ArchivePlan:
        """Write a selection with its rows, lineage and blobs into one file.

        Parameters
        ----------
        path : str or Path
            Ends with ``.tar.gz``, ``.tar.zst`` or ``.zip``.
        runs, evaluations : sequence of str, optional
            Ids. What belongs to them goes with them: a run's pipelines, chains, predictions, evaluations and files.
        files : sequence of str, optional
            Names, patterns (``reports/*``) or version ids.
        overwrite : bool
            Replace an existing file.
        dry_run : bool
            Return what would be in it, and write nothing. A path that would be refused is refused.
        progress : callable, optional
            Called with the bytes done and those to do.

        Returns
        -------
        Archive or ArchivePlan
            Without runs, files and evaluations everything that anything holds is in it.

        Raises
        ------
        InvalidInput, UnknownId, WriteFailed, BlobMissing, BlobCorrupt
            No file was written.
        """
        if dry_run:
            return archives.plan_archive(
                self._engine, path, runs=runs, files=files, evaluations=evaluations, overwrite=overwrite
            )
        return archives.archive(
            self._engine,
            path,
            runs=runs,
            files=files,
            evaluations=evaluations,
            overwrite=overwrite,
            progress=progress,
        )

    def restore_archive(
        self,
        path: str | Path,
        *,
        dry_run: bool = False,
        limits: archive_format.Limits | None = None,
        progress: Progress | None = None,
    ) -> archive_restore.RestoredArchive:
        """Bring an archive into this workspace; what is there already is not doubled.

        Everything is verified first: names, sizes, hashes. Models in it are pickles as they were in the workspace
        that it came from: bring in only archives of people whom you trust.

        Parameters
        ----------
        dry_run : bool
            Verify, and return what would be added.
        limits : Limits, optional
            How much an archive may promise.
        progress : callable, optional
            Called with the bytes done and those to do.

        Raises
        ------
        ArchiveInvalid, SchemaTooNew
            Not an archive, an altered one or a newer one; nothing was changed.
        InvalidInput, WriteFailed, ReadOnlyStore
            Nothing was changed.
        """
        restored = archive_restore.restore_archive(
            self._engine, path, dry_run=dry_run, limits=limits, progress=progress
        )
        if not dry_run:
            self._forget()
        return restored
