"""Changing what is said of stored files: status, aliases; and looking whether they are intact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nirs_store.catalog import file_queries, file_removal, file_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.guard import check_guard
from nirs_store.catalog.values import as_text
from nirs_store.errors import BlobCorrupt, BlobMissing, InvalidInput, UnknownFile, UnknownId
from nirs_store.lazily import polars as pl
from nirs_store.registry.audit import note
from nirs_store.registry.files.active import active_run
from nirs_store.registry.files.auditing import attempting
from nirs_store.registry.files.finding import require_version
from nirs_store.registry.files.names import check_alias, parse_version
from nirs_store.registry.files.reading import content_hash
from nirs_store.registry.files.removing import RemoveMethods
from nirs_store.registry.files.request import FileVersion
from nirs_store.registry.files.words import STATUSES, check_word

__all__ = ["ChangeMethods", "FileValidation"]


@dataclass(frozen=True)
class FileValidation:
    """Whether stored files are intact.

    Attributes
    ----------
    checked : int
        Versions with content that were looked at.
    problems : tuple of dict
        name, test_name, version, version_id, problem ("missing", "damaged" or "unreadable") and message of each that
        is not.
    """

    checked: int
    problems: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return {"checked": self.checked, "ok": self.ok, "problems": list(self.problems)}

    def __str__(self) -> str:
        lines = [f"{self.checked} versions checked, {len(self.problems)} not intact"]
        return "\n".join([*lines, *(f"  {each['message']}" for each in self.problems)])


class ChangeMethods(RemoveMethods):
    """Status, aliases, validation."""

    def set_status(
        self,
        name: str,
        status: str,
        message: str | None = None,
        *,
        version: int | str | None = None,
        test_name: str | None = None,
    ) -> None:
        """Say how far a file is.

        Parameters
        ----------
        status : {"pending", "in_progress", "completed", "failed"}
        message : str, optional
            Such as what failed.

        Raises
        ------
        UnknownFile, InvalidInput
            Nothing was changed.
        """
        whole, test = self._name(name), self._test(test_name)
        with attempting(self._engine, "set_status", whole):
            number = parse_version(version)
            values = {
                "status": check_word(status, "status", STATUSES),
                "message": None if message is None else as_text(message, "message"),
            }
            check_guard(self._engine, {"message": values["message"]})

            def work(con: Connection) -> dict[str, Any]:
                row = require_version(con, whole, number, test)
                file_rows.change_version(con, row["version_id"], values)
                return row

            row = self._engine.change(work)
        run = active_run(self._engine)
        if run is not None:
            run.touched.add(row["version_id"])
        details = {"name": row["name"], "before": row["status"], **values}
        note(self._engine, "set_status", "file", row["version_id"], details=details)

    def versions(self, name: str, *, test_name: str | None = None) -> pl.DataFrame:
        """List the versions of a file, newest first, with their aliases.

        Raises
        ------
        UnknownFile
        """
        row = self._row(name, None, test_name)
        return self._engine.query(lambda con: file_queries.versions_of(con, row["name"], row["test_name"]))

    def aliases(self, name: str, *, test_name: str | None = None) -> dict[str, int]:
        """Give the aliases of a file with the version that each means.

        Raises
        ------
        UnknownFile
        """
        row = self._row(name, None, test_name)
        found = self._engine.query(lambda con: file_rows.aliases_of(con, row["name"], row["test_name"]))
        return {each["alias"]: int(each["version"]) for each in found}

    def set_alias(
        self, name: str, alias: str, version: int | str | None = None, *, test_name: str | None = None
    ) -> FileVersion:
        """Let an alias mean a version; one that is there is moved.

        Parameters
        ----------
        alias : str
            A word that does not look like a version: ``champion``, ``release-1.0``.
        version : int or str, optional
            The newest by default.

        Raises
        ------
        InvalidInput, UnknownFile
            Nothing was changed.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     for text in (b"first", b"second"):
        ...         _ = store.files.put(text, "model.txt", type="model")
        ...     _ = store.files.set_alias("model.txt", "champion", "v1")
        ...     store.files.get("model.txt", version="champion")
        b'first'
        >>> folder.cleanup()
        """
        whole, test = self._name(name), self._test(test_name)
        with attempting(self._engine, "set_alias", whole):
            word, number = check_alias(alias), parse_version(version)

            def work(con: Connection) -> tuple[dict[str, Any], int | None]:
                row = require_version(con, whole, number, test)
                before = {each["alias"]: each["version"] for each in _aliases(con, row)}
                file_rows.put_alias(con, row["name"], row["test_name"], word, row["version_id"])
                return row, before.get(word)

            row, before = self._engine.change(work)
        details = {"name": row["name"], "alias": word, "before": before, "now": row["version"]}
        note(self._engine, "set_alias", "file", row["version_id"], details=details)
        return FileVersion.of(row, added=False)

    def remove_alias(self, name: str, alias: str, *, test_name: str | None = None) -> None:
        """Take an alias away; the version stays.

        Raises
        ------
        UnknownFile
            No such alias.
        """
        whole, test = self._name(name), self._test(test_name)
        with attempting(self._engine, "remove_alias", whole):

            def work(con: Connection) -> tuple[dict[str, Any], str]:
                row = require_version(con, whole, None, test)
                gone = file_rows.drop_alias(con, row["name"], row["test_name"], alias)
                if gone is None:
                    raise UnknownFile(whole, f"{row['name']!r} has no alias {alias!r}. Nothing was changed.")
                return row, gone

            row, gone = self._engine.change(work)
        note(self._engine, "remove_alias", "file", gone, details={"name": row["name"], "alias": alias})

    def validate(
        self, pattern: str | None = None, *, all_versions: bool = True, **filters: Any
    ) -> FileValidation:
        """Read every file and compare it with the SHA-256 that it was stored with; changes nothing.

        Parameters
        ----------
        pattern, all_versions, **filters
            As for `list`.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     _ = store.files.put(b"x", "x.txt", type="log")
        ...     print(store.files.validate())
        1 versions checked, 0 not intact
        >>> folder.cleanup()
        """
        where = self._where(pattern, filters, all_versions=all_versions)
        found = self._engine.query(lambda con: file_removal.versions(con, where))
        ids = [row["version_id"] for row in found if row["artifact_id"] is not None]
        rows = self._engine.query(lambda con: file_rows.by_ids(con, ids))
        problems = []
        known: dict[tuple[str, str], tuple[str, str] | None] = {}
        for version_id in ids:
            row = rows[version_id]
            key = (row["artifact_id"], row["content_hash"])
            if key not in known:
                known[key] = self._problem(row)
            wrong = known[key]
            if wrong is not None:
                said = {name: row[name] for name in ("name", "test_name", "version", "version_id")}
                problems.append(
                    {**said, "problem": wrong[0], "message": f"{row['name']} v{row['version']}: {wrong[1]}"}
                )
        return FileValidation(len(ids), tuple(problems))

    def _problem(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        try:
            content_hash(self._engine, row)
        except BlobCorrupt as error:
            return "damaged", str(error)
        except (BlobMissing, UnknownId) as error:
            return "missing", str(error)
        except (InvalidInput, OSError) as error:
            # A folder with names that nobody could store, or a file that the system does not give: the others
            # are looked at all the same.
            return "unreadable", str(error)
        return None


def _aliases(con: Connection, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return file_rows.aliases_of(con, row["name"], row["test_name"])
