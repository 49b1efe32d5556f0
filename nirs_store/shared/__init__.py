"""Several computers, one workspace: PostgreSQL for order, an object store for blobs, a replica on each computer.

See docs/design/shared.md. Imported only for an address.
"""

from __future__ import annotations

from nirs_store.errors import InvalidInput

# Here, so that no way to an address can forget it.
try:
    import obstore  # noqa: F401
    import psycopg  # noqa: F401
except ImportError as error:
    raise InvalidInput(
        f"A workspace at an address needs packages that are not installed: {error}. Nothing was opened. Install "
        'them: pip install "nirs-store[shared]".'
    ) from error
