"""Bringing files out, and asking about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from nirs_store.catalog import file_queries, file_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.buffer import naive
from nirs_store.catalog.values import as_text, with_zone
from nirs_store.errors import InvalidInput
from nirs_store.ids import is_id
from nirs_store.lazily import polars as pl
from nirs_store.registry.files.base import FilesBase
from nirs_store.registry.files.copies import materialised
from nirs_store.registry.files.names import parse_version
from nirs_store.registry.files.outputs import write_group
from nirs_store.registry.files.places import placed
from nirs_store.registry.files.reading import open_stream, read_value, write_output
from nirs_store.registry.files.request import FileVersion, tags_of
from nirs_store.registry.files.summary import FileSummary, summarised
from nirs_store.registry.files.types import BUILT_IN, check_type_name
from nirs_store.registry.files.words import COMPRESSIONS, COVERAGES, MODES, STATUSES, check_word, near

__all__ = ["GetMethods"]

_WORDS = {"status": STATUSES, "mode": MODES, "coverage": COVERAGES, "compression": COMPRESSIONS}
_AS = ("bytes", "text", "json", "table")
_HIDDEN = ("session_id", "members", "group_name")
# `list` is a method below.
Paths = list[Path]


class GetMethods(FilesBase):
    """Bringing out and asking."""

    def get(
        self,
        name: str,
        output: str | Path | None = None,
        *,
        version: int | str | None = None,
        test_name: str | None = None,
        kind: str | None = None,
    ) -> Any:
        """Give the content of a file, checked against its SHA-256.

        Parameters
        ----------
        name : str
            A name, or the id of a version.
        output : path, optional
            Where to write it: a file (one that is there is replaced), or a folder that is there, where it keeps
            its name. A stored folder becomes the folder of this path, which is new or empty. The members of a
            group go below this path, once all of them were checked.
        version : int or str, optional
            ``3``, ``"v3"``, ``"latest"`` or an alias.
        test_name : str, optional
        kind : {"bytes", "text", "json", "table"}, optional
            Read the content as this; by default as what it was put.

        Returns
        -------
        Any
            The path with `output`; else bytes of a path or bytes, the data of plain data, a polars frame of a
            data frame, the metadata where there is nothing else, a dict of its members for a group.

        Raises
        ------
        UnknownFile, BlobMissing, BlobCorrupt, InvalidInput, WriteFailed
            Nothing was left at `output`.
        """
        if kind is not None:
            check_word(kind, "kind", _AS)
        row = self._row(name, version, test_name)
        if row["kind"] == "group":
            members = {each: self._row(member) for each, member in (row["members"] or {}).items()}
            if output is None:
                return {each: read_value(self._engine, member) for each, member in members.items()}
            return write_group(self._engine, members, Path(output))
        if output is not None:
            return write_output(self._engine, row, Path(output))
        return read_value(self._engine, row, kind)

    def open(
        self,
        name: str,
        mode: str = "rb",
        *,
        version: int | str | None = None,
        test_name: str | None = None,
        encoding: str | None = None,
    ) -> IO[Any]:
        """Open a file for reading, whatever it is compressed with.

        Parameters
        ----------
        mode : {"rb", "r"}

        Raises
        ------
        UnknownFile, BlobMissing, BlobCorrupt
        """
        return open_stream(self._engine, self._row(name, version, test_name), mode, encoding)

    def path(self, name: str, *, version: int | str | None = None, test_name: str | None = None) -> Path:
        """Give a path at which any program can read the file or folder; it is not to be written to.

        The blob itself where it is stored as it is; a copy below ``exports/files/`` where it is compressed. Its
        files are read-only; one that was altered all the same is found by its hash and made anew.

        Raises
        ------
        UnknownFile, BlobMissing, BlobCorrupt
        """
        return materialised(self._engine, self._row(name, version, test_name))

    def export(self, pattern: str, output: str | Path, **filters: Any) -> Paths:
        """Write all files that `list` finds into a folder, under their names.

        Returns
        -------
        list of Path

        Raises
        ------
        PathEscapes
            A name cannot be made on this system.
        BlobMissing, BlobCorrupt, WriteFailed
            What came before it stays.
        """
        found = self.list(pattern, **filters)
        # All names are looked at before anything is written.
        wanted = [
            (version_id, placed(Path(output), name.removeprefix(self._prefix)))
            for version_id, name, kind in found.select("version_id", "name", "kind").iter_rows()
            if kind not in ("metadata", "group")
        ]
        return [
            write_output(self._engine, self._row(version_id), target, inside=False)
            for version_id, target in wanted
        ]

    def exists(self, name: str, *, version: int | str | None = None, test_name: str | None = None) -> bool:
        """Tell whether there is such a file, and such a version of it."""
        whole, number, test = self._name(name), parse_version(version), self._test(test_name)

        def look(con: Connection) -> bool:
            if is_id(whole):
                return whole in file_rows.by_ids(con, [whole])
            return file_rows.find_version(con, whole, test, number) is not None

        return self._engine.query(look)

    def metadata(
        self, name: str, *, version: int | str | None = None, test_name: str | None = None
    ) -> dict[str, Any]:
        """Give everything known about a version: type, dates, sizes, hashes, tags, metadata, sources, aliases.

        Raises
        ------
        UnknownFile
        """
        row = self._row(name, version, test_name)

        def look(con: Connection) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            sources = file_queries.sources_of(con, row["version_id"])
            return sources, file_rows.aliases_of(con, row["name"], row["test_name"])

        sources, aliases = self._engine.query(look)
        known = {key: value for key, value in row.items() if key not in _HIDDEN}
        known |= {
            "group": row["group_name"],
            "tags": row["tags"] or [],
            "metadata": row["metadata"] or {},
            "created_at": with_zone(row["created_at"]),
            "updated_at": with_zone(row["updated_at"]),
            "sources": sources,
            "aliases": [each["alias"] for each in aliases if each["version_id"] == row["version_id"]],
        }
        return known | ({"members": row["members"]} if row["kind"] == "group" else {})

    def find(
        self, name: str, *, version: int | str | None = None, test_name: str | None = None
    ) -> FileVersion | None:
        """Give a version, or None where `metadata` would raise."""
        if not self.exists(name, version=version, test_name=test_name):
            return None
        return FileVersion.of(self._row(name, version, test_name), added=False)

    def list(
        self,
        pattern: str | None = None,
        *,
        tags: Iterable[str] | str = (),
        all_versions: bool = False,
        since: datetime | None = None,
        before: datetime | None = None,
        limit: int | None = None,
        offset: int = 0,
        **filters: Any,
    ) -> pl.DataFrame:
        """List files by name.

        Parameters
        ----------
        pattern : str, optional
            ``*`` stands for any signs, ``/`` among them, ``?`` for one, ``[ab]`` for one of these.
        tags : str or sequence of str, optional
            Only files that have all of them.
        all_versions : bool
            Not only the newest of each name.
        since, before : datetime, optional
            When it was stored.
        limit, offset : int, optional
        **filters
            type, kind, status, mode, coverage, test_name, model_id, evaluation_id, suite, group, episode,
            module, module_version, run_id, processing_id, compression: one value, or several of which one fits.

        Returns
        -------
        polars.DataFrame
            A row a version; ``tags`` and ``metadata`` are JSON texts.

        Raises
        ------
        InvalidInput
            An unknown filter, status or type; the nearest is named.
        """
        where = self._where(
            pattern, filters, tags=tags_of(tags), all_versions=all_versions, since=since, before=before
        )
        if (limit is not None and limit < 0) or offset < 0:
            raise InvalidInput(f"limit, offset: expected at least 0, found {limit!r} and {offset!r}.")
        return self._engine.query(lambda con: file_queries.list_files(con, where, limit, offset))

    def search(
        self, words: str, *, all_versions: bool = False, limit: int | None = None, **filters: Any
    ) -> pl.DataFrame:
        """Find files that have all of some words in their names, tags or metadata.

        Parameters
        ----------
        words : str
            Parts of words are enough; capitals do not matter.
        limit : int, optional
        **filters
            As for `list`.

        Returns
        -------
        polars.DataFrame
            As `list` gives it.
        """
        sought = as_text(words, "words").split()
        if not sought:
            raise InvalidInput("words: expected at least one word, found none.")
        where = self._where(None, filters, words=sought, all_versions=all_versions)
        return self._engine.query(lambda con: file_queries.list_files(con, where, limit, 0))

    def summary(
        self, pattern: str | None = None, *, all_versions: bool = True, **filters: Any
    ) -> FileSummary:
        """Count files and bytes.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     _ = store.files.put(b"x" * 9000, "a/x.txt", type="text_raw")
        ...     summary = store.files.summary()
        >>> summary.files, summary.size_bytes, summary.by_compression
        (1, 9000, {'zstd': 1})
        >>> folder.cleanup()
        """
        where = self._where(pattern, filters, all_versions=all_versions)
        found = self._engine.query(lambda con: file_queries.counts(con, where))
        return summarised(found)

    def print_summary(self, pattern: str | None = None, **filters: Any) -> None:
        """Print what `summary` counts."""
        print(self.summary(pattern, **filters))

    def _where(
        self, pattern: str | None, filters: Mapping[str, Any], **more: Any
    ) -> tuple[str, dict[str, Any]]:
        said = {"test_name": self._defaults.get("test_name"), **filters}
        for name, value in said.items():
            if name not in file_queries.FILTERS:
                raise InvalidInput(
                    f"Unknown filter {name!r}: expected one of {', '.join(file_queries.FILTERS)}."
                    f"{near(name, file_queries.FILTERS)}"
                )
            if value is not None:
                said[name] = self._spelt(name, value)
        since, before = more.pop("since", None), more.pop("before", None)
        return file_queries.condition(
            None if pattern is None else as_text(pattern, "pattern"),
            said,
            prefix=self._prefix,
            since=None if since is None else naive(since),
            before=None if before is None else naive(before),
            **more,
        )

    def _spelt(self, name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._spelt(name, each) for each in value]
        text = as_text(value, name)
        if name in _WORDS:
            return check_word(text, name, _WORDS[name])
        return (
            check_type_name(text, BUILT_IN if text in BUILT_IN else self.types()) if name == "type" else text
        )
