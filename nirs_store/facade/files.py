"""`store.files`: files of any kind."""

from __future__ import annotations

from nirs_store.facade.base import Facade
from nirs_store.registry.files.api import Files

__all__ = ["FileMethods"]


class FileMethods(Facade):
    """The files of a workspace."""

    _files: Files | None = None

    @property
    def files(self) -> Files:
        """Files of any kind, with versions; see `nirs_store.registry.files`."""
        if self._files is None:
            self._files = Files(self._engine)
        return self._files
