"""Deleting many files while the store goes on.

Deleting a file is mostly waiting: for the disk, which is told of every block that is free again. What a gc has
decided to delete is out of everybody's reach, and the lease is kept until it is gone, so nothing but the lease has to
wait for it. Were it interrupted, the files would still lie aside, where the next holder of the lease finds them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from nirs_store.blobs.durable import fsync_dir, remove_files, write_error
from nirs_store.errors import NirsStoreError

__all__ = ["Removal"]


class Removal:
    """Files of one folder that are being deleted, from now on.

    Parameters
    ----------
    folder : Path
    paths : sequence of Path
    """

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self._folder = folder
        self._paths = paths
        self._error: Exception | None = None
        # Not a daemon: an interpreter that ends lets it come to its end.
        self._thread = threading.Thread(target=self._run, name="nirs_store removal")
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter is ending and starts no threads.
            self._run()

    @property
    def running(self) -> bool:
        """Whether it has not come to its end."""
        return self._thread.is_alive()

    def wait(self) -> Exception | None:
        """Wait until the files are gone; gives the error that left some of them there."""
        if self._thread.ident is not None:
            self._thread.join()
        return self._error

    def _run(self) -> None:
        try:
            remove_files(self._paths)
            fsync_dir(self._folder)
        except NirsStoreError as error:
            self._error = error
        except OSError as error:
            self._error = write_error(self._folder, error)
