"""What DuckDB and the disk say went wrong, in the words of this library."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb

from nirs_store.blobs.durable import write_error
from nirs_store.catalog.layout import Layout
from nirs_store.errors import CatalogDamaged, InvalidInput, NirsStoreError, WriteFailed

__all__ = ["translated"]


@contextlib.contextmanager
def translated(layout: Layout, give_up: Callable[[], None]) -> Iterator[None]:
    """Raise typed errors instead of DuckDB's; `give_up` is called when its connection is of no more use.

    Raises
    ------
    WriteFailed, InvalidInput, CatalogDamaged
    """
    try:
        yield
    except (duckdb.FatalException, duckdb.InternalException) as error:
        give_up()
        raise WriteFailed(
            f"DuckDB had to give up {layout.catalog}: {error} What was committed is safe; the change "
            "under way was not made. Remove the cause (full disk, I/O error) and call again."
        ) from error
    except (duckdb.IOException, duckdb.TransactionException, duckdb.OutOfMemoryException) as error:
        give_up()
        raise WriteFailed(
            f"The catalog operation failed: {error} Nothing was changed. Remove the cause and call again."
        ) from error
    except duckdb.DataError as error:
        raise InvalidInput(f"The catalog cannot answer this: {error} Nothing was changed.") from error
    except OSError as error:
        # From a file beside the catalog. Errors of this library may be OSErrors too.
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(Path(error.filename or layout.journal), error) from error
    except duckdb.Error as error:
        # A block with a wrong checksum comes as the bare base class.
        if type(error) is not duckdb.Error:
            raise
        raise CatalogDamaged(
            f"{layout.catalog} is damaged: {error} Nothing was changed. `nirs-store check --read-data` "
            "says what depends on it; restore the file from a backup."
        ) from error
