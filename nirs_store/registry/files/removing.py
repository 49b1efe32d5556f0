"""Deleting files: plan, then execute what was planned. What something still needs is never cleaned away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nirs_store.catalog import file_removal
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput, OverwriteRefused
from nirs_store.ids import earlier, is_id, utcnow
from nirs_store.registry.files.auditing import attempting, note_rows
from nirs_store.registry.files.copies import remove_copies
from nirs_store.registry.files.finding import require_version
from nirs_store.registry.files.getting import GetMethods
from nirs_store.registry.files.names import parse_version
from nirs_store.registry.files.words import PRODUCTION
from nirs_store.registry.files.workplace import abandoned_workplaces, remove_workplace

__all__ = ["FileRemoval", "RemoveMethods"]

_COMING = ("pending", "in_progress")
Row = dict[str, Any]


@dataclass(frozen=True)
class FileRemoval:
    """What a deletion removed, or would remove.

    Attributes
    ----------
    versions : tuple of dict
        version_id, name, test_name, version, type, mode, size_bytes, stored_bytes of each.
    kept : tuple of (str, int, str)
        Name, version, and why it was kept.
    size_bytes : int
        Of the content that goes, before compression.
    blobs : int
        Files that were removed from the disk; nothing else held them.
    workplaces : int
        Temporary folders of programs that have died.
    dry_run : bool
    """

    versions: tuple[Row, ...]
    kept: tuple[tuple[str, int, str], ...] = ()
    size_bytes: int = 0
    blobs: int = 0
    workplaces: int = 0
    dry_run: bool = False

    def __len__(self) -> int:
        return len(self.versions)

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return dict(vars(self))

    def __str__(self) -> str:
        verb = "would be removed" if self.dry_run else "removed"
        words = f"{len(self.versions)} versions {verb}, {self.size_bytes:,} bytes; {len(self.kept)} kept"
        return words + (f"; {self.workplaces} temporary folders" if self.workplaces else "")


@dataclass
class _Plan:
    gone: list[Row] = field(default_factory=list)
    kept: list[tuple[str, int, str]] = field(default_factory=list)


class RemoveMethods(GetMethods):
    """Deleting and cleaning up."""

    def delete(
        self,
        name: str,
        *,
        version: int | str | None = None,
        test_name: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> FileRemoval:
        """Delete a file with all its versions, or one version of it.

        Its blob goes too where nothing else holds it. A version number is never given again.

        Parameters
        ----------
        version : int or str, optional
            One version: ``3``, ``"v3"``, ``"latest"`` or an alias. All versions by default.
        force : bool
            Also production content, and what an alias, a pin or a group holds.
        dry_run : bool
            Return the plan and change nothing.

        Raises
        ------
        UnknownFile
        OverwriteRefused
            Without `force`: what is deleted is production content, or something holds it. Nothing was changed.
        """
        whole, test = self._name(name), self._test(test_name)
        number = parse_version(version)

        def choose(con: Connection) -> _Plan:
            first = require_version(con, whole, number, test)
            series = file_removal.series_of(con, first["name"], first["test_name"])
            single = version is not None or is_id(whole)
            chosen = [row for row in series if not single or row["version_id"] == first["version_id"]]
            plan = _without_needed(con, self._engine, chosen, production=False, sources=False)
            if plan.kept and not force:
                words = "; ".join(f"{n} v{v}: {why}" for n, v, why in plan.kept[:5])
                raise OverwriteRefused(
                    f"Nothing was deleted. {words}. Delete it all the same with force=True (on the command line: "
                    "--force)."
                )
            return _Plan(chosen)

        with attempting(self._engine, "delete", whole):
            return self._remove("delete", choose, dry_run)

    def cleanup(
        self, days_old: float = 30, *, dry_run: bool = False, include_production: bool = False, **filters: Any
    ) -> FileRemoval:
        """Remove files stored more than some days ago that nothing needs, and leftovers of programs that died.

        Kept are: production content; what an alias, a pin or a group holds; what something that stays was made
        from; what is under way in a program that lives.

        Parameters
        ----------
        days_old : float
        dry_run : bool
            Return the plan and change nothing.
        include_production : bool
            Production content as well.
        **filters
            As for `list`: only these.

        Returns
        -------
        FileRemoval
            ``len()`` of it is how many.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     _ = store.files.put(b"draft", "draft.txt", type="log")
        ...     print(store.files.cleanup(days_old=30), "|", store.files.cleanup(days_old=0, dry_run=True))
        0 versions removed, 0 bytes; 0 kept | 1 versions would be removed, 5 bytes; 0 kept
        >>> folder.cleanup()
        """
        if not days_old >= 0:
            raise InvalidInput(f"days_old: expected a number of at least 0, found {days_old!r}.")
        before = earlier(utcnow(), days=days_old)
        where = self._where(None, filters, all_versions=True, before=before)

        def choose(con: Connection) -> _Plan:
            old = file_removal.versions(con, where)
            return _without_needed(con, self._engine, old, production=include_production, sources=True)

        with attempting(self._engine, "cleanup"):
            return self._remove("cleanup", choose, dry_run, leftovers=True)

    def cleanup_old_tests(self, keep_recent: int = 5, *, dry_run: bool = False) -> FileRemoval:
        """Remove all tests but the most recent, and of test content without a test's name all but recent versions.

        Parameters
        ----------
        keep_recent : int
            How many tests stay, by when they stored something last; and how many versions of each name.
        dry_run : bool
            Return the plan and change nothing.

        Returns
        -------
        FileRemoval
            What something needs is in ``kept``, as for `cleanup`.
        """
        if isinstance(keep_recent, bool) or not isinstance(keep_recent, int) or keep_recent < 0:
            raise InvalidInput(f"keep_recent: expected a whole number of at least 0, found {keep_recent!r}.")
        where = self._where(None, {"mode": "test", "test_name": None}, all_versions=True)

        def choose(con: Connection) -> _Plan:
            old_tests = set(file_removal.test_names(con)[keep_recent:])
            chosen: list[Row] = []
            nameless: dict[str, list[Row]] = {}
            for row in file_removal.versions(con, where):
                if row["test_name"] is None:
                    nameless.setdefault(row["name"], []).append(row)
                elif row["test_name"] in old_tests:
                    chosen.append(row)
            for series in nameless.values():
                newest_first = sorted(series, key=lambda row: -int(row["version"]))
                # The newest is what the name means; it stays whatever the number.
                chosen += newest_first[max(keep_recent, 1) :]
            return _without_needed(con, self._engine, chosen, production=False, sources=True)

        with attempting(self._engine, "cleanup_old_tests"):
            return self._remove("cleanup_old_tests", choose, dry_run)

    def cleanup_temp(self) -> int:
        """Remove temporary folders of programs that have died; gives how many."""
        self._engine.check_writable()
        folders = abandoned_workplaces(self._engine)
        for folder in folders:
            remove_workplace(folder)
        return len(folders)

    def _remove(
        self, operation: str, choose: Callable[[Connection], _Plan], dry_run: bool, *, leftovers: bool = False
    ) -> FileRemoval:
        engine = self._engine
        if dry_run:
            plan = engine.query(choose)
            folders = len(abandoned_workplaces(engine)) if leftovers else 0
            return _result(plan, workplaces=folders, dry_run=True)

        def work(con: Connection) -> tuple[_Plan, set[str]]:
            plan = choose(con)
            hashes = {row["content_hash"] for row in plan.gone} - {None}
            if plan.gone:
                file_removal.forget(con, plan.gone)
            return plan, hashes - file_removal.named_hashes(con, hashes)

        plan, unnamed = engine.change(work)
        blobs = _collect(engine, {row["artifact_id"] for row in plan.gone} - {None})
        remove_copies(engine, unnamed)
        note_rows(engine, operation, plan.gone)
        return _result(plan, blobs=blobs, workplaces=self.cleanup_temp() if leftovers else 0)


def _result(plan: _Plan, **more: Any) -> FileRemoval:
    names = ("version_id", "name", "test_name", "version", "type", "mode", "size_bytes", "stored_bytes")
    return FileRemoval(
        tuple({name: row[name] for name in names} for row in plan.gone),
        tuple(plan.kept),
        sum(int(row["size_bytes"]) for row in plan.gone),
        **more,
    )


def _without_needed(
    con: Connection, engine: Engine, chosen: Sequence[Row], *, production: bool, sources: bool
) -> _Plan:
    """Take from what is to go everything that something else needs."""
    aliases, pins, users = file_removal.aliased(con), file_removal.pinned(con), file_removal.dependents(con)
    alive = set(engine.living_sessions())
    plan = _Plan()
    going: dict[str, Row] = {}
    for row in chosen:
        reason = _held(row, aliases, pins, alive, production)
        if reason is None:
            going[row["version_id"]] = row
        else:
            plan.kept.append((row["name"], int(row["version"]), reason))
    while True:
        needed = _needed(going, users, sources)
        if not needed:
            plan.gone = list(going.values())
            return plan
        for version_id, reason in needed.items():
            row = going.pop(version_id)
            plan.kept.append((row["name"], int(row["version"]), reason))


def _held(
    row: Row, aliases: Mapping[str, str], pins: set[str], alive: set[str], production: bool
) -> str | None:
    if row["mode"] == PRODUCTION and row["status"] == "completed" and not production:
        return "it is production content"
    if row["version_id"] in aliases:
        return f"the alias {aliases[row['version_id']]!r} means it"
    if row["version_id"] in pins:
        return "it is pinned"
    if row["status"] in _COMING and row["session_id"] in alive and row["content_hash"] is None:
        return "a program is making it"
    return None


def _needed(
    going: Mapping[str, Row], users: Mapping[str, list[tuple[str, str]]], sources: bool
) -> dict[str, str]:
    found = {}
    for version_id in going:
        for kind, user in users.get(version_id, ()):
            if user not in going and (sources or kind == "group"):
                what = "the group" if kind == "group" else f"the {kind}"
                found[version_id] = f"{what} {user} " + (
                    "holds it" if kind == "group" else "was made from it"
                )
    return found


def _collect(engine: Engine, artifact_ids: Iterable[str]) -> int:
    ids = sorted(artifact_ids)
    if not ids:
        return 0
    from nirs_store.upkeep.gc import collect

    return collect(engine, only=ids).files
