"""What holds for every test."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

# Set before numpy is loaded, and inherited by child processes. Two workers with a pool of linear-algebra
# threads each would fight for the cores; and a sum's last bit may depend on how many threads share it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Figures are drawn without a screen.
os.environ.setdefault("MPLBACKEND", "Agg")
# A shell starts background jobs with Ctrl-C ignored, and the tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from nirs_store.db import recorder  # noqa: E402
from nirs_store.db.schema import remember  # noqa: E402
from nirs_store.store import WorkspaceStore  # noqa: E402

FLUSH_AFTER = recorder.FLUSH_AFTER

# Helpers that tests of several rooms share; children that tests start find them there too.
sys.path.insert(0, str(Path(__file__).parent / "kit"))

from contractkit import EVERYWHERE, KINDS, OUTSIDE, FoldersForAll, Members, workspaces  # noqa: E402, F401 - fixtures
from sharedkit import bucket, database, machine, s3, server  # noqa: E402, F401 - fixtures


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workspace", choices=KINDS,
        help="run the contract of the store on a folder, a shared workspace, or four replicas of one asked in turn; "
        "without it, everything runs on folders, and what is marked `everywhere` on replicas too",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    # A hook in this file is not called for fixtures of the whole session: they belong to the folder above.
    config.pluginmanager.register(FoldersForAll())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kind = config.getoption("workspace")
    left = []
    for item in items:
        of_a_folder, not_on = map(item.get_closest_marker, ("of_a_folder", "not_on"))
        if (kind is not None or _kind_of(item) in ("shared", "replicas")) and not _in_contract(item):
            left.append(item)
        elif of_a_folder is not None and _kind_of(item) in ("shared", "replicas"):
            item.add_marker(pytest.mark.skip(reason=f"of a folder: {of_a_folder.args[0]}"))
        elif not_on is not None and _kind_of(item) in not_on.args:
            item.add_marker(pytest.mark.skip(reason=not_on.kwargs["why"]))
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


def _in_contract(item: pytest.Item) -> bool:
    """Tell whether a test is about what any workspace does; blobs in memory or in a bucket are a folder's."""
    callspec = getattr(item, "callspec", None)
    given = callspec.params if callspec else {}
    fixtures = getattr(item, "fixturenames", ())
    of_the_model = given.get("store") == "model_store" or (
        "model_store" in fixtures and not {"workspace", "folder", "tmp_path"} & set(fixtures)
    )
    tests = Path(__file__).parent
    if not item.path.is_relative_to(tests):
        return False
    outside = item.path.relative_to(tests).as_posix().startswith(tuple(itertools.chain(*OUTSIDE.values())))
    return not outside and given.get("each_backend", "local") == "local" and not of_the_model


def _kind_of(item: pytest.Item) -> str:
    given = getattr(item, "callspec", None)
    found: str = (
        (given.params.get("workspace_kind") if given else None)
        or item.config.getoption("workspace")
        or "folder"
    )
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    everywhere = metafunc.definition.get_closest_marker("everywhere") is not None
    if everywhere and metafunc.config.getoption("workspace") is None:
        not_on = metafunc.definition.get_closest_marker("not_on")
        # Four replicas of a shared workspace are one as well, and ask more of it.
        again = not_on is None or "replicas" not in not_on.args
        kinds = [
            pytest.param(kind, marks=pytest.mark.slow) if kind == "shared" and again else kind
            for kind in EVERYWHERE
        ]
        metafunc.parametrize("workspace_kind", kinds, indirect=True)


@pytest.fixture
def workspace_kind(request: pytest.FixtureRequest) -> str:
    """What a test runs on: a folder, a shared workspace, or four replicas of one."""
    kind: str = getattr(request, "param", None) or request.config.getoption("workspace") or "folder"
    return kind


@pytest.fixture(scope="module", autouse=True)
def _what_stands_in_for_folders_of_modules(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever opens a folder for a whole module gets what `--workspace` says."""
    kind = request.config.getoption("workspace")
    if kind in (None, "folder"):
        yield
        return
    with request.getfixturevalue("workspaces")(kind).standing_in():
        yield


@pytest.fixture(autouse=True)
def _what_stands_in_for_folders(
    request: pytest.FixtureRequest, workspace_kind: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Whatever opens a folder gets what `--workspace` says."""
    if workspace_kind == "folder":
        yield
        return
    takes_over = request.node.get_closest_marker("takes_over") is not None
    monkeypatch.setattr(Members, "stay_with_saved", takes_over)
    own = request.getfixturevalue("tmp_path")
    with request.getfixturevalue("workspaces")(workspace_kind).standing_in(own):
        yield


@pytest.fixture(autouse=True)
def _nothing_is_committed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, no commit comes between two lines of a test; see `by_the_clock`."""
    monkeypatch.setattr(recorder, "FLUSH_AFTER", 60.0)


@pytest.fixture
def by_the_clock(monkeypatch: pytest.MonkeyPatch, _nothing_is_committed_by_the_clock: None) -> None:
    """Rows are committed by themselves after a second, as for everybody."""
    monkeypatch.setattr(recorder, "FLUSH_AFTER", FLUSH_AFTER)


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that nothing was recorded in; copying it costs less than making a catalog."""
    path = tmp_path_factory.mktemp("empty") / "workspace"
    WorkspaceStore(path).close()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a workspace can be made."""
    return tmp_path / "workspace"


@pytest.fixture
def store(workspace_kind: str, folder: Path, empty: Path) -> Iterator[WorkspaceStore]:
    """An empty store."""
    if workspace_kind in ("folder", "objects") and not folder.exists():
        shutil.copytree(empty, folder)
        # Opening a copy of ours need not look for what others have put into it.
        remember(folder / "store.duckdb")
    with WorkspaceStore(folder) as opened:
        yield opened


@pytest.fixture(scope="module", params=["local", "memory", pytest.param("bucket", marks=pytest.mark.slow)])
def each_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The tests of a module run with blobs in the workspace's folder, in memory, and in an S3 bucket."""
    from bucketkit import blobs_in_a_bucket
    from memoryblobs import blobs_in_memory

    places = {"local": nullcontext, "memory": blobs_in_memory, "bucket": blobs_in_a_bucket}
    with places[request.param]():
        yield request.param


@pytest.fixture
def local_blobs(each_backend: str) -> None:
    """For a test of such a module that looks at files, or lets other processes do so."""
    if each_backend != "local":
        pytest.skip("it looks at files")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for tests of an order of steps, not of a disk."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="nirs-store-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def crew(request: pytest.FixtureRequest, workspace_kind: str) -> Iterator[Callable[..., Any]]:
    """Starts other processes, and ends those that a test left running."""
    from storekit import Child

    if workspace_kind in ("shared", "replicas"):
        pytest.skip("of a folder: its other processes open the folder")
    if "each_backend" in request.fixturenames:
        request.getfixturevalue("local_blobs")
    started: list[Child] = []

    def start(target: Callable[..., Any], *args: Any) -> Child:
        started.append(Child(target, *args))
        return started[-1]

    yield start
    for child in started:
        child.kill()
