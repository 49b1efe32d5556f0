"""Run the tests of a folder on other workspaces: opening a folder opens a shared workspace, or four replicas of one."""

from __future__ import annotations

import itertools
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import duckdb
import pytest

import nirs_store.store
from nirs_store.addresses import is_shared
from nirs_store.db import database
from nirs_store.db.layout import Layout
from nirs_store.db.table import digests
from nirs_store.errors import NotAWorkspace
from nirs_store.store import WorkspaceStore

KINDS = ("folder", "objects", "shared", "replicas")
EVERYWHERE = ("folder", "shared", "replicas")
REPLICAS = 4
# What `python -m pytest --workspace shared` leaves out, by reason; all other tests are about what any workspace promises.
OUTSIDE = {
    "its files, journal, locks, crashes and old versions are a folder's; tests/shared has those of a shared workspace": (
        "blobs/", "catalog/", "compat/", "faults/", "migration/", "model/", "multiprocess/", "upkeep/test_bitrot",
        "upkeep/test_check", "upkeep/test_full_disk", "upkeep/test_gc", "upkeep/test_read_only", "upkeep/test_repair",
        "upkeep/test_storage", "upkeep/test_vacuum", "test_forks", "test_addresses",
    ),
    "backups and archives are made of a folder; tests/shared/test_commands makes them of addresses": (
        "upkeep/test_archive", "upkeep/test_backup",
    ),
    "it has workspaces of its own": ("benchmarks/", "shared/", "interop/", "property/test_json", "test_demo"),
    "no workspace is opened, or only the program's own pages and words are read": (
        "bundle/test_a", "bundle/test_c", "bundle/test_f", "bundle/test_h", "bundle/test_l", "bundle/test_m",
        "bundle/test_n", "bundle/test_p", "bundle/test_r", "bundle/test_sa", "bundle/test_sc", "bundle/test_str",
        "bundle/test_w", "chains/test_builder", "chains/test_c", "chains/test_folds", "chains/test_operators",
        "chains/test_plan", "chains/test_replay_limits", "chains/test_resample", "chains/test_sources", "chains/test_trace",
        "choosing/test_rules", "cli/test_fit_errors", "cli/test_output", "cli/test_read", "diagnosing/test_latent",
        "domain/test_measure", "reading/", "recording/test_steps", "registry/test_graph", "registry/test_ids",
        "screening/test_fit", "screening/test_preprocessing", "test_datasets", "test_docs", "test_errors",
        "test_estimators", "test_ids", "test_imports.", "test_library", "test_notebooks", "test_packaging", "test_pivot",
        "test_plots_readable", "test_room", "test_scaffold", "test_scores", "test_selection", "test_words",
        "ui/test_figure",
    ),
}  # fmt: skip


class Workspaces:
    """Replace each folder that a test opens by a shared workspace."""

    # Set while a fixture of the whole session makes a folder, which tests then copy or share.
    paused: ClassVar[bool] = False

    def __init__(self, new_database: Callable[[], str], base: Path, replicas: int) -> None:
        self.replicas = replicas
        self._new_database, self._base = new_database, base.resolve()
        # A database takes each workspace id once, and copies of a folder have the same id: each shared folder gets a database.
        self._databases: dict[str, str] = {}
        self._names: dict[Path, str] = {}
        self._lock = threading.Lock()
        self._count = itertools.count(1)

    def __contains__(self, folder: Path) -> bool:
        return folder.resolve() in self._names

    def address(self, folder: Path, replica: object) -> Any:
        """Return the address that replaces a folder; share the folder first if it has a workspace."""
        folder = folder.resolve()
        if folder.parent.parent == self._base:  # a store said that its folder is there: a replica's
            return self._address(folder.parent.name, folder.name)
        with self._lock:
            if folder not in self._names:
                name = f"w{next(self._count)}"
                if (folder / "store.duckdb").exists():
                    from nirs_store.shared.moving import share

                    self._databases[name] = self._new_database()
                    # A copy: afterwards it is only read, and the next test shares the folder again.
                    copy = shutil.copytree(folder, self._base / name / "copied")
                    share(copy, self._address(name, 0))
                self._names[folder] = name
            return self._address(self._names[folder], replica)

    def _address(self, name: str, replica: object) -> Any:
        from nirs_store.shared.address import parse

        place = self._base / name
        if "" not in self._databases:
            self._databases[""] = self._new_database()
        text = f"{self._databases.get(name, self._databases[''])}?workspace={name}&replica={place / str(replica)}&patience=20"
        return parse(text, blobs=(place / "blobs").as_uri())

    def blobs(self, folder: Path) -> Path:
        """Return the folder of the blobs of the workspace that replaces a folder."""
        return self._base / self._names[folder.resolve()] / "blobs"

    def open(self, folder: Path, replica: int, **options: Any) -> WorkspaceStore:
        """Open a store object on one replica."""
        return _plain_store(self.address(folder, replica), **options)

    def query(self, folder: Path, replica: object, ask: Callable[[Any], Any]) -> Any:
        """Query one replica alone."""
        quiet: dict[str, Any] = {"create": False, "read_only": True, "retention": False, "audit": False}
        address = replace(self.address(folder, replica), blobs=None)
        with _plain_store(address, **quiet) as store:
            return store._engine.query(ask)

    def compare(self, folder: Path) -> None:
        """Compare a replica with one built from the whole log; `InTurn.close` compares the others."""
        with warnings.catch_warnings():
            # Applying the log here warns a second time.
            warnings.filterwarnings("ignore", "Committed rows were dropped")
            try:
                expected = self.query(folder, f"new{next(self._count)}", digests)
            except NotAWorkspace:
                return  # it was asked for only
            assert self.query(folder, 0, digests) == expected, (
                f"a replica of {folder} has other rows than the log"
            )

    @contextmanager
    def standing_in(self, below: Path = Path("/")) -> Iterator[None]:
        """Replace folders that are opened in this block by shared workspaces; compare the replicas at the end.

        Those that lie below a folder end with the block; others stay until that of the whole module.
        """
        before = set(self._names)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nirs_store.store, "_place_of", self._place_of(nirs_store.store._place_of))
            patch.setattr(database, "create_catalog", _copied)
            if self.replicas > 1:
                patch.setattr(Members, "of", self)
                WorkspaceStore.__new__ = _new  # type: ignore[method-assign, assignment]
            yield
        opened = set(self._names) - before
        for folder in opened:
            self.compare(folder)
        for folder in [each for each in opened if each.is_relative_to(below.resolve())]:
            shutil.rmtree(self._base / self._names.pop(folder), ignore_errors=True)

    def _place_of(self, real: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def place_of(path: Any, blobs: Any) -> Any:
            shared, folder = real(path, blobs)
            if (
                Workspaces.paused
                or shared is not None
                or blobs is not None
                or (folder.exists() and not folder.is_dir())
            ):
                return shared, folder
            return self.address(folder, 0), Path()

        return place_of


class FoldersForAll:
    """Let fixtures of the whole session make folders, whatever the tests run on."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Any:
        before, Workspaces.paused = Workspaces.paused, Workspaces.paused or fixturedef.scope == "session"
        try:
            return (yield)
        finally:
            Workspaces.paused = before


class SeveralObjects(Workspaces):
    """Open a folder through several store objects: differences here do not come from a server."""

    def __init__(self) -> None:
        super().__init__(str, Path("/nowhere"), REPLICAS)

    def address(self, folder: Path, replica: object) -> Any:
        return folder

    @contextmanager
    def standing_in(self, below: Path = Path("/")) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Members, "of", self)
            WorkspaceStore.__new__ = _new  # type: ignore[method-assign, assignment]
            yield


def _new(cls: type[WorkspaceStore], *args: Any, **options: Any) -> WorkspaceStore:
    """Make a store of several objects if the kind of workspace needs it.

    It stays for the session: Python makes no instances with arguments after a `__new__` was removed.
    """
    place = args[0] if args else None
    several = Members.of is not None and not Workspaces.paused and cls is WorkspaceStore and place is not None
    if not several or is_shared(place) or options.get("blobs") is not None:
        return object.__new__(cls)
    made = object.__new__(InTurn)
    object.__setattr__(made, "members", Members(Members.of))
    return made


def _copied(layout: Layout, instance: Any, meta: Mapping[str, str] = MappingProxyType({})) -> None:
    """Copy an empty catalog: making one takes most of the time of most tests."""
    if not _EMPTY or "workspace_id" not in meta:
        _CREATE(layout, instance, meta)
        _EMPTY[:] = [layout.catalog.read_bytes()]
        return
    layout.catalog.write_bytes(_EMPTY[0])
    with duckdb.connect(str(layout.catalog)) as con:
        for pair in meta.items():
            con.execute("INSERT OR REPLACE INTO nirs_store_meta VALUES (?, ?)", pair)


_CREATE = database.create_catalog
_EMPTY: list[bytes] = []


def _position_and_rows(con: Any) -> tuple[str, str]:
    found = con.execute("SELECT value FROM nirs_store_meta WHERE key = 'position'").fetchall()
    return str(found), str(digests(con))


def _saved_by(con: Any, session_id: str) -> int:
    sql = "SELECT count(*) FROM artifact_refs WHERE owner_kind = 'session' AND owner_id = ?"
    return int(con.execute(sql, [session_id]).fetchall()[0][0])


def _plain_store(place: Any, **options: Any) -> WorkspaceStore:
    store = object.__new__(WorkspaceStore)
    WorkspaceStore.__init__(store, place, **options)
    return store


class Members:
    """Store objects on several replicas, each opened at its first use."""

    of: ClassVar[Any] = None
    # Whether calls stay on a replica until what was saved there is part of a chain; see the marker `takes_over`.
    stay_with_saved: ClassVar[bool] = False

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces
        self._lock = threading.RLock()
        self._last = threading.local()
        self._turn = 0
        self.opened: dict[int, WorkspaceStore] = {}

    def begin(self, folder: Path, options: dict[str, Any]) -> None:
        """Open the first store object."""
        self._folder, self._options = folder, options
        self._open(0)

    def _open(self, replica: int) -> WorkspaceStore:
        with self._lock:
            if replica not in self.opened:
                address = self._workspaces.address(self._folder, replica)
                self.opened[replica] = _plain_store(address, **self._options)
            return self.opened[replica]

    @property
    def current(self) -> WorkspaceStore:
        """Return the store object that this thread used last."""
        found: WorkspaceStore = getattr(self._last, "store", None) or self._open(0)
        return found

    def next(self) -> WorkspaceStore:
        """Flush all store objects and return the next one; a transaction stays where it began."""
        last = self.current
        engine = last._engine
        if engine.closed or engine.recorder.in_transaction:
            return last
        # Not only the last one: a test may have kept a bound method, or `store.files`, of another.
        for store in list(self.opened.values()):
            if store._engine.writable and not store._engine.settings.read_only and not store._engine.closed:
                store._engine.recorder.flush()
        if Members.stay_with_saved and engine.query(lambda con: _saved_by(con, engine.session_id)):
            return last
        with self._lock:
            self._turn += 1
            turn = self._turn % self._workspaces.replicas
        self._last.store = self._open(turn)
        return self._last.store


class InTurn(WorkspaceStore):
    """Send each call to the next of several replicas."""

    members: Members

    def __init__(self, workspace_path: Any, **options: Any) -> None:
        _, folder = _REAL_PLACE_OF(workspace_path, None)
        self.members.begin(folder, options)

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name in own or name in InTurn.__dict__ or name in ("__class__", "__dict__"):
            return object.__getattribute__(self, name)
        members: Members = own["members"]
        return getattr(members.current if name.startswith("_") else members.next(), name)

    # These consist of other calls, which go in turn.
    run = WorkspaceStore.run
    screen = WorkspaceStore.screen
    record_search = WorkspaceStore.record_search

    def close(self) -> None:
        """Compare the rows of all replicas, and close them."""
        stores = list(self.members.opened.values())
        found: dict[str, set[str]] = {}
        if not any(store._engine.closed for store in stores):
            for store in stores:
                store._engine.flush()
            for store in stores:
                number, rows = store._engine.access.query(_position_and_rows, timeout=30.0)
                found.setdefault(number, set()).add(rows)
        for store in stores:
            store.close()
        # Others may have committed between two looks: only equal positions are compared.
        assert all(len(each) == 1 for each in found.values()), "replicas have different rows"


_REAL_PLACE_OF = nirs_store.store._place_of


@pytest.fixture(scope="session")
def workspaces(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Workspaces]:
    """Return the replacement of folders for a kind of workspace."""
    known: dict[str, Workspaces] = {}

    def of_kind(kind: str) -> Workspaces:
        if kind == "objects":
            known[kind] = SeveralObjects()
        if kind not in known:
            base = tmp_path_factory.mktemp(f"workspaces-{kind}")
            known[kind] = Workspaces(
                request.getfixturevalue("server").new_database, base, REPLICAS if kind == "replicas" else 1
            )
        return known[kind]

    return of_kind
