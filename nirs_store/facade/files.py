"""`store.files`: files of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.facade.base import Facade
from nirs_store.lazily import later

if TYPE_CHECKING:
    from nirs_store.registry.files import api
else:
    api = later("nirs_store.registry.files.api")

__all__ = ["FileMethods"]


class FileMethods(Facade):
    """The files of a workspace."""

    _files: api.Files | None = None

    @property
    def files(self) -> api.Files:
        """Files of any kind, with versions; see `nirs_store.registry.files`."""
        if self._files is None:
            self._files = api.Files(self._engine)
        return self._files
