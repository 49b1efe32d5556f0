"""`Scope`: which files a view shows, and what holds for everything that is put through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Row
from nirs_store.errors import InvalidInput, UnknownFile, did_you_mean
from nirs_store.files.names import (
    BUILT_IN,
    COMPRESSIONS,
    COVERAGES,
    MODES,
    STATUSES,
    FileType,
    FileVersion,
    check_label,
    check_name,
    check_type_name,
    check_word,
    mode_of,
    parse_version,
)
from nirs_store.files.rows import FILTERS, Where, all_types, condition, require_version
from nirs_store.ids import is_id, naive
from nirs_store.records.notes import note, note_read
from nirs_store.values import as_text

# A name or an id, a version, a test's name and a mode.
Which = tuple[str, int | str | None, str | None, str | None]

# What a view shows besides its folder and mode: what was said of the files when they were put.
_SHOWN = ("coverage", "test_name", "model_id", "evaluation_id", "suite", "group", "episode")
_WORDS = {"status": STATUSES, "mode": MODES, "coverage": COVERAGES, "compression": COMPRESSIONS}


@dataclass(frozen=True)
class Scope:
    """The engine, a folder of names with its final slash, and defaults of what is put there."""

    engine: Engine
    prefix: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def within(self, folder: str, about: Mapping[str, Any]) -> Scope:
        """Narrow it to a folder and to what is said of its files."""
        defaults = {**self.defaults, **{key: value for key, value in about.items() if value is not None}}
        if "test_name" in defaults:
            check_label(defaults["test_name"], "test_name")
        for key in ("mode", "coverage"):
            if key in defaults:
                defaults[key] = check_word(defaults[key], key, _WORDS[key])
        mode_of(defaults.get("mode"), defaults.get("coverage"), defaults.get("test_name"))
        prefix = self.prefix + check_name(folder.rstrip("/"), "folder") + "/"
        return replace(self, prefix=prefix, defaults=defaults)

    @property
    def mode(self) -> str | None:
        """The mode of what is shown: as given, or implied by coverage or test name; None for both."""
        said = [self.defaults.get(key) for key in ("mode", "coverage", "test_name")]
        return mode_of(*said) if any(each is not None for each in said) else None

    def filters(self) -> dict[str, Any]:
        """Return what a row must have to be shown, by filter."""
        said = {"mode": self.mode, **{key: self.defaults.get(key) for key in _SHOWN}}
        return {key: value for key, value in said.items() if value is not None}

    def __str__(self) -> str:
        said = {"mode": self.mode, **self.defaults}
        words = "".join(f", {key}={value!r}" for key, value in said.items() if value is not None)
        return f"Files({self.prefix.rstrip('/')!r}{words})"

    # -- one version -------------------------------------------------------------------------------

    def name(self, name: object) -> str:
        """Return the whole name, or the id of a version as it is."""
        if isinstance(name, FileVersion):
            return name.version_id
        return str(name) if is_id(name) else self.new_name(name)

    def new_name(self, name: object) -> str:
        """Return the whole name of something to be stored."""
        return check_name(self.prefix + name if isinstance(name, str) and name[:1] != "/" else name)

    def which(self, name: object, version: object = None, test_name: str | None = None) -> Which:
        """Return which version is meant, as `require_version` and `find_version` take it."""
        own = self.defaults.get("test_name")
        test = own if test_name is None else test_name
        # A test's name that is asked for replaces the view's, and decides the mode by itself.
        mode = self.mode if test == own else None
        label = None if test is None else check_label(test, "test_name")
        return self.name(name), parse_version(version), label, mode

    def row(self, name: object, version: object = None, test_name: str | None = None) -> Row:
        """Return the row of a version."""
        which = self.which(name, version, test_name)
        return self.engine.query(lambda con: require_version(con, *which))

    def read(self, name: object, version: object = None, test_name: str | None = None) -> Row:
        """Return the row of a version, and note that it is read where the workspace asks for that."""
        row = self.row(name, version, test_name)
        note_read(self.engine, "get", "file", str(row["version_id"]), {"name": row["name"]})
        return row

    def shown(self, con: Connection, which: Which) -> Row:
        """Return the row of a version that is to be changed; refuse one that this view does not show."""
        row = require_version(con, *which)
        if not self.shows(row, which[2]):
            raise UnknownFile(
                which[0],
                f"{row['name']!r} v{row['version']} is not part of this view ({self}). Nothing was changed. "
                "Ask store.files, or a view that shows it.",
            )
        return row

    def shows(self, row: Row, test_name: str | None) -> bool:
        """Tell whether a row is part of this view; a test's name that is asked for replaces that of the view."""
        wanted = self.filters()
        if test_name != wanted.get("test_name"):
            wanted |= {"mode": None, "test_name": test_name}
        return str(row["name"]).startswith(self.prefix) and all(
            value is None or row[FILTERS[key]] == value for key, value in wanted.items()
        )

    # -- many --------------------------------------------------------------------------------------

    def where(
        self,
        pattern: str | None,
        filters: Mapping[str, Any],
        *,
        since: Any = None,
        before: Any = None,
        **more: Any,
    ) -> Where:
        """Put together the condition of a list."""
        said = {**self.filters(), **filters}
        if filters.get("test_name") is not None and "mode" not in filters:
            # A test that is asked for by its name is test content, whatever the view is of.
            said["mode"] = None
        for name, value in said.items():
            if name not in FILTERS:
                raise InvalidInput(
                    f"Unknown filter {name!r}: expected one of {', '.join(FILTERS)}.{did_you_mean(name, FILTERS)}"
                )
            if isinstance(value, (list, tuple, set, frozenset)):
                said[name] = [self._spelt(name, each) for each in value]
            elif value is not None:
                said[name] = self._spelt(name, value)
        return condition(
            None if pattern is None else as_text(pattern, "pattern"),
            said,
            prefix=self.prefix,
            since=None if since is None else naive(since),
            before=None if before is None else naive(before),
            newest_of_mode="mode" not in filters and self.mode is not None and said.get("mode") == self.mode,
            **more,
        )

    def _spelt(self, name: str, value: Any) -> str:
        text = as_text(value, name)
        if name == "type":
            return check_type_name(text, types_for(self.engine, text))
        return check_word(text, name, _WORDS[name]) if name in _WORDS else text

    def about(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what holds for a file: what its caller says, else this view, else the processing run under way."""
        run = active_run(self.engine)
        said = {**(run.defaults if run else {}), **self.defaults}
        said |= {key: value for key, value in given.items() if value is not None}
        if "map_name" in said:
            name = as_text(said.pop("map_name"), "map_name")
            metadata = said.get("metadata") or {}
            # Metadata of another kind are refused where all metadata are checked.
            if isinstance(metadata, Mapping):
                said["metadata"] = {"map_name": name, **metadata}
        return said


def types_for(engine: Engine, wanted: object) -> Mapping[str, FileType]:
    """Return the types; the catalog is asked only when the wanted one does not come with the library."""
    return BUILT_IN if str(wanted).lower().replace("-", "_") in BUILT_IN else engine.query(all_types)


# -- The processing run that is under way in this thread or task: what is put meanwhile belongs to it.


@dataclass
class ActiveRun:
    """What a put has to know of a run, and what the run has to know at its end."""

    engine: Engine
    defaults: dict[str, Any]
    #: Versions whose status was set during the run, also of files that it did not make.
    touched: set[str] = field(default_factory=set)


#: The runs of this thread or task, the innermost last.
ACTIVE: ContextVar[tuple[ActiveRun, ...]] = ContextVar("nirs_store_processing", default=())


def active_run(engine: Engine) -> ActiveRun | None:
    """Return the innermost run of a store."""
    return next((run for run in reversed(ACTIVE.get()) if run.engine is engine), None)


# -- What the audit trail hears of changed versions.


_NOTED_ONE_BY_ONE = 100


def note_versions(engine: Engine, operation: str, rows: Sequence[Mapping[str, Any]], **details: Any) -> None:
    """Note a change of versions: one entry each, or one for many."""
    if len(rows) > _NOTED_ONE_BY_ONE:
        ids = [row["version_id"] for row in rows]
        note(engine, operation, "file", None, details={"count": len(ids), "versions": ids, **details})
        return
    for row in rows:
        names = ("name", "test_name", "version", "content_hash")
        said = {name: row[name] for name in names if row[name] is not None}
        note(engine, operation, "file", row["version_id"], details={**said, **details})
