"""Names of stored files, their versions and aliases: what may be one, and what each means."""

from __future__ import annotations

import re

from nirs_store.catalog.values import as_text
from nirs_store.errors import InvalidInput, PathEscapes
from nirs_store.ids import is_id

__all__ = ["LATEST", "check_alias", "check_label", "check_name", "file_ending", "parse_version"]

LATEST = "latest"
_LONGEST = 1024
_LONGEST_PART = 255
_DRIVE = re.compile(r"[A-Za-z]:")
_VERSION = re.compile(r"[vV]?0*([1-9][0-9]{0,8})")
# Wider than what is read as a version: nobody should have to guess whether "v1.0" is one.
_LOOKS_LIKE_VERSION = re.compile(r"[vV]?[0-9]+([._][0-9]+)*")
_ALIAS = re.compile(r"[\w][\w.+-]{0,99}")


def check_name(name: object, what: str = "name") -> str:
    """Give a hierarchical name back if it stays in the store.

    Raises
    ------
    PathEscapes
        It is absolute, climbs with ``..``, holds a backslash or a drive.
    InvalidInput
        It is empty, too long, or could be taken for an id.
    """
    text = as_text(name, what)
    objection = _objection(text)
    if objection is not None:
        raise PathEscapes(
            f"{what}: {text!r} does not stay inside the store: {objection}. Nothing was changed. Write it as in "
            "'ensembl/GRCh37/positions.tsv'."
        )
    if (
        not text
        or len(text) > _LONGEST
        or any(len(part.encode()) > _LONGEST_PART for part in text.split("/"))
    ):
        raise InvalidInput(
            f"{what}: expected 1 to {_LONGEST} characters, at most {_LONGEST_PART} bytes between two '/', found "
            f"{len(text)} characters."
        )
    if is_id(text):
        raise InvalidInput(f"{what}: {text!r} would be taken for the id of a version. Give another name.")
    return text


def _objection(text: str) -> str | None:
    if "\\" in text:
        return "it holds a backslash; write '/'"
    if text.startswith(("/", "~")):
        return "it is absolute"
    if _DRIVE.match(text):
        return "it names a drive"
    if not text.isprintable():
        return "it holds a sign that cannot be printed"
    parts = text.split("/")
    if any(part in ("..", ".") for part in parts):
        return "it climbs with '.' or '..'"
    if text and any(not part.strip() for part in parts):
        return "it has an empty part"
    return None


def check_label(text: object, what: str) -> str:
    """Give back a test's name: one part of a path."""
    label = check_name(text, what)
    if "/" in label:
        raise InvalidInput(f"{what}: expected a name without '/', found {label!r}.")
    return label


def check_alias(alias: object) -> str:
    """Give an alias back if nobody could take it for a version.

    Raises
    ------
    InvalidInput
        It looks like a version, or is no plain word.
    """
    text = as_text(alias, "alias")
    if text.casefold() == LATEST or _LOOKS_LIKE_VERSION.fullmatch(text):
        raise InvalidInput(
            f"alias: {text!r} looks like a version, and would say what it is not. Nothing was changed. Write it "
            f"as in {'release-' + text.lstrip('vV') if text.casefold() != LATEST else 'newest'!r}."
        )
    if not _ALIAS.fullmatch(text):
        raise InvalidInput(f"alias: expected letters, digits, '.', '_', '+' or '-', found {text!r}.")
    return text


def parse_version(version: object) -> int | str | None:
    """Read which version is meant.

    Returns
    -------
    int, str or None
        A number, an alias, or None for the newest.

    Raises
    ------
    InvalidInput
        Neither ``v3`` or 3, nor ``latest``, nor an alias.
    """
    if version is None:
        return None
    if isinstance(version, int) and not isinstance(version, bool) and version > 0:
        return version
    if isinstance(version, str):
        if version.casefold() == LATEST:
            return None
        match = _VERSION.fullmatch(version)
        if match:
            return int(match[1])
        if _ALIAS.fullmatch(version) and not _LOOKS_LIKE_VERSION.fullmatch(version):
            return version
    raise InvalidInput(f"version: expected 'latest', a number as in 'v3', or an alias, found {version!r}.")


def file_ending(text: str) -> str:
    """Give the ending of a name for the file of its blob: letters and digits, or ``bin``."""
    ending = text.rpartition("/")[2].rpartition(".")
    found = ending[2].lower() if ending[0] else ""
    return found if re.fullmatch(r"[a-z0-9]{1,16}", found) else "bin"
