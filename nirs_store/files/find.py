"""Bringing files out by name, and lists, counts and details of what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nirs_store.addresses import user_path
from nirs_store.db.database import Connection
from nirs_store.db.table import Row, Table
from nirs_store.display import block, byte_text, field_table
from nirs_store.errors import InvalidInput
from nirs_store.files.names import FileVersion, check_word, placed, tags_of
from nirs_store.files.output import read_value, write_group, write_output
from nirs_store.files.rows import aliases_of, counts, find_version, list_files, sources_of, versions_of
from nirs_store.files.scope import Scope
from nirs_store.ids import is_id
from nirs_store.lazy import polars as pl
from nirs_store.values import as_text, with_zone

_KINDS = ("bytes", "text", "json", "table")
_HIDDEN = ("session_id", "members", "group_name")

Version = int | str | None


# -- bringing out --------------------------------------------------------------------------------


def get(
    scope: Scope,
    name: object,
    output: str | Path | None,
    version: Version,
    test_name: str | None,
    kind: str | None,
) -> Any:
    """Return the content of a version, or write it to a path."""
    if kind is not None:
        check_word(kind, "kind", _KINDS)
    row = scope.read(name, version, test_name)
    if row["kind"] == "group":
        members = {each: scope.row(version_id) for each, version_id in (row["members"] or {}).items()}
        if output is None:
            return {each: read_value(scope.engine, member) for each, member in members.items()}
        return write_group(scope.engine, members, user_path(output))
    if output is not None:
        return write_output(scope.engine, row, user_path(output))
    return read_value(scope.engine, row, kind)


def export(scope: Scope, found: pl.DataFrame, output: str | Path) -> list[Path]:
    """Write all files of a list into a folder; all names are checked before anything is written."""
    wanted = [
        (row, placed(user_path(output), row["name"].removeprefix(scope.prefix)))
        for row in found.iter_rows(named=True)
        if row["kind"] not in ("metadata", "group")
    ]
    _refuse_clashes(wanted)
    return [
        write_output(scope.engine, scope.row(row["version_id"]), target, inside=False)
        for row, target in wanted
    ]


def _refuse_clashes(wanted: Sequence[tuple[Mapping[str, Any], Path]]) -> None:
    """Refuse files that would take each other's place, on systems without upper and lower case as well."""
    taken: dict[str, Mapping[str, Any]] = {}
    for row, target in wanted:
        other = taken.setdefault(str(target).casefold(), row)
        if other is not row:
            both = " and ".join(
                f"{each['name']!r} v{each['version']} ({each['test_name'] or each['mode']})"
                for each in (other, row)
            )
            raise InvalidInput(
                f"{both} would both be written to {target}. Nothing was written. Export them apart: say mode=, "
                "test_name= or a narrower pattern, or export from a view (files.within)."
            )
    for row, target in wanted:
        for parent in target.parents:
            above = taken.get(str(parent).casefold())
            if above is not None and above["kind"] != "folder":
                raise InvalidInput(
                    f"{above['name']!r} would be a file where {row['name']!r} needs a folder ({parent}). Nothing was "
                    "written. Export them apart: name a narrower pattern."
                )


# -- one file ------------------------------------------------------------------------------------


def find(scope: Scope, name: object, version: Version, test_name: str | None) -> FileVersion | None:
    """Return a version, or None."""
    which = scope.which(name, version, test_name)

    def look(con: Connection) -> Row | None:
        if is_id(which[0]):
            return next(iter(Table(con, "file_versions").where(version_id=which[0])), None)
        return find_version(con, *which)

    row = scope.engine.query(look)
    return None if row is None else FileVersion.of(row, added=False)


def metadata(scope: Scope, name: object, version: Version, test_name: str | None) -> dict[str, Any]:
    """Return everything known about a version."""
    row = scope.row(name, version, test_name)
    sources = scope.engine.query(lambda con: sources_of(con, row["version_id"]))
    aliases = scope.engine.query(
        lambda con: Table(con, "file_aliases").where("alias", version_id=row["version_id"])
    )
    known = {key: value for key, value in row.items() if key not in _HIDDEN} | {
        "group": row["group_name"],
        "tags": row["tags"] or [],
        "metadata": row["metadata"] or {},
        "created_at": with_zone(row["created_at"]),
        "updated_at": with_zone(row["updated_at"]),
        "sources": sources,
        "aliases": [each["alias"] for each in aliases],
    }
    return known | ({"members": row["members"]} if row["kind"] == "group" else {})


def versions(scope: Scope, name: object, test_name: str | None) -> pl.DataFrame:
    """Return the versions of a file, newest first; of one mode where the view shows one."""
    whole, _, _, mode = scope.which(name, None, test_name)
    row = scope.row(name, None, test_name)
    found = scope.engine.query(lambda con: versions_of(con, row["name"], row["test_name"]))
    return found if mode is None or is_id(whole) else found.filter(pl.col("mode") == mode)


def aliases(scope: Scope, name: object, test_name: str | None) -> dict[str, int]:
    """Return the aliases of a file with the version that each means."""
    row = scope.row(name, None, test_name)
    found = scope.engine.query(lambda con: aliases_of(con, row["name"], row["test_name"]))
    return {each["alias"]: int(each["version"]) for each in found}


# -- many ----------------------------------------------------------------------------------------


def matching(
    scope: Scope,
    pattern: str | None,
    filters: Mapping[str, Any],
    *,
    words: str | None = None,
    tags: Iterable[str] | str = (),
    limit: int | None = None,
    offset: int = 0,
    **more: Any,
) -> pl.DataFrame:
    """Return the versions that fit; with `words` those that have all of them in names, tags or metadata."""
    sought = () if words is None else as_text(words, "words").split()
    if words is not None and not sought:
        raise InvalidInput("words: expected at least one word, found none.")
    where = scope.where(pattern, filters, words=sought, tags=tags_of(tags), **more)
    if (limit is not None and limit < 0) or offset < 0:
        raise InvalidInput(f"limit, offset: expected at least 0, found {limit!r} and {offset!r}.")
    return scope.engine.query(lambda con: list_files(con, where, limit, offset))


@dataclass(frozen=True)
class FileSummary:
    """Sum up the stored files: counts and bytes.

    Attributes
    ----------
    files : int
    size_bytes, stored_bytes : int
        Before compression; on the disk, where nothing is stored twice.
    by_type, by_status, by_mode, by_compression : dict of str to int
        Files.
    bytes_by_type : dict of str to int
        Before compression.
    tests : dict of str to int
        Files of each test.
    first, last : datetime or None
        When the oldest and the newest were stored.
    """

    files: int
    size_bytes: int
    stored_bytes: int
    by_type: dict[str, int]
    by_status: dict[str, int]
    by_mode: dict[str, int]
    by_compression: dict[str, int]
    bytes_by_type: dict[str, int]
    tests: dict[str, int]
    first: datetime | None
    last: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dict(vars(self))

    def _lines(self) -> dict[str, object]:
        lines = {
            "files": f"{self.files:,}",
            "size": f"{byte_text(self.size_bytes)}, on the disk {byte_text(self.stored_bytes)}",
        }
        counted = (self.by_type, self.by_status, self.by_mode, self.by_compression, self.tests)
        for name, each in zip(("types", "status", "modes", "compression", "tests"), counted, strict=True):
            if each:
                lines[name] = ", ".join(f"{count:,} {word}" for word, count in each.items())
        return dict(lines)

    def __str__(self) -> str:
        return "\n".join(f"{name:12}{text}" for name, text in self._lines().items())

    def _repr_html_(self) -> str:
        return block("Files", field_table(self._lines()))


def summary(scope: Scope, pattern: str | None, all_versions: bool, filters: Mapping[str, Any]) -> FileSummary:
    """Count the versions that fit and their bytes."""
    where = scope.where(pattern, filters, all_versions=all_versions)
    grouped, whole = scope.engine.query(lambda con: counts(con, where))

    def by(column: str, what: str = "files") -> dict[str, int]:
        totals: dict[str, int] = {}
        for row in grouped:
            if row[column] is not None:
                totals[row[column]] = totals.get(row[column], 0) + int(row[what])
        return dict(sorted(totals.items(), key=lambda pair: (-pair[1], pair[0])))

    return FileSummary(
        sum(row["files"] for row in grouped),
        sum(row["bytes"] for row in grouped),
        int(whole["stored"]),
        by("type"),
        by("status"),
        by("mode"),
        by("compression"),
        by("type", "bytes"),
        by("test_name"),
        with_zone(whole["first"]),
        with_zone(whole["last"]),
    )
