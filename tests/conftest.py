"""What holds for every test."""

from __future__ import annotations

import inspect
import os
import shutil
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

from nirs_store.db import recorder  # noqa: E402
from nirs_store.store import WorkspaceStore  # noqa: E402

FLUSH_AFTER = recorder.FLUSH_AFTER

# Helpers that tests of several rooms share; children that tests start find them there too.
sys.path.insert(0, str(Path(__file__).parent / "kit"))

import sharedkit  # noqa: E402
from sharedkit import bucket, database, machine, s3, server  # noqa: E402, F401 - fixtures


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workspace", choices=["folder", "shared"], default="folder",
        help="what the tests of the store run on; those that look into the folder run on folders only",
    )  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("workspace") == "shared":
        of_a_folder = {"folder", "empty", "three", "recorded", "made"}
        kept, left = [], []
        for item in items:
            wanted = set(inspect.signature(getattr(item, "function", pytest.fixture)).parameters)
            (kept if "store" in wanted and not wanted & of_a_folder else left).append(item)
        config.hook.pytest_deselected(items=left)
        items[:] = kept


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
def store(request: pytest.FixtureRequest, folder: Path, empty: Path) -> Iterator[WorkspaceStore]:
    """An empty store."""
    if request.config.getoption("workspace") == "shared":
        yield from sharedkit.shared_store(request.getfixturevalue("machine"))
        return
    if not folder.exists():
        shutil.copytree(empty, folder)
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
def crew(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Starts other processes, and ends those that a test left running."""
    from storekit import Child

    if "each_backend" in request.fixturenames:
        request.getfixturevalue("local_blobs")
    started: list[Child] = []

    def start(target: Callable[..., Any], *args: Any) -> Child:
        started.append(Child(target, *args))
        return started[-1]

    yield start
    for child in started:
        child.kill()
