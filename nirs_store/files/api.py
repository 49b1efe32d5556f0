"""`Files`: what `store.files` is."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

from nirs_store.addresses import user_path
from nirs_store.audit.trail import note
from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, write_error
from nirs_store.blobs.store import Identity, hash_file, identity_of
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.display import block, byte_text, field_table
from nirs_store.errors import (
    BlobCorrupt,
    BlobMissing,
    InvalidInput,
    NirsStoreError,
    OverwriteRefused,
    UnknownFile,
    UnknownId,
    did_you_mean,
)
from nirs_store.files import rows as file_queries
from nirs_store.files import rows as file_removal
from nirs_store.files import rows as file_rows
from nirs_store.files import rows as processing_rows
from nirs_store.files.content import (
    Content,
    FileContent,
    FolderContent,
    content_hash,
    content_of,
    listing_hash,
    open_stream,
    read_value,
    take_in,
    verified_blob,
    write_output,
)
from nirs_store.files.content import Row as Row_reading
from nirs_store.files.names import (
    BUILT_IN,
    COMPRESSIONS,
    COVERAGES,
    MODES,
    PRODUCTION,
    STATUSES,
    TEST,
    FileType,
    FileVersion,
    check_alias,
    check_label,
    check_name,
    check_request,
    check_schema,
    check_type_name,
    check_word,
    mode_of,
    parse_version,
    placed,
    tags_of,
    told,
)
from nirs_store.files.rows import Item, find_version, protected, record, record_group, require_version
from nirs_store.ids import earlier, is_id, naive, new_id, sha256_hex, utcnow
from nirs_store.lazy import polars as pl
from nirs_store.records.lookup import whole_id
from nirs_store.records.notes import check_guard, note_read
from nirs_store.values import as_error, as_name, as_text, one_kind, to_json, with_zone

__all__ = [
    "ActiveRun",
    "ChangeMethods",
    "FileRemoval",
    "FileSummary",
    "FileValidation",
    "Files",
    "FilesBase",
    "GetMethods",
    "GroupMethods",
    "MakeMethods",
    "ProcessingRun",
    "PutMethods",
    "RemoveMethods",
    "TrainingSet",
    "abandoned_workplaces",
    "activate",
    "active_run",
    "attempting",
    "deactivate",
    "materialised",
    "note_rows",
    "note_versions",
    "remove_copies",
    "remove_workplace",
    "summarised",
    "workplace",
    "write_group",
]


# -- The processing run that is under way in this thread or task, so that what is put meanwhile belongs to it.


@dataclass
class ActiveRun:
    """What a put has to know of the run, and what the run has to know at its end."""

    engine: Engine
    defaults: dict[str, Any]
    #: Versions whose status was set during the run, also of files that it did not make.
    touched: set[str] = field(default_factory=set)


_ACTIVE: ContextVar[tuple[ActiveRun, ...]] = ContextVar("nirs_store_processing", default=())


def active_run(engine: Engine) -> ActiveRun | None:
    """Give the innermost run of a store."""
    return next((run for run in reversed(_ACTIVE.get()) if run.engine is engine), None)


def activate(run: ActiveRun) -> None:
    """Let a run be the innermost one."""
    _ACTIVE.set((*_ACTIVE.get(), run))


def deactivate(run: ActiveRun) -> None:
    """End a run, in whatever order they end."""
    _ACTIVE.set(tuple(each for each in _ACTIVE.get() if each is not run))


# -- What the audit trail hears of stored files: every change, and every attempt that was refused.


_NOTED_ONE_BY_ONE = 100


@contextmanager
def attempting(engine: Engine, operation: str, object_id: str | None = None) -> Iterator[None]:
    """Note in the audit trail what is refused or fails in the block."""
    engine.check_writable()
    try:
        yield
    except (NirsStoreError, OSError, TypeError, ValueError) as error:
        said = None if object_id is None else _as_text(object_id)
        note(engine, operation, "file", said, success=False, message=_as_text(str(error)))
        raise


def _as_text(words: str) -> str:
    """Escape what UTF-8 cannot hold: a path of other bytes must not keep its own error from the caller."""
    return words.encode("utf-8", "backslashreplace").decode()


def note_versions(engine: Engine, operation: str, versions: Sequence[FileVersion], **details: Any) -> None:
    """Note a change of versions: one entry each, or one for many."""
    note_rows(engine, operation, [vars(version) for version in versions], **details)


def note_rows(engine: Engine, operation: str, rows: Sequence[Mapping[str, Any]], **details: Any) -> None:
    """Note a change of versions as their rows tell of them."""
    if len(rows) > _NOTED_ONE_BY_ONE:
        ids = [row["version_id"] for row in rows]
        note(engine, operation, "file", None, details={"count": len(ids), "versions": ids, **details})
        return
    for row in rows:
        said = {
            name: row[name]
            for name in ("name", "test_name", "version", "content_hash")
            if row[name] is not None
        }
        note(engine, operation, "file", row["version_id"], details={**said, **details})


# -- What all methods of `store.files` work with: the engine, a folder of names, what holds for all of them.


# What a view shows besides its folder and mode: what was said of the files when they were put.
_SCOPE = ("coverage", "test_name", "model_id", "evaluation_id", "suite", "group", "episode")


class FilesBase:
    """The engine, and the scope of names."""

    def __init__(
        self,
        engine: Engine,
        prefix: str = "",
        defaults: Mapping[str, Any] | None = None,
        *,
        store: object = None,
    ) -> None:
        self._engine = engine
        # Held, so that a store which nothing else holds is not closed under its view.
        self._store = store
        self._prefix = prefix
        self._defaults = dict(defaults or {})
        self._types: dict[str, FileType] | None = None

    def within(
        self,
        folder: str,
        *,
        mode: str | None = None,
        coverage: str | None = None,
        test_name: str | None = None,
        **about: Any,
    ) -> Self:
        """Give a view on one folder of names, with what holds for everything that is put there."""
        said = {"mode": mode, "coverage": coverage, "test_name": test_name, **about}
        defaults = {**self._defaults, **{key: value for key, value in said.items() if value is not None}}
        if defaults.get("test_name") is not None:
            check_label(defaults["test_name"], "test_name")
        for key, words in (("mode", MODES), ("coverage", COVERAGES)):
            if defaults.get(key) is not None:
                defaults[key] = check_word(defaults[key], key, words)
        mode_of(defaults.get("mode"), defaults.get("coverage"), defaults.get("test_name"))
        return type(self)(
            self._engine,
            self._prefix + check_name(folder.rstrip("/"), "folder") + "/",
            defaults,
            store=self._store,
        )

    @property
    def mode(self) -> str | None:
        """The mode of what this view shows: as given, or implied by coverage or test name; None for both."""
        mode, coverage, test = (self._defaults.get(key) for key in ("mode", "coverage", "test_name"))
        return None if mode is coverage is test is None else mode_of(mode, coverage, test)

    def _scope(self) -> dict[str, Any]:
        """Give what a row must have to be shown by this view, by filter."""
        said = {"mode": self.mode, **{key: self._defaults.get(key) for key in _SCOPE}}
        return {key: value for key, value in said.items() if value is not None}

    def _require_shown(
        self, con: Connection, name: str, version: int | str | None, test_name: str | None
    ) -> dict[str, Any]:
        """Give the row of a version that is to be changed; refuse one that this view does not show."""
        row = require_version(con, name, version, test_name, self._mode_for(test_name))
        if not self._shows(row, test_name):
            raise UnknownFile(
                name,
                f"{row['name']!r} v{row['version']} is not part of this view ({self!r}). Nothing was changed. "
                "Ask store.files, or a view that shows it.",
            )
        return row

    def _shows(self, row: Mapping[str, Any], test_name: str | None) -> bool:
        """Tell whether a row is part of this view; a test's name that is asked for replaces that of the view."""
        scope = self._scope()
        if test_name != scope.get("test_name"):
            scope |= {"mode": self._mode_for(test_name), "test_name": test_name}
        return str(row["name"]).startswith(self._prefix) and all(
            value is None or row[file_queries.FILTERS[key]] == value for key, value in scope.items()
        )

    def _mode_for(self, test_name: str | None) -> str | None:
        """Give the mode in which a name is looked up; a test's name that is asked for decides by itself."""
        return self.mode if test_name == self._defaults.get("test_name") else None

    @property
    def folder(self) -> str:
        """The folder of names that this is a view on; empty for all."""
        return self._prefix.rstrip("/")

    def __repr__(self) -> str:
        told = {"mode": self.mode, **self._defaults}
        said = "".join(f", {key}={value!r}" for key, value in told.items() if value is not None)
        return f"Files({self.folder!r}{said})"

    # -- names -------------------------------------------------------------------------------------

    def _name(self, name: object) -> str:
        """Give the whole name, or the id of a version as it is."""
        if isinstance(name, FileVersion):
            return name.version_id
        if is_id(name):
            return str(name)
        return check_name(name if not isinstance(name, str) or name.startswith("/") else self._prefix + name)

    def _test(self, test_name: str | None) -> str | None:
        found = self._defaults.get("test_name") if test_name is None else test_name
        return None if found is None else check_label(found, "test_name")

    def _row(self, name: object, version: object = None, test_name: str | None = None) -> dict[str, Any]:
        """Give the row of a version."""
        whole, number, test = self._name(name), parse_version(version), self._test(test_name)
        mode = self._mode_for(test)
        return self._engine.query(lambda con: require_version(con, whole, number, test, mode))

    def _read(self, row: dict[str, Any]) -> dict[str, Any]:
        """Note that a version is read, where the workspace asks for that, and return its row."""
        note_read(self._engine, "get", "file", str(row["version_id"]), {"name": row["name"]})
        return row

    def _said(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Give what holds for a file: what its caller says, else this view, else the processing run under way."""
        run = active_run(self._engine)
        given = {key: value for key, value in about.items() if value is not None}
        said = {**(run.defaults if run else {}), **self._defaults, **given}
        if "map_name" in said:
            name = as_text(said.pop("map_name"), "map_name")
            metadata = said.get("metadata") or {}
            # A description of another kind is refused where all descriptions are checked.
            if isinstance(metadata, Mapping):
                said["metadata"] = {"map_name": name, **metadata}
        return said

    # -- types -------------------------------------------------------------------------------------

    def types(self) -> dict[str, FileType]:
        """Give the types of files by their names: those that come with the library, and those declared here."""
        found = self._engine.query(file_rows.declared_types)
        declared = {
            row["type"]: FileType(row["type"], row["description"], row["metadata_schema"], built_in=False)
            for row in found
        }
        self._types = {**BUILT_IN, **declared}
        return dict(self._types)

    def declare_type(
        self, name: str, description: str = "", *, metadata_schema: Mapping[str, Any] | None = None
    ) -> FileType:
        """Add a type of files to this workspace, or change one that was added."""
        with attempting(self._engine, "declare_type", str(name)):
            plain = str(name)
            if not plain.isidentifier() or plain != plain.lower() or len(plain) > 64:
                raise InvalidInput(f"name: expected lower-case letters, digits and '_', found {name!r}.")
            if plain in BUILT_IN:
                raise InvalidInput(
                    f"name: {plain!r} comes with the library and stays as it is. Give another name."
                )
            schema = None if metadata_schema is None else check_schema(metadata_schema)

            def declare(con: Connection) -> None:
                file_rows.declare_type(con, plain, description, schema)

            self._engine.change(declare)
        note(self._engine, "declare_type", None, plain, details={"metadata_schema": schema})
        self._types = None
        return FileType(plain, description, schema, built_in=False)

    def _known_types(self, wanted: object) -> Mapping[str, FileType]:
        """Give the types; the catalog is asked when the wanted one does not come with the library."""
        try:
            check_type_name(wanted, BUILT_IN)
        except InvalidInput:
            return self.types()
        return BUILT_IN


# -- Storing files: one, many, or what the caller writes itself.


_WRITERS = 4


class PutMethods(FilesBase):
    """Storing."""

    def put(
        self,
        source: Any,
        name: str | None = None,
        *,
        type: str,
        run_id: str | None = None,
        sources: Sequence[Any] | str = (),
        tags: Iterable[str] | str = (),
        metadata: Mapping[str, Any] | None = None,
        map_name: str | None = None,
        compression: str | None = None,
        mode: str | None = None,
        coverage: str | None = None,
        test_name: str | None = None,
        model_id: str | None = None,
        evaluation_id: str | None = None,
        suite: str | None = None,
        group: str | None = None,
        episode: str | None = None,
        module: str | None = None,
        module_version: str | None = None,
        processing_id: str | None = None,
        status: str | None = None,
        message: str | None = None,
        force: bool = False,
    ) -> FileVersion:
        """Store a file under a name, as a new version unless the same content is there already.

        Parameters
        ----------
        source : path, bytes, plain data, data frame, or None
            A path (text is taken for one) names a file or a folder. A data frame is stored as Parquet, or as
            CSV or TSV where the name ends so. None stores metadata only.
        name : str, optional
            Hierarchical, with ``/``. By default the last part of the path that `source` is.
        type : str
            One of `types`.
        run_id : str, optional
            A run of this workspace.
        sources : sequence, optional
            What it was made from: names, ids of versions, `FileVersion` objects, or pairs of kind and id as in
            ``("chain", chain_id)``.
        tags : sequence of str, optional
        metadata : dict, optional
            Plain data that fits the type.
        map_name : str, optional
            Kept in `metadata` as ``map_name``; `list` filters by it.
        compression : {"auto", "none", "gzip", "zip", "tar.gz", "zstd"}, optional
            auto (the default) tries a sample and takes zstd or none.
        mode : {"production", "test"}, optional
            Production for full coverage, else test.
        coverage : {"full", "full_genome", "chromosome", "gene_subset", "subset", "sample"}, optional
        test_name : str, optional
            Keeps the file apart from what other tests, and production, store under the same name.
        model_id, evaluation_id, suite, group, episode, module, module_version : str, optional
            What it belongs to and what made it; `list` filters by them.
        processing_id : str, optional
            Set by a processing run.
        status : {"pending", "in_progress", "completed", "failed"}, optional
            completed by default. A version without content that is pending or in progress is announced: the
            next `put` under its name gives it its content.
        message : str, optional
            For the status.
        force : bool
            Replace production content: a new version is made, the old one stays.

        Returns
        -------
        FileVersion

        Raises
        ------
        SourceMissing, PathEscapes, InvalidInput
            The source or the description cannot be used.
        OverwriteRefused
            Other content is there in production mode.
        UnknownFile, UnknownId
            A source or the run is not there. In every case nothing was stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     first = store.files.put({"rmse": 0.4}, "fat/report.json", type="report", tags=["final"])
        ...     print(first.version, store.files.get("fat/report.json"))
        1 {'rmse': 0.4}
        >>> folder.cleanup()
        """
        about = {
            key: value
            for key, value in locals().items()
            if key not in ("self", "source", "name", "__class__")
        }
        return self._put_all([(source, _name_of(source) if name is None else name, about)], "put")[0]

    def put_many(self, items: Iterable[Mapping[str, Any]], **about: Any) -> list[FileVersion]:
        """Store many files in one transaction: all of them, or none.

        Parameters
        ----------
        items : iterable of dict
            Arguments of `put` a file, with ``source`` and ``name`` (which a path has by itself).
        **about
            Arguments that hold for all that do not say otherwise.

        Returns
        -------
        list of FileVersion
            In the same order.

        Raises
        ------
        As `put`, for the first that cannot be stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     episodes = [{"source": {"reward": n}, "name": f"episodes/{n}.json"} for n in range(3)]
        ...     stored = store.files.put_many(episodes, type="episode_data")
        ...     len(stored)
        3
        >>> folder.cleanup()
        """
        wanted = []
        for item in items:
            if not isinstance(item, Mapping):
                raise InvalidInput(f"items: expected dicts of arguments, found {item!r}. Nothing was stored.")
            said = {**about, **{key: value for key, value in item.items() if key not in ("source", "name")}}
            source, name = item.get("source"), item.get("name")
            wanted.append((source, _name_of(source) if name is None else name, said))
        return self._put_all(wanted, "put")

    def _put_all(
        self, wanted: Sequence[tuple[Any, Any, Mapping[str, Any]]], operation: str
    ) -> list[FileVersion]:
        one = str(wanted[0][1]) if len(wanted) == 1 else None
        items: list[Item] = []
        with attempting(self._engine, operation, one):
            try:
                self._prepare(wanted, items)
                versions = record(self._engine, items)
            finally:
                for item in items:
                    if item.stored is not None:
                        item.stored.draft.discard()
        changed = [version for version in versions if version.added]
        note_versions(self._engine, operation, changed, **_said(items))
        return versions

    def _prepare(self, wanted: Sequence[tuple[Any, Any, Mapping[str, Any]]], items: list[Item]) -> None:
        """Check all, then write all drafts."""
        contents: list[Content | None] = []
        types: Mapping[str, Any] = {}
        for source, name, about in wanted:
            said = self._said(about)
            if said.get("run_id") is not None:
                said = {**said, "run_id": whole_id(self._engine, "run", said["run_id"])}
            if said.get("type") not in types:
                types = self._known_types(said.get("type"))
            whole = check_name(
                name if not isinstance(name, str) or name.startswith("/") else self._prefix + name
            )
            request = check_request(whole, said, types)
            check_guard(self._engine, told(request))
            content = content_of(source, whole)
            contents.append(content)
            items.append(Item(request, "metadata" if content is None else content.kind))
        full = [(item, content) for item, content in zip(items, contents, strict=True) if content is not None]

        def take(pair: tuple[Item, Content]) -> None:
            item, content = pair
            item.stored = take_in(self._engine.blobs, content, item.request.name, item.request.compression)

        if len(full) == 1:
            take(full[0])
        elif full:
            # A durable write waits mostly for the disk.
            with ThreadPoolExecutor(_WRITERS, thread_name_prefix="nirs-store-files") as pool:
                for _ in pool.map(take, full):
                    pass


def _name_of(source: Any) -> str:
    """Give the name that a path has by itself."""
    if isinstance(source, (str, os.PathLike)):
        name = Path(os.fsdecode(source)).name
        if name:
            return name
    raise InvalidInput(
        f"name: expected one, as in 'fat/report.json': only a path has a name by itself, and the source is "
        f"{type(source).__name__ if not isinstance(source, str) else repr(source)}. Nothing was stored."
    )


def _said(items: Sequence[Item]) -> dict[str, Any]:
    """Return what the audit trail says of a put beside the versions."""
    forced = [item.request.name for item in items if item.request.force]
    return {"force": True} if forced else {}


# -- Folders for files in the making: one a caller, below the store's own temporary folder, removed at the end.


_PREFIX = "work-"


def workplace(engine: Engine) -> Path:
    """Make a folder of this session's."""
    engine.check_writable()
    # The session lives for others from here on, so that nobody takes the folder for abandoned.
    with engine.recording():
        pass
    folder = engine.layout.tmp / f"{_PREFIX}{engine.session_id}-{new_id()}"
    ensure_dir(folder)
    return folder


def remove_workplace(folder: Path) -> None:
    """Remove a folder with everything in it."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise write_error(folder, error) from error


def abandoned_workplaces(engine: Engine) -> list[Path]:
    """Folders of sessions that have ended."""
    found = [path for path in engine.layout.tmp.glob(f"{_PREFIX}*") if path.is_dir()]
    alive = set(engine.living_sessions())
    return sorted(path for path in found if _session_of(path) not in alive)


def _session_of(folder: Path) -> str | None:
    session = folder.name.removeprefix(_PREFIX)[:36]
    return session if is_id(session) else None


# -- Files that the caller writes itself, and files that are computed when they are not there yet.


_KEY = "computed_from"


class MakeMethods(PutMethods):
    """Making files."""

    @contextmanager
    def create(self, name: str, **about: Any) -> Iterator[Path]:
        """Give a path for code that writes its own file or folder, and store what is there at the end.

        Parameters
        ----------
        name : str
            The path ends with its last part, so that writers which look at the ending see it.
        **about
            As for `put`; ``type`` is ``file`` unless it is said.

        Yields
        ------
        Path
            Nothing is there yet. Write a file, or make a folder.

        Raises
        ------
        InvalidInput
            Nothing was written. After an exception in the block nothing is stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     with store.files.create("weights.txt", type="model_checkpoint") as path:
        ...         _ = path.write_text("0.1 0.2")
        ...     store.files.get("weights.txt")
        b'0.1 0.2'
        >>> folder.cleanup()
        """
        whole = self._name(name)
        about = {"type": self._defaults.get("type", "file"), **about}
        with attempting(self._engine, "put", whole):
            said = self._said(about)
            check_request(whole, said, self._known_types(said.get("type")))
        place = workplace(self._engine)
        try:
            path = place / whole.rpartition("/")[2]
            yield path
            if not path.exists():
                raise InvalidInput(f"Nothing was written to {path}, so nothing was stored as {whole!r}.")
            self.put(path, name, **about)
        finally:
            remove_workplace(place)

    def get_or_compute(
        self,
        name: str,
        compute: Callable[[], Any],
        *,
        inputs: Any = None,
        type: str = "features",
        **about: Any,
    ) -> Any:
        """Give what is stored under a name; compute and store it first where it is not there.

        Parameters
        ----------
        name : str
        compute : callable
            Called without arguments; gives bytes, plain data, a data frame, or the path of a file.
        inputs : plain data, optional
            What the result depends on. Where it differs from what the stored result was made with, it is
            computed anew.
        **about
            As for `put`. With ``force=True`` it is computed in any case.

        Returns
        -------
        Any
            As `get` gives it, so that the first call and the second give the same.

        Raises
        ------
        OverwriteRefused
            The inputs differ, and production content is there.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     for _ in range(2):
        ...         found = store.files.get_or_compute("squares.json", lambda: print("once") or [1, 4, 9])
        ...     found
        once
        [1, 4, 9]
        >>> folder.cleanup()
        """
        whole, test = self._name(name), self._test(about.get("test_name"))
        key = None if inputs is None else sha256_hex((to_json(inputs, "inputs") or "").encode())

        mode = self._mode_for(test)

        def look(con: Any) -> dict[str, Any] | None:
            return find_version(con, whole, test, None, mode)

        row = self._engine.query(look)
        if (
            row is not None
            and not about.get("force")
            and row["content_hash"]
            and row["status"] == "completed"
        ):
            if key is None or (row["metadata"] or {}).get(_KEY) == key:
                return read_value(self._engine, row)
            if protected(row):
                with attempting(self._engine, "put", whole):
                    raise OverwriteRefused(
                        f"{whole!r} is production content that was computed from other inputs. Nothing was computed. "
                        "Give another name, or force=True for a new version."
                    )
        metadata = {**(about.pop("metadata", None) or {}), **({} if key is None else {_KEY: key})}
        version = self.put(compute(), name, type=type, metadata=metadata, **about)
        return read_value(self._engine, self._row(version))

    def should_overwrite(
        self, name: str, force: bool = False, *, mode: str | None = None, test_name: str | None = None
    ) -> bool:
        """Tell whether a `put` of other content under this name would be taken.

        True with `force`; True where nothing is there; True for test content; False for production content.

        Parameters
        ----------
        name : str
        force : bool
        mode : {"production", "test"}, optional
            Checked only: what is there decides, so that a test never replaces production content.
        test_name : str, optional
        """
        if mode is not None:
            check_word(mode, "mode", MODES)
        if force:
            return True
        whole, test = self._name(name), self._test(test_name)

        def look(con: Any) -> dict[str, Any] | None:
            return find_version(con, whole, test, None)

        return not protected(self._engine.query(look))


# -- Bringing a group out as a folder: all of its members, or none.


Row = Mapping[str, Any]


def write_group(engine: Engine, members: Mapping[str, Row], output: Path) -> Path:
    """Write the members of a group below a folder, once all of them were checked."""
    there = output.is_dir()
    for name, row in members.items():
        _refuse_occupied(placed(output, name), row)
    ensure_dir(output.parent)
    # Renaming is what makes it all or nothing, so the draft lies on the file system of its target: beside a folder
    # to be made; inside one that is there, which may be a mount of its own.
    draft = (output if there else output.parent) / f".{output.name[:80]}.{secrets.token_hex(8)}.part"
    try:
        draft.mkdir()
        for name, row in members.items():
            write_output(engine, row, placed(draft, name), inside=False)
        if there:
            _move_in(draft, output, members)
        else:
            draft.rename(output)
            fsync_dir(output.parent)
    except OSError as error:
        raise (error if isinstance(error, NirsStoreError) else write_error(output, error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return output


def _refuse_occupied(target: Path, row: Row) -> None:
    """Look for what a member cannot replace, before anything is written."""
    if row["kind"] == "folder":
        occupied = os.path.lexists(target) and (not target.is_dir() or any(target.iterdir()))
    else:
        occupied = target.is_dir()
    if occupied:
        raise InvalidInput(
            f"output: {target} exists already, where {row['name']!r} would be. Nothing was written. Name another "
            "folder, or move it away."
        )


def _move_in(draft: Path, output: Path, members: Mapping[str, Row]) -> None:
    """Move checked members into a folder that is there; take new ones out again if the system stops it."""
    new: list[Path] = []
    try:
        for name, row in members.items():
            target = placed(output, name)
            ensure_dir(target.parent)
            if row["kind"] == "folder" and target.is_dir():
                target.rmdir()
            if not os.path.lexists(target):
                new.append(target)
            move_file(placed(draft, name), target)
    except BaseException:
        for target in new:
            # The first error is what the caller must hear.
            with contextlib.suppress(OSError):
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    remove_file(target, missing_ok=True)
        raise


# -- Copies below ``exports/files/`` for programs that read a path: checked each time, made anew where they differ.


_WINDOWS = os.name == "nt"
# Of each file, and the empty folders.
State = tuple[tuple[tuple[str, Identity], ...], tuple[str, ...]]
# What each copy was like when its bytes were found to fit, so that a large one is hashed once a process.
_fitting: dict[Path, State] = {}


def materialised(engine: Engine, row: Row_reading) -> Path:
    """Give a path at which the content can be opened by any program.

    That of the blob where it is stored as it is; else that of a copy below ``exports/files/``, which is made anew
    where somebody has altered it.
    """
    if row["kind"] == "metadata":
        raise InvalidInput(f"{row['name']!r} has metadata only; there is no file of it.")
    if row["kind"] != "folder" and row["compression"] == "none":
        return verified_blob(engine, row)
    target = placed(_folder_of(engine, str(row["content_hash"])), PurePosixPath(row["name"]).name)
    if not _fits(target, row):
        _make(engine, row, target)
    return target


def remove_copies(engine: Engine, hashes: Iterable[str]) -> None:
    """Remove the copies of contents that are gone."""
    for digest in hashes:
        place = _folder_of(engine, digest)
        if place.is_dir():
            try:
                _remove(place)
            except OSError as error:
                raise write_error(place, error) from error


def _folder_of(engine: Engine, digest: str) -> Path:
    return engine.layout.root / "exports" / "files" / digest


def _fits(target: Path, row: Row_reading) -> bool:
    """Tell whether a copy holds what was stored: by its hash, once for each state that its files are in."""
    if target.is_symlink():
        return False
    try:
        content = content_of(target, target.name)
        assert isinstance(content, (FileContent, FolderContent))
        files, empty = (
            (content.files, content.empty) if isinstance(content, FolderContent) else ((("", content),), ())
        )
        # Taken before the bytes are read: what changes in between is another state the next time.
        state = tuple((name, identity_of(file.path.stat())) for name, file in files), empty
        if _fitting.get(target) == state:
            return True
        hashes = [(name, hash_file(file.path)[0]) for name, file in files]
    except (InvalidInput, OSError):
        # Not there, something that is never stored, or not to be read.
        return False
    found = listing_hash(hashes, empty) if isinstance(content, FolderContent) else hashes[0][1]
    if found != row["content_hash"]:
        return False
    _fitting[target] = state
    return True


def _make(engine: Engine, row: Row_reading, target: Path) -> None:
    """Write a copy, whole and read-only, in the place of whatever is there."""
    token = secrets.token_hex(8)
    draft, old = (target.parent / f".{target.name[:80]}.{token}.{end}" for end in ("part", "old"))
    ensure_dir(target.parent)
    try:
        write_output(engine, row, draft, inside=False)
        _forbid_writing(draft)
        if draft.is_dir() or target.is_dir() or target.is_symlink():
            # A rename replaces no folder, so it steps aside. It does replace a file: others always see one.
            if _fits(target, row):  # somebody else was faster, and may have handed it out
                return
            with contextlib.suppress(FileNotFoundError):
                target.rename(old)
        move_file(draft, target)
    except OSError as error:
        # Somebody else may have made the same copy in the meantime.
        if not _fits(target, row):
            raise (error if isinstance(error, NirsStoreError) else write_error(target, error)) from error
    finally:
        for left in (draft, old):
            _remove(left, ignore_errors=True)


def _forbid_writing(path: Path) -> None:
    """Take the permission to write from files; folders keep it, or nobody could remove the copy."""
    for each in path.rglob("*") if path.is_dir() else (path,):
        if each.is_file():
            each.chmod(stat.S_IMODE(each.stat().st_mode) & ~0o222)


def _allow_writing(path: Path) -> None:
    for each in path.rglob("*") if path.is_dir() else (path,):
        if each.is_file() and not each.is_symlink():
            each.chmod(stat.S_IREAD | stat.S_IWRITE)


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    try:
        if not os.path.lexists(path):
            return
        if _WINDOWS:
            # Windows deletes no read-only file.
            _allow_writing(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        if not ignore_errors:
            raise


# -- Counts and bytes of stored files.


@dataclass(frozen=True)
class FileSummary:
    """What is stored: counts and bytes.

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
        """Give plain data."""
        return dict(vars(self))

    def _lines(self) -> dict[str, object]:
        def words(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{count:,} {name}" for name, count in counts.items())

        return {
            "files": f"{self.files:,}",
            "size": f"{byte_text(self.size_bytes)}, on the disk {byte_text(self.stored_bytes)}",
            "types": words(self.by_type),
            "status": words(self.by_status),
            "modes": words(self.by_mode),
            "compression": words(self.by_compression),
            "tests": words(self.tests),
        }

    def __str__(self) -> str:
        return "\n".join(f"{name:12}{text}" for name, text in self._lines().items() if text)

    def _repr_html_(self) -> str:
        return block("Files", field_table({name: text for name, text in self._lines().items() if text}))


def summarised(found: Mapping[str, Any]) -> FileSummary:
    """Put together what the catalog counted."""
    grouped = found["grouped"]

    def by(column: str, what: str = "files") -> dict[str, int]:
        totals: dict[str, int] = {}
        for row in grouped:
            if row[column] is not None:
                totals[row[column]] = totals.get(row[column], 0) + int(row[what])
        return dict(sorted(totals.items(), key=lambda pair: (-pair[1], pair[0])))

    return FileSummary(
        sum(row["files"] for row in grouped),
        sum(row["bytes"] for row in grouped),
        int(found["bytes"]),
        by("type"),
        by("status"),
        by("mode"),
        by("compression"),
        by("type", "bytes"),
        by("test_name"),
        with_zone(found["first"]),
        with_zone(found["last"]),
    )


# -- Bringing files out, and asking about them.


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
        self._read(row)
        if row["kind"] == "group":
            members = {each: self._row(member) for each, member in (row["members"] or {}).items()}
            if output is None:
                return {each: read_value(self._engine, member) for each, member in members.items()}
            return write_group(self._engine, members, user_path(output))
        if output is not None:
            return write_output(self._engine, row, user_path(output))
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
        return open_stream(self._engine, self._read(self._row(name, version, test_name)), mode, encoding)

    def path(self, name: str, *, version: int | str | None = None, test_name: str | None = None) -> Path:
        """Give a path at which any program can read the file or folder; it is not to be written to.

        The blob itself where it is stored as it is; a copy below ``exports/files/`` where it is compressed. Its
        files are read-only; one that was altered all the same is found by its hash and made anew.

        Raises
        ------
        UnknownFile, BlobMissing, BlobCorrupt
        """
        return materialised(self._engine, self._read(self._row(name, version, test_name)))

    def export(self, pattern: str, output: str | Path, **filters: Any) -> Paths:
        """Write all files that `list` finds into a folder, under their names.

        Returns
        -------
        list of Path

        Raises
        ------
        PathEscapes
            A name cannot be made on this system.
        InvalidInput
            Two files would be written to one path. Nothing was written.
        BlobMissing, BlobCorrupt, WriteFailed
            What came before it stays.
        """
        found = self.list(pattern, **filters)
        # All names are looked at before anything is written.
        wanted = [
            (row, placed(user_path(output), row["name"].removeprefix(self._prefix)))
            for row in found.iter_rows(named=True)
            if row["kind"] not in ("metadata", "group")
        ]
        _refuse_clashes(wanted)
        return [
            write_output(self._engine, self._row(row["version_id"]), target, inside=False)
            for row, target in wanted
        ]

    def exists(self, name: str, *, version: int | str | None = None, test_name: str | None = None) -> bool:
        """Tell whether there is such a file, and such a version of it."""
        whole, number, test = self._name(name), parse_version(version), self._test(test_name)

        def look(con: Connection) -> bool:
            if is_id(whole):
                return whole in file_rows.by_ids(con, [whole])
            return file_rows.find_version(con, whole, test, number, self._mode_for(test)) is not None

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
            map_name (of the metadata), module, module_version, run_id, processing_id, compression: one value, or
            several of which one fits.

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
        said = {**self._scope(), **filters}
        if filters.get("test_name") is not None and "mode" not in filters:
            # A test that is asked for by its name is test content, whatever the view is of.
            said["mode"] = None
        for name, value in said.items():
            if name not in file_queries.FILTERS:
                raise InvalidInput(
                    f"Unknown filter {name!r}: expected one of {', '.join(file_queries.FILTERS)}."
                    f"{did_you_mean(name, file_queries.FILTERS)}"
                )
            if value is not None:
                said[name] = self._spelt(name, value)
        since, before = more.pop("since", None), more.pop("before", None)
        if self.mode is not None and said.get("mode") == self.mode and "mode" not in filters:
            more["newest_of_mode"] = True
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


# -- Deleting files: plan, then execute what was planned. What something still needs is never cleaned away.


_COMING = ("pending", "in_progress")
Row_removing = dict[str, Any]


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

    versions: tuple[Row_removing, ...]
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
    gone: list[Row_removing] = field(default_factory=list)
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
        """Delete a file with all its versions, or one version of it. This cannot be undone.

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
            first = self._require_shown(con, whole, number, test)
            series = file_removal.series_of(con, first["name"], first["test_name"])
            single = version is not None or is_id(whole)
            chosen = [
                row
                for row in series
                if (row["version_id"] == first["version_id"] if single else self._shows(row, test))
            ]
            plan = _without_needed(con, self._engine, chosen, production=False, sources=False)
            if plan.kept and not force:
                words = "; ".join(f"{n} v{v}: {why}" for n, v, why in plan.kept[:5])
                raise OverwriteRefused(
                    f"Nothing was deleted. {words}. Delete it anyway with force=True (on the command line: "
                    "--force)."
                )
            return _Plan(chosen)

        with attempting(self._engine, "delete", whole):
            return self._remove("delete", choose, dry_run)

    def cleanup(
        self,
        days_old: float = 30,
        *,
        dry_run: bool = False,
        include_production: bool = False,
        of_evaluations: bool = False,
        **filters: Any,
    ) -> FileRemoval:
        """Remove files stored more than some days ago that nothing needs, and leftovers of programs that died.

        This cannot be undone.

        Kept are: production content; what an alias, a pin or a group holds; what something that stays was made
        from; what is under way in a program that lives.

        Parameters
        ----------
        days_old : float
        dry_run : bool
            Return the plan and change nothing.
        include_production : bool
            Production content as well.
        of_evaluations : bool
            Also what only evaluations name that are not, and never were, a champion's. The evaluations stay, with
            their scores and tables.
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
            return _without_needed(
                con,
                self._engine,
                old,
                production=include_production,
                sources=True,
                free=file_removal.evaluations_without_champion(con) if of_evaluations else frozenset(),
            )

        with attempting(self._engine, "cleanup"):
            return self._remove("cleanup", choose, dry_run, leftovers=True)

    def cleanup_old_tests(self, keep_recent: int = 5, *, dry_run: bool = False) -> FileRemoval:
        """Remove all tests but the most recent, and of test content without a test's name all but recent versions.

        A view counts and removes the tests that it shows; those of other views neither count nor go.

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
        where = self._where(None, {}, all_versions=True)

        def choose(con: Connection) -> _Plan:
            shown = [row for row in file_removal.versions(con, where) if row["mode"] == TEST]
            # Oldest first, so a test's last row decides: the tests of other views do not count.
            last = dict.fromkeys(row["test_name"] for row in reversed(shown) if row["test_name"] is not None)
            old_tests = set(list(last)[keep_recent:])
            chosen: list[Row_removing] = []
            nameless: dict[str, list[Row_removing]] = {}
            for row in shown:
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
    con: Connection,
    engine: Engine,
    chosen: Sequence[Row_removing],
    *,
    production: bool,
    sources: bool,
    free: Collection[str] = frozenset(),
) -> _Plan:
    """Take from what is to go everything that something else needs; evaluations in `free` need nothing."""
    aliases, pins, users = file_removal.aliased(con), file_removal.pinned(con), file_removal.dependents(con)
    alive = set(engine.living_sessions())
    plan = _Plan()
    going: dict[str, Row_removing] = {}
    for row in chosen:
        reason = _held(row, aliases, pins, alive, production)
        if reason is None:
            going[row["version_id"]] = row
        else:
            plan.kept.append((row["name"], int(row["version"]), reason))
    while True:
        needed = _needed(going, users, sources, free)
        if not needed:
            plan.gone = list(going.values())
            return plan
        for version_id, reason in needed.items():
            row = going.pop(version_id)
            plan.kept.append((row["name"], int(row["version"]), reason))


def _held(
    row: Row_removing, aliases: Mapping[str, str], pins: set[str], alive: set[str], production: bool
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
    going: Mapping[str, Row_removing],
    users: Mapping[str, list[tuple[str, str]]],
    sources: bool,
    free: Collection[str],
) -> dict[str, str]:
    found = {}
    for version_id in going:
        for kind, user in users.get(version_id, ()):
            if kind == "evaluation" and user in free:
                continue
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
    from nirs_store.maintenance.gc import collect

    return collect(engine, only=ids).files


# -- Changing what is said of stored files: status, aliases; and looking whether they are intact.


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
                row = self._require_shown(con, whole, number, test)
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
        found = self._engine.query(lambda con: file_queries.versions_of(con, row["name"], row["test_name"]))
        mode = self._mode_for(row["test_name"])
        return found if mode is None or is_id(self._name(name)) else found.filter(pl.col("mode") == mode)

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
                row = self._require_shown(con, whole, number, test)
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
                row = self._require_shown(con, whole, None, test)
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


# -- Groups: files that belong together and have versions together, such as training sets and checkpoints.


_FEATURES, _LABELS, _METADATA = "feature_matrix.parquet", "labels.parquet", "metadata.json"
# Members are what their names say; any other is of the group's own type.
_MEMBER_TYPES = {
    _FEATURES: "feature_matrix",
    _LABELS: "labels",
    _METADATA: "metadata",
    "config.json": "configuration",
}


@dataclass(frozen=True)
class TrainingSet:
    """What a model was trained on.

    Attributes
    ----------
    features, labels : polars.DataFrame
        Rows belong together.
    metadata : dict
    version : FileVersion
        Of the group.
    """

    features: Any
    labels: Any
    metadata: dict[str, Any]
    version: FileVersion


class GroupMethods(MakeMethods, ChangeMethods):
    """Groups, training sets, checkpoints."""

    def put_group(
        self, name: str, members: Mapping[str, Any] | str | Path, *, type: str, **about: Any
    ) -> FileVersion:
        """Store files that belong together, in one transaction, as one version of the group.

        Each member is a file ``<name>/<member>`` with versions of its own; one that has not changed is not stored
        again. The group's version holds them: nothing of it is cleaned away while the group is there.

        Parameters
        ----------
        name : str
        members : dict, or path of a folder
            What `put` takes, by the member's name; of a folder every file.
        type : str
            Of the group, as in ``model_checkpoint``.
        **about
            As for `put`; holds for the group and its members. `metadata` are the group's.

        Returns
        -------
        FileVersion
            ``kind`` is group.

        Raises
        ------
        OverwriteRefused
            A production group has other members already.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     files = {"model.pt": b"weights", "config.json": {"lr": 0.1}}
        ...     _ = store.files.put_group("models", files, type="model_checkpoint")
        ...     store.files.get("models", version="v1")["config.json"]
        {'lr': 0.1}
        >>> folder.cleanup()
        """
        whole = self._name(name)
        given = _members(members)
        items: list[Item] = []
        metadata = about.pop("metadata", None)
        said = self._said({**about, "type": type})
        with attempting(self._engine, "put_group", whole):
            if not given:
                raise InvalidInput(f"members: the group {whole!r} would be empty. Nothing was stored.")
            request = check_request(whole, {**said, "metadata": metadata}, self._known_types(type))
            check_guard(self._engine, told(request))
            try:
                wanted = [
                    (source, f"{name}/{member}", {**about, "type": _MEMBER_TYPES.get(member, type)})
                    for member, source in given.items()
                ]
                self._prepare(wanted, items)
                hashes = [
                    (each, i.stored.content_hash) for each, i in zip(given, items, strict=True) if i.stored
                ]
                if len(hashes) < len(given):
                    raise InvalidInput("members: a member of a group has content. Nothing was stored.")
                group = Item(request, "group", content_hash=listing_hash(hashes))
                version, new = record_group(self._engine, group, dict(zip(given, items, strict=True)))
            finally:
                for item in items:
                    if item.stored is not None:
                        item.stored.draft.discard()
        note_versions(self._engine, "put", [*new, *([version] if version.added else [])])
        return version

    @contextmanager
    def create_group(self, name: str, *, type: str, **about: Any) -> Iterator[Path]:
        """Give an empty folder for code that writes its own files, and store them as a group at the end.

        Raises
        ------
        InvalidInput
            The folder is empty at the end. After an exception in the block nothing is stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     with store.files.create_group("models", type="model_checkpoint") as path:
        ...         _ = (path / "model.pt").write_bytes(b"weights")
        ...     store.files.versions("models")["version"].to_list()
        [1]
        >>> folder.cleanup()
        """
        place = workplace(self._engine)
        try:
            yield place
            self.put_group(name, place, type=type, **about)
        finally:
            remove_workplace(place)

    def put_training_set(
        self, name: str, features: Any, labels: Any, metadata: Mapping[str, Any] | None = None, **about: Any
    ) -> FileVersion:
        """Store what a model is trained on: a version of features, labels and metadata together.

        Parameters
        ----------
        features, labels : data frame
            As many rows each. Labels may also be a series (its name becomes the column's, else ``label``) or a
            one-dimensional array or list.
        metadata : dict, optional

        Raises
        ------
        InvalidInput
            No frames, or other numbers of rows.

        Examples
        --------
        >>> import polars as pl, tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     X, y = pl.DataFrame({"gc": [0.4, 0.6]}), pl.DataFrame({"site": [1, 0]})
        ...     _ = store.files.put_training_set("training_data", X, y, {"genes": 2})
        ...     store.files.get_training_set("training_data").features.shape
        (2, 1)
        >>> folder.cleanup()
        """
        labels = _as_table(labels)
        rows = [getattr(each, "shape", (None,))[0] for each in (features, labels)]
        if None in rows or rows[0] != rows[1]:
            raise InvalidInput(
                f"features, labels: expected two data frames of as many rows, found {rows[0]} and {rows[1]}. Nothing "
                "was stored."
            )
        members = {_FEATURES: features, _LABELS: labels, _METADATA: dict(metadata or {})}
        return self.put_group(name, members, type="training_set", **about)

    def get_training_set(
        self, name: str, *, version: int | str | None = None, test_name: str | None = None
    ) -> TrainingSet:
        """Give a training set as it was stored.

        Raises
        ------
        UnknownFile
        InvalidInput
            It is something else.
        """
        row = self._row(name, version, test_name)
        if set(row["members"] or {}) != {_FEATURES, _LABELS, _METADATA}:
            raise InvalidInput(f"{row['name']!r} is not a training set but a {row['type']} ({row['kind']}).")
        found = self.get(row["version_id"])
        return TrainingSet(
            found[_FEATURES], found[_LABELS], found[_METADATA], FileVersion.of(row, added=False)
        )


def _as_table(labels: Any) -> Any:
    """Make a table of one column from a series, an array or a list of labels; leave anything else as it is."""
    if hasattr(labels, "to_frame"):  # a series of polars or of pandas
        named = getattr(labels, "name", None) not in (None, "")
        return labels.to_frame() if named else labels.to_frame("label")
    if isinstance(labels, list) or getattr(labels, "ndim", None) == 1:
        try:
            return pl.DataFrame({"label": one_kind(labels, "labels") if isinstance(labels, list) else labels})
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise InvalidInput(
                "labels: expected one value of one kind a row, found otherwise: "
                f"{str(error).strip().partition(chr(10))[0]}. Nothing was stored."
            ) from error
    return labels


def _members(members: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    if isinstance(members, Mapping):
        return {check_name(name, "members"): source for name, source in members.items()}
    content = content_of(members, "members")
    if not isinstance(content, FolderContent):
        raise InvalidInput(f"members: expected a dict or a folder, found {members!r}. Nothing was stored.")
    return {name: member.path for name, member in content.files}


# -- Processing runs: what was made together, with temporary files that go at the end, also of a failure.


_ENDS = ("completed", "failed")


class ProcessingRun:
    """One run of a program that makes files; made by `Files.processing`.

    As a context manager it ends completed, or on an exception failed: what it had announced or set to
    in_progress is marked failed with the exception's text, and its temporary files are removed in any case.
    Whatever `store.files` is asked to put in the meantime, in the same thread, belongs to the run.

    Attributes
    ----------
    processing_id : str
    name, module, module_version : str
    status : str
        pending before its start.
    """

    def __init__(
        self,
        files: Files,
        name: str,
        module: str | None,
        module_version: str | None,
        parameters: Mapping[str, Any] | None,
    ) -> None:
        self.processing_id = new_id()
        self.name = as_name(name, "name")
        self.module, self.module_version = module, module_version
        self.status = "pending"
        self._parameters = parameters
        to_json(parameters, "parameters")
        self._engine = files._engine
        about = {"processing_id": self.processing_id, "module": module, "module_version": module_version}
        self._active = ActiveRun(
            self._engine, {key: value for key, value in about.items() if value is not None}
        )
        self._place: Path | None = None
        defaults = {**files._defaults, **self._active.defaults}
        self.files = type(files)(self._engine, files._prefix, defaults, store=files._store)

    def start(self) -> Self:
        """Record the beginning.

        Raises
        ------
        InvalidInput
            It has begun already.
        """
        if self.status != "pending":
            raise InvalidInput(f"The processing run {self.name!r} has begun already ({self.status}).")
        # The session lives for others from here on: a run whose session is gone shows as interrupted.
        with attempting(self._engine, "start_processing", self.processing_id), self._engine.recording():
            pass
        row = {
            "processing_id": self.processing_id,
            "name": self.name,
            "module": self.module,
            "module_version": self.module_version,
            "parameters": self._parameters,
            "session_id": self._engine.session_id,
        }

        def work(con: Connection) -> None:
            processing_rows.begin_processing(con, row)

        self._engine.change(work)
        self.status = "in_progress"
        activate(self._active)
        note(self._engine, "start_processing", "processing", self.processing_id, details={"name": self.name})
        return self

    def end(self, status: str = "completed", message: str | None = None) -> None:
        """Record the end, and remove the temporary files.

        Parameters
        ----------
        status : {"completed", "failed"}
            When failed, what is still pending or in progress is marked failed too.
        message : str, optional

        Raises
        ------
        InvalidInput
            It has not begun, or has ended.
        """
        found = check_word(status, "status", _ENDS)
        if self.status != "in_progress":
            raise InvalidInput(f"The processing run {self.name!r} is not under way ({self.status}).")
        text = None if message is None else as_error(message)

        def work(con: Connection) -> list[str]:
            processing_rows.end_processing(con, self.processing_id, found, text)
            if found != "failed":
                return []
            why = text or f"The processing run {self.name!r} failed."
            return processing_rows.fail_versions(con, self.processing_id, self._active.touched, why)

        try:
            marked = self._engine.change(work)
            self.status = found
        finally:
            deactivate(self._active)
            if self._place is not None:
                remove_workplace(self._place)
                self._place = None
        failed = found == "failed"
        for version_id in marked:
            details = {"status": "failed", "processing_id": self.processing_id}
            note(self._engine, "set_status", "file", version_id, message=text, details=details)
        note(
            self._engine, "end_processing", "processing", self.processing_id, success=not failed, message=text,
            details={"name": self.name, "status": found, "marked": len(marked)},
        )  # fmt: skip

    def temporary(self, name: str = "scratch") -> Path:
        """Give a path for a temporary file or folder of this run; it is removed at the run's end."""
        if self.status != "in_progress":
            raise InvalidInput(f"The processing run {self.name!r} is not under way ({self.status}).")
        part = check_name(name)
        if self._place is None:
            self._place = workplace(self._engine)
        path = self._place / part
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def announce(self, name: str, *, type: str, **about: Any) -> FileVersion:
        """Say that a file will come: a version in progress, which the next `put` of its name completes."""
        return self.files.put(None, name, type=type, **{"status": "in_progress", **about})

    def put(self, source: Any, name: str, *, type: str, **about: Any) -> FileVersion:
        """Store a file of this run; see `Files.put`."""
        return self.files.put(source, name, type=type, **about)

    def set_status(self, name: str, status: str, message: str | None = None, **which: Any) -> None:
        """Say how far a file is; see `Files.set_status`."""
        self.files.set_status(name, status, message, **which)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status != "in_progress":
            return  # ended by a call
        if error is None:
            self.end()
        else:
            self.end("failed", f"{error.__class__.__name__}: {error}")

    def __repr__(self) -> str:
        return f"<ProcessingRun {self.name!r}: {self.status}; {self.processing_id}>"


class Files(GroupMethods):
    """Files of any kind: named, typed, versioned, checked, in the same folder as everything else.

    `store.files` is one; `within` gives one for a folder of names.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     for text in (b"one", b"two"):
    ...         version = store.files.put(text, "notes/today.txt", type="log", tags="diary")
    ...     print(version)
    ...     store.files.get("notes/today.txt", version="v1")
    notes/today.txt v2: log, 3 bytes, none; stored uncompressed: too small to shrink
    b'one'
    >>> folder.cleanup()
    """

    def processing(
        self,
        name: str,
        *,
        module: str | None = None,
        module_version: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> ProcessingRun:
        """Make a processing run: ``with store.files.processing("deid") as run:``, or `start` and `end` it.

        Parameters
        ----------
        name : str
        module, module_version : str, optional
            What processes; said of every file that is put meanwhile.
        parameters : dict, optional
            Plain data.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     try:
        ...         with store.files.processing("blur", module="video_deid") as run:
        ...             _ = run.announce("interview.mp4", type="video_deid")
        ...             raise OSError("no frames")
        ...     except OSError:
        ...         found = store.files.metadata("interview.mp4")
        >>> found["status"], found["message"]
        ('failed', 'OSError: no frames')
        >>> folder.cleanup()
        """
        return ProcessingRun(self, name, module, module_version, parameters)

    def processing_runs(self, name: str | None = None) -> pl.DataFrame:
        """List processing runs, newest first; one whose program died shows as interrupted."""
        alive = self._engine.living_sessions
        return self._engine.query(lambda con: file_queries.list_processing(con, name, alive()))
