"""Changing what is said of stored files, deleting and cleaning up, and checking whether files are intact."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nirs_store.audit.trail import attempting
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Row, Table, column
from nirs_store.errors import BlobCorrupt, BlobMissing, InvalidInput, OverwriteRefused, UnknownFile, UnknownId
from nirs_store.files.names import (
    BUILT_IN,
    PRODUCTION,
    STATUSES,
    TEST,
    FileType,
    FileVersion,
    check_alias,
    check_schema,
    check_word,
)
from nirs_store.files.output import check_content, remove_copies
from nirs_store.files.rows import aliases_of, delete_versions, dependents, versions
from nirs_store.files.runs import abandoned, remove_abandoned
from nirs_store.files.scope import Scope, active_run, note_versions
from nirs_store.ids import earlier, is_id, new_id, now_naive, utcnow
from nirs_store.records.notes import check_guard, note
from nirs_store.values import as_text, whole_number

Version = int | str | None


# -- status, aliases, types ----------------------------------------------------------------------


def set_status(
    scope: Scope, name: object, status: str, message: str | None, version: Version, test_name: str | None
) -> None:
    """Say how far a file is."""
    engine, subject = scope.engine, scope.name(name)
    with attempting(engine, "set_status", "file", subject):
        which = scope.which(name, version, test_name)
        values = {
            "status": check_word(status, "status", STATUSES),
            "message": None if message is None else as_text(message, "message"),
        }
        check_guard(engine, {"message": values["message"]})

        def work(con: Connection) -> Row:
            row = scope.shown(con, which)
            changed = {**values, "updated_at": now_naive()}
            Table(con, "file_versions").update(changed, version_id=row["version_id"])
            return row

        row = engine.change(work)
    run = active_run(engine)
    if run is not None:
        run.touched.add(row["version_id"])
    details = {"name": row["name"], "before": row["status"], **values}
    note(engine, "set_status", "file", row["version_id"], details=details)


def set_alias(scope: Scope, name: object, alias: str, version: Version, test_name: str | None) -> FileVersion:
    """Point an alias to a version, wherever it pointed before."""
    engine, subject = scope.engine, scope.name(name)
    with attempting(engine, "set_alias", "file", subject):
        word, which = check_alias(alias), scope.which(name, version, test_name)

        def work(con: Connection) -> tuple[Row, int | None]:
            row = scope.shown(con, which)
            series = {"name": row["name"], "test_name": row["test_name"]}
            before = {each["alias"]: each["version"] for each in aliases_of(con, **series)}
            made = {
                "alias_id": new_id(),
                "alias": word,
                "version_id": row["version_id"],
                "made_at": now_naive(),
            }
            Table(con, "file_aliases").delete(**series, alias=word)
            Table(con, "file_aliases").insert([{**series, **made}])
            return row, before.get(word)

        row, before = engine.change(work)
    details = {"name": row["name"], "alias": word, "before": before, "now": row["version"]}
    note(engine, "set_alias", "file", row["version_id"], details=details)
    return FileVersion.of(row, added=False)


def remove_alias(scope: Scope, name: object, alias: str, test_name: str | None) -> None:
    """Remove an alias; the version stays."""
    engine, subject = scope.engine, scope.name(name)
    with attempting(engine, "remove_alias", "file", subject):
        which = scope.which(name, None, test_name)

        def work(con: Connection) -> Row:
            row = scope.shown(con, which)
            series = {"name": row["name"], "test_name": row["test_name"]}
            gone = Table(con, "file_aliases").delete(**series, alias=alias)
            if not gone:
                raise UnknownFile(which[0], f"{row['name']!r} has no alias {alias!r}. Nothing was changed.")
            return gone[0]

        gone = engine.change(work)
    note(engine, "remove_alias", "file", gone["version_id"], details={"name": gone["name"], "alias": alias})


def declare_type(
    engine: Engine, name: str, description: str, metadata_schema: Mapping[str, Any] | None
) -> FileType:
    """Add a type of files, or change one that was added."""
    plain = str(name)
    with attempting(engine, "declare_type", "file", plain):
        if not plain.isidentifier() or plain != plain.lower() or len(plain) > 64:
            raise InvalidInput(f"name: expected lower-case letters, digits and '_', found {name!r}.")
        if plain in BUILT_IN:
            raise InvalidInput(
                f"name: {plain!r} comes with the library and stays as it is. Give another name."
            )
        schema = None if metadata_schema is None else check_schema(metadata_schema)
        row = {"type": plain, "description": description, "metadata_schema": schema, "made_at": now_naive()}
        engine.change(lambda con: Table(con, "file_types").insert([row], "OR REPLACE"))
    note(engine, "declare_type", None, plain, details={"metadata_schema": schema})
    return FileType(plain, description, schema, built_in=False)


# -- Deleting: plan, then execute what was planned; cleaning up never takes what something needs --


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
        """Return plain data."""
        return dict(vars(self))

    def __str__(self) -> str:
        verb = "would be removed" if self.dry_run else "removed"
        words = f"{len(self.versions)} versions {verb}, {self.size_bytes:,} bytes; {len(self.kept)} kept"
        return words + (f"; {self.workplaces} temporary folders" if self.workplaces else "")


# What goes; and what is kept of it: name, version and why.
_Plan = tuple[list[Row], list[tuple[str, int, str]]]


def delete(
    scope: Scope, name: object, version: Version, test_name: str | None, force: bool, dry_run: bool
) -> FileRemoval:
    """Delete one version of a file, or all that the view shows."""
    which = scope.which(name, version, test_name)

    def choose(con: Connection) -> _Plan:
        first = scope.shown(con, which)
        if version is not None or is_id(which[0]):
            chosen = [first]
        else:
            series = {"name": first["name"], "test_name": first["test_name"]}
            found = Table(con, "file_versions").where("created_at, version_id", **series)
            chosen = [row for row in found if scope.shows(row, which[2])]
        _, kept = _without_needed(con, scope.engine, chosen, sources=False)
        if kept and not force:
            words = "; ".join(f"{n} v{v}: {why}" for n, v, why in kept[:5])
            raise OverwriteRefused(
                f"Nothing was deleted. {words}. Delete it anyway with force=True (on the command line: --force)."
            )
        return chosen, []

    with attempting(scope.engine, "delete", "file", which[0]):
        return _remove(scope.engine, "delete", choose, dry_run)


def cleanup(
    scope: Scope,
    days_old: float,
    dry_run: bool,
    include_production: bool,
    of_evaluations: bool,
    filters: Mapping[str, Any],
) -> FileRemoval:
    """Remove old files that nothing needs, and leftovers of programs that died."""
    if not days_old >= 0:
        raise InvalidInput(f"days_old: expected a number of at least 0, found {days_old!r}.")
    where = scope.where(None, filters, all_versions=True, before=earlier(utcnow(), days=days_old))

    def choose(con: Connection) -> _Plan:
        free = frozenset(
            column(
                con,
                "SELECT evaluation_id FROM evaluations WHERE model_id NOT IN (SELECT model_id FROM champions) AND "
                "evaluation_id NOT IN (SELECT evaluation_id FROM champions WHERE evaluation_id IS NOT NULL)",
            )
            if of_evaluations
            else ()
        )
        return _without_needed(
            con, scope.engine, versions(con, where), production=include_production, free=free
        )

    with attempting(scope.engine, "cleanup", "file"):
        return _remove(scope.engine, "cleanup", choose, dry_run, leftovers=True)


def cleanup_old_tests(scope: Scope, keep_recent: int, dry_run: bool) -> FileRemoval:
    """Remove all tests but the most recent, and old versions of test content without a test's name."""
    whole_number("keep_recent", keep_recent, 0, "")
    where = scope.where(None, {}, all_versions=True)

    def choose(con: Connection) -> _Plan:
        shown = [row for row in versions(con, where) if row["mode"] == TEST]
        # Oldest first, so a test's last row decides: the tests of other views do not count.
        last = dict.fromkeys(row["test_name"] for row in reversed(shown) if row["test_name"] is not None)
        old_tests = set(list(last)[keep_recent:])
        chosen = [row for row in shown if row["test_name"] in old_tests]
        nameless: dict[str, list[Row]] = {}
        for row in shown:
            if row["test_name"] is None:
                nameless.setdefault(row["name"], []).append(row)
        for series in nameless.values():
            newest_first = sorted(series, key=lambda row: -int(row["version"]))
            # The newest is what the name means; it stays whatever the number.
            chosen += newest_first[max(keep_recent, 1) :]
        return _without_needed(con, scope.engine, chosen)

    with attempting(scope.engine, "cleanup_old_tests", "file"):
        return _remove(scope.engine, "cleanup_old_tests", choose, dry_run)


def _remove(
    engine: Engine,
    operation: str,
    choose: Callable[[Connection], _Plan],
    dry_run: bool,
    *,
    leftovers: bool = False,
) -> FileRemoval:
    """Remove what `choose` finds in the same transaction, then blobs and copies that nothing names any more."""
    blobs = folders = 0
    if dry_run:
        gone, kept = engine.query(choose)
        folders = len(abandoned(engine)) if leftovers else 0
    else:

        def work(con: Connection) -> tuple[_Plan, set[str]]:
            plan = choose(con)
            return plan, delete_versions(con, plan[0]) if plan[0] else set()

        (gone, kept), unnamed = engine.change(work)
        ids = sorted({row["artifact_id"] for row in gone} - {None})
        if ids:
            from nirs_store.maintenance.gc import collect

            blobs = collect(engine, only=ids).files
        remove_copies(engine, unnamed)
        note_versions(engine, operation, gone)
        folders = remove_abandoned(engine) if leftovers else 0
    names = ("version_id", "name", "test_name", "version", "type", "mode", "size_bytes", "stored_bytes")
    return FileRemoval(
        tuple({name: row[name] for name in names} for row in gone),
        tuple(kept),
        sum(int(row["size_bytes"]) for row in gone),
        blobs,
        folders,
        dry_run,
    )


def _without_needed(
    con: Connection,
    engine: Engine,
    chosen: Sequence[Row],
    *,
    production: bool = False,
    sources: bool = True,
    free: Collection[str] = frozenset(),
) -> _Plan:
    """Take from what is to go everything that something else needs; evaluations in `free` need nothing."""
    aliases = {row["version_id"]: row["alias"] for row in Table(con, "file_aliases").where("alias DESC")}
    pins = {row["object_id"] for row in Table(con, "pins").where(object_kind="file")}
    users = dependents(con)
    alive = set(engine.living_sessions())
    kept: list[tuple[str, int, str]] = []
    going: dict[str, Row] = {}

    def keep(row: Row, reason: str) -> None:
        kept.append((row["name"], int(row["version"]), reason))

    for row in chosen:
        coming = row["status"] in ("pending", "in_progress") and row["content_hash"] is None
        if row["mode"] == PRODUCTION and row["status"] == "completed" and not production:
            keep(row, "it is production content")
        elif row["version_id"] in aliases:
            keep(row, f"the alias {aliases[row['version_id']]!r} means it")
        elif row["version_id"] in pins:
            keep(row, "it is pinned")
        elif coming and row["session_id"] in alive:
            keep(row, "a program is making it")
        else:
            going[row["version_id"]] = row
    while True:
        needed: dict[str, str] = {}
        for version_id in going:
            for kind, user in users.get(version_id, ()):
                if user in going or (kind == "evaluation" and user in free):
                    continue
                if kind == "group":
                    needed[version_id] = f"the group {user} holds it"
                elif sources:
                    needed[version_id] = f"the {kind} {user} was made from it"
        if not needed:
            return list(going.values()), kept
        # What stays needs its own sources: look again.
        for version_id, reason in needed.items():
            keep(going.pop(version_id), reason)


# -- checking ------------------------------------------------------------------------------------


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
        """Return plain data."""
        return {"checked": self.checked, "ok": self.ok, "problems": list(self.problems)}

    def __str__(self) -> str:
        lines = [f"{self.checked} versions checked, {len(self.problems)} not intact"]
        return "\n".join([*lines, *(f"  {each['message']}" for each in self.problems)])


def validate(
    scope: Scope, pattern: str | None, all_versions: bool, filters: Mapping[str, Any]
) -> FileValidation:
    """Read every file that fits and compare it with the hash that it was stored with."""
    where = scope.where(pattern, filters, all_versions=all_versions)
    found = [row for row in scope.engine.query(lambda con: versions(con, where)) if row["artifact_id"]]
    problems = []
    known: dict[tuple[str, str], tuple[str, str] | None] = {}
    for row in found:
        key = (row["artifact_id"], row["content_hash"])
        if key not in known:
            known[key] = _problem(scope.engine, row)
        wrong = known[key]
        if wrong is not None:
            said = {name: row[name] for name in ("name", "test_name", "version", "version_id")}
            message = f"{row['name']} v{row['version']}: {wrong[1]}"
            problems.append({**said, "problem": wrong[0], "message": message})
    return FileValidation(len(found), tuple(problems))


def _problem(engine: Engine, row: Row) -> tuple[str, str] | None:
    try:
        check_content(engine, row)
    except BlobCorrupt as error:
        return "damaged", str(error)
    except (BlobMissing, UnknownId) as error:
        return "missing", str(error)
    except (InvalidInput, OSError) as error:
        # A folder with names that cannot be stored, or a file that the system does not give: the others are
        # looked at anyway.
        return "unreadable", str(error)
    return None
