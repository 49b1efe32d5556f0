"""From names in the store to paths on this system, which may hold no such name or take it for something else.

What is an ordinary sign on one system is a separator, a drive or a stream on another, and a store travels between
them; names may also come from the archive of somebody else. So nothing is written below a folder under a name
that did not pass here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from nirs_store.errors import PathEscapes

__all__ = ["check_member", "is_text", "placed"]

_WINDOWS = os.name == "nt"
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]')
# Devices in every folder, also with an ending: what is written to nul.txt is gone.
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL
)


def check_member(name: str) -> None:
    """Refuse the name of a member that leads out of its folder, on whatever system.

    Raises
    ------
    PathEscapes
        It is absolute, climbs with ``..``, is empty or cannot be the name of a file at all.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise PathEscapes(
            f"The stored folder names {name!r}, which leads out of it. Nothing was written there. Do not trust "
            "where it came from."
        )
    if "\0" in name or not is_text(name):
        raise PathEscapes(
            f"The stored folder names {name!r}, which no file can be called. Nothing was written under it. Do not "
            "trust where it came from."
        )


def placed(folder: Path, name: str) -> Path:
    """Give the path of a name below a folder, if this system can hold it there.

    Raises
    ------
    PathEscapes
        As for `check_member`; or the name cannot be made on this system.
    """
    check_member(name)
    objection = _objection_of_windows(name) if _WINDOWS else None
    if objection is not None:
        raise PathEscapes(
            f"The name {name!r} cannot be made on this system: {objection}. Nothing was written under it. Bring it "
            "out on Linux or macOS."
        )
    return folder / name


def is_text(name: str) -> bool:
    """Tell whether a name can be written in UTF-8; what the system gives for other bytes cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _objection_of_windows(name: str) -> str | None:
    sign = _NOT_ON_WINDOWS.search(name)
    if sign is not None:
        # A colon names a drive at the beginning and a hidden stream of a file elsewhere.
        return f"Windows allows no {sign[0]!r} in the name of a file"
    for part in PurePosixPath(name).parts:
        if part.endswith((" ", ".")):
            return f"Windows drops the end of {part!r}"
        if _DEVICE.fullmatch(part):
            return f"{part!r} is a device of Windows"
    return None
