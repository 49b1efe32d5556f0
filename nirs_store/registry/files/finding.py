"""Finding the version that a name, a number, an alias or an id means."""

from __future__ import annotations

from typing import Any

from nirs_store.catalog import file_rows
from nirs_store.catalog.access import Connection
from nirs_store.errors import UnknownFile
from nirs_store.ids import is_id

__all__ = ["require_version"]


def require_version(
    con: Connection, name: str, version: int | str | None, test_name: str | None
) -> dict[str, Any]:
    """Give the row of a version, by its name or its id.

    Raises
    ------
    UnknownFile
        There is none; names that are near are told.
    """
    if is_id(name):
        found = file_rows.by_ids(con, [name]).get(name)
        if found is None:
            raise UnknownFile(name, f"No version of a file has the id {name!r} in this workspace.")
        return found
    row = file_rows.find_version(con, name, test_name, version)
    if row is not None:
        return row
    of_test = f" of test {test_name!r}" if test_name else ""
    if version is not None and file_rows.find_version(con, name, test_name, None) is not None:
        aliases = ", ".join(each["alias"] for each in file_rows.aliases_of(con, name, test_name))
        wanted = f"version {version}" if isinstance(version, int) else f"alias {version!r}"
        raise UnknownFile(
            name,
            f"{name!r}{of_test} has no {wanted}. It has the aliases {aliases}."
            if aliases
            else f"{name!r}{of_test} has no {wanted}, and no aliases. `nirs-store files versions` lists what it has.",
        )
    others = file_rows.nearest_names(con, name, test_name)
    hint = f" Did you mean {others[0]!r}?" if others else ""
    raise UnknownFile(name, f"No file is stored as {name!r}{of_test} in this workspace.{hint}")
