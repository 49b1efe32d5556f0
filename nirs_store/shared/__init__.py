"""Several computers, one workspace: PostgreSQL for order, an object store for blobs, a replica on each computer.

See docs/design/shared.md. Imported only for an address; psycopg and obstore only when one is opened.
"""

from __future__ import annotations

from nirs_store.errors import InvalidInput


def needed() -> None:
    """Look for the packages of the extra ``shared``, and say what to install where one is missing."""
    try:
        import obstore  # noqa: F401
        import psycopg  # noqa: F401
    except ImportError as error:
        raise InvalidInput(
            f"A workspace at an address, or with blobs in an object store, needs packages that are not here: {error}. "
            'Nothing was opened. Install them: pip install "nirs-store[shared]".'
        ) from error
