"""Addresses and commands that a user gives: what is not a path, and what must not be written down."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nirs_store.errors import InvalidInput

# -- Addresses that look like paths.


_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):(?=[/\\])")
_SHARED = re.compile(r"\s*postgres(?:ql)?://", re.IGNORECASE)
_KNOWN_SCHEME = re.compile(
    r"\s*(md|motherduck|ducklake|file|sqlite|duckdb|postgres(?:ql)?|mysql|jdbc|https?|s?ftp|ssh|s3a?|gs|gcs|r2|azure?|az"
    r"|abfss?|hdfs)(?:\+[a-z0-9]+)?:",
    re.IGNORECASE,
)
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "azure")
# Parameters of a connection, as in "host=lab dbname=nirs password=...".
_LIBPQ = re.compile(r"(?:^|\s)(?:host|hostaddr|port|dbname|user|password|service|sslmode)\s*=")


class SharedPlace:
    """Address of a workspace that several computers share, once it was read: see `nirs_store.shared.address`."""


def is_shared(value: Any) -> bool:
    """Tell whether a value is the address of a workspace that several computers share."""
    return isinstance(value, SharedPlace) or (isinstance(value, str) and _SHARED.match(value) is not None)


def refuse_address(value: Any, name: str) -> None:
    """Refuse an address of a server or a database where the path of a file or folder belongs."""
    # Also as a `Path`, which leaves one slash of two. A drive of Windows has one letter, a scheme has several.
    try:
        text = os.fspath(value)
    except TypeError:
        return  # no path at all, as the caller says
    text = os.fsdecode(text)
    if len(_LIBPQ.findall(text)) > 1:
        raise InvalidInput(
            f"{name}: expected a path, found the parameters of a connection ({without_secrets(text)!r}). "
            "Nothing was made. Write the address of a shared workspace as "
            "postgresql://user@host/database?workspace=name."
        )
    found = _SCHEME.match(text) or _KNOWN_SCHEME.match(text)
    if found is None and "://" not in text:
        return
    scheme = found[1].lower() if found else text.partition("://")[0]
    if scheme == "file":
        advice = "Write the path itself, without file://."
    elif scheme.startswith("postgres"):
        advice = (
            "The address of a shared workspace is text that begins with postgresql://, not a path. Where only a "
            "folder is possible, name a folder."
        )
    elif scheme in _OBJECT_STORES:
        advice = "A workspace is a folder here; an object store can hold its blobs (blobs='s3://...')."
    else:
        advice = f"Name a folder of this computer; one that is really called {scheme}: is named by its absolute path."
    raise InvalidInput(
        f"{name}: expected a path, found the address {without_secrets(text)!r}, which nirs_store does not open here. "
        f"Nothing was made. {advice}"
    )


def user_path(value: str | os.PathLike[str]) -> Path:
    """Return the path that a user means, with ``~`` as the home folder, as a shell reads it."""
    path = Path(value)
    try:
        return path.expanduser()
    except RuntimeError:  # not the home of a user: a file may begin with the sign, as Excel's locks do
        return path


# -- Secrets in what is recorded of a command.


_HIDDEN = "***"
_SECRET = re.compile(
    r"(.*[-_.])?(pass|password|passwd|passphrase|passcode|pwd|secret|token|credentials?|apikey|auth|authorization|bearer"
    r"|key|pat)([-_.]?(id|value|string))?",
    re.IGNORECASE,
)
# A password that was not quoted may hold any sign: it ends at the last '@'.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/{0,2})(?:[^/\s@?#:]*:\S*|[^/\s@?#]+)@")
_QUERY = re.compile(r"([?&;])([^=&;#\s]+)=([^&;#\s]*)")
_ASSIGNED = re.compile(
    r"\b(\w*(?:password|passwd|secret|token|api_?key|access_?key)\s*[=:]\s*[\"']?)[^\s\"',;&)]+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"\b((?:authorization|x-[a-z-]*(?:key|token))\s*:\s*(?:bearer|basic|token)?\s*)\S.*", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Tell whether a parameter is called as secrets are."""
    return _SECRET.fullmatch(name) is not None


def without_secrets(text: str) -> str:
    """Hide the user's password in an address, and parameters of it that are called as secrets are."""
    text = _USER.sub(lambda found: f"{found[1]}{_HIDDEN}@", text)
    for pattern in (_HEADER, _ASSIGNED):
        text = pattern.sub(lambda found: f"{found[1]}{_HIDDEN}", text)
    return _QUERY.sub(
        lambda found: f"{found[1]}{found[2]}={_HIDDEN}" if _SECRET.fullmatch(found[2]) else found[0], text
    )


def without_secret_words(words: Sequence[str]) -> list[str]:
    """Hide secrets among the words of a command: ``--token x``, ``--token=x``, ``TOKEN=x``, addresses."""
    found, hide = [], False
    for word in words:
        name, sign, _ = word.partition("=")
        option = name.startswith(("-", "/"))
        if hide and not (word.startswith("--") and len(word) > 2):
            found.append(_HIDDEN)
            hide = False
            continue
        secret = bool(_SECRET.fullmatch(name.lstrip("-/")))
        if secret and sign:
            found.append(f"{name}={_HIDDEN}")
        else:
            found.append(without_secrets(word))
        hide = secret and option and not sign
    return found
