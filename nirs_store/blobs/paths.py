"""Names of blobs, and the guard that keeps every stored path inside its workspace."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePath
from urllib.parse import quote

from nirs_store.errors import InvalidInput, PathEscapes

__all__ = ["aside_name", "check_hash", "check_suffix", "resolve_inside"]

_HASH = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_hash(digest: str) -> str:
    """Give `digest` back if it is a SHA-256 in lower-case hexadecimal.

    Raises
    ------
    InvalidInput
        It is something else.
    """
    if _HASH.fullmatch(str(digest)) is None:
        raise InvalidInput(f"{digest!r} is not a SHA-256: 64 lower-case hexadecimal digits were expected.")
    return digest


def check_suffix(suffix: str) -> str:
    """Give a file name ending without its dot.

    Raises
    ------
    InvalidInput
        It holds something else than lower-case letters, digits, ``_`` and ``-``.
    """
    bare = suffix.removeprefix(".")
    if _SUFFIX.fullmatch(bare) is None:
        raise InvalidInput(
            f"{suffix!r} is no usable file name ending: lower-case letters, digits, '_' or '-' were expected."
        )
    return bare


def aside_name(relative: str) -> str:
    """Name of a blob's file while a gc decides about it: its whole path, in one piece.

    Examples
    --------
    >>> aside_name("artifacts/ab/abcd.joblib")
    'artifacts%2Fab%2Fabcd.joblib'
    """
    # By parts, because `quote` is quick with what has nothing to quote.
    return "%2F".join(quote(part, safe="") for part in relative.split("/"))


def resolve_inside(root: Path, relative: str | PurePath) -> Path:
    """Join a stored path to its workspace, or refuse.

    Parameters
    ----------
    root : Path
        The workspace.
    relative : str or PurePath
        A path below it, with forward slashes.

    Returns
    -------
    Path
        ``root / relative``; it need not exist.

    Raises
    ------
    PathEscapes
        The path is absolute, names a drive, climbs with ``..``, passes a symbolic link that leads outside, or
        holds a NUL.
    """
    text = relative.as_posix() if isinstance(relative, PurePath) else str(relative)
    reason = _objection(text)
    if reason is None:
        path = root.joinpath(*text.split("/"))
        if _is_plain(root, text.split("/")):
            return path
        inside = Path(os.path.realpath(root))
        real = Path(os.path.realpath(path))
        if real != inside and real.is_relative_to(inside):
            return path
        reason = f"it leads to {real}"
    raise PathEscapes(
        f"The path {text!r} does not stay inside the workspace {root}: {reason}. Nothing was touched."
    )


def _is_plain(root: Path, names: list[str]) -> bool:
    """Tell that nothing between the workspace and the file is a link, which settles it in three looks."""
    place = os.fspath(root)
    for name in names:
        if name in ("", "."):
            return False
        place = os.path.join(place, name)
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            return True  # what comes below is not there either
        except OSError:
            return False
        # On Windows junctions lead elsewhere, too; they are reparse points, like links.
        if stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", None):
            return False
    return True


def _objection(text: str) -> str | None:
    if not text:
        return "it is empty"
    if "\0" in text:
        return "it holds a NUL"
    if "\\" in text:
        # A separator on Windows and a plain character elsewhere: a stored path must mean the same everywhere.
        return "it holds a backslash; write '/'"
    if text.startswith("/"):
        return "it is absolute"
    if _DRIVE.match(text) or (os.name == "nt" and ":" in text):
        return "it names a drive or a stream"
    if ".." in text.split("/"):
        return "it climbs with '..'"
    return None
