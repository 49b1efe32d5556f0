"""Ctrl-C or no memory left, at any line of any call: no lock stays, nothing half, and the store goes on."""

from __future__ import annotations

import linecache
import random
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from storekit import begin, chain_of, predict, whole_pipeline

import nirs_store
from nirs_store.db.layout import Layout
from nirs_store.db.lock import CatalogLock
from nirs_store.errors import NirsStoreError, StoreClosed
from nirs_store.store import WorkspaceStore

_OURS = str(Path(nirs_store.__file__).parent)
# Two kinds of line are left out. The end of a `with` block and a bare `try:` are lines for a tracer, but CPython
# looks for signals at neither. And the few instructions of the package's own context managers that take or
# give back a lock are a hole that CPython leaves in any such class; it is a microsecond wide.
_BOOKKEEPING = {
    "__enter__",
    "__exit__",
    "_enter",
    "_leave",
    "_give_up",
    "release",
    "_let_go",
    "try_apply",
    "_try_enter",
}
_MOMENTS = (KeyboardInterrupt, MemoryError)


def _line(frame: Any) -> str:
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()


class Interruption:
    """Raises once, at a line of the package (or of some of its functions); counts the lines until then."""

    def __init__(self, at: int | None, kind: type[BaseException], within: Collection[str] = ()) -> None:
        self.at, self.kind, self.lines, self.fired = at, kind, 0, False
        self.within = within

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_OURS) or frame.f_code.co_name in _BOOKKEEPING:
            return None
        if self.within and frame.f_code.co_name not in self.within:
            return None
        if event == "line" and not self.fired and not _line(frame).startswith(("with ", "try:")):
            self.lines += 1
            if self.lines == self.at:
                self.fired = True
                raise self.kind("here")
        return self


@contextmanager
def interrupted(
    at: int | None, kind: type[BaseException], within: Collection[str] = ()
) -> Iterator[Interruption]:
    """Have this thread interrupted inside the block at that line."""
    interruption = Interruption(at, kind, within)
    before = sys.gettrace()  # of a measurement of coverage, say
    sys.settrace(interruption)
    try:
        yield interruption
    finally:
        sys.settrace(before)


class Patient:
    """A workspace, the store object that is interrupted, and what it has acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = WorkspaceStore(folder, threads=1)
        self.run_id, self.pipeline_id = begin(self.store)
        self.done: list[str] = []
        self.lines: dict[str, int] = {}

    def record(self) -> None:
        self.done.append(whole_pipeline(self.store, self.run_id))

    def refit(self) -> None:
        chain_of(self.store, self.pipeline_id)
        self.store.flush()

    def together(self) -> None:
        with self.store.transaction():
            predict(self.store, self.pipeline_id)
            predict(self.store, self.pipeline_id)

    def in_a_block(self) -> None:
        with self.store.run("block") as run, run.pipeline("p") as pipeline:
            self.store.log_step(pipeline.pipeline_id, 0, "x", "start")

    def ask(self) -> None:
        self.store.top_predictions(3)

    def delete(self) -> None:
        self.store.delete_run(self.store.begin_run("short", {}, []), now=True)

    def collect(self) -> None:
        self.store.save_artifact([random.random()], "builtins.list", "model", "joblib")
        self.store.collect_garbage(grace_seconds=0.0)

    def reopen(self) -> None:
        self.store.close()
        self.store = WorkspaceStore(self.folder, threads=1)

    def vacuum(self) -> None:
        self.store.vacuum()

    def check(self) -> None:
        assert self.store.check().errors == ()

    def calls(self) -> list[Callable[[], None]]:
        often = [self.record, self.refit, self.together, self.in_a_block, self.ask, self.delete, self.collect]
        return [*often, *often, self.reopen, self.vacuum, self.check]

    def look(self) -> None:
        """Nothing is held, what was acknowledged is whole, and the store object goes on."""
        answers: list[Any] = []

        def from_another_thread() -> None:
            # A lock that the interrupted thread kept would let that thread in again, and nobody else.
            try:
                self.store.begin_run("another thread", {}, [])
                answers.append(self.store.list_pipelines(self.run_id))
            except BaseException as error:
                answers.append(error)

        if self.store._engine.closed:
            self.store = WorkspaceStore(self.folder, threads=1)
        thread = threading.Thread(target=from_another_thread, daemon=True)
        thread.start()
        thread.join(10.0)
        assert answers, "another thread waits for a lock that the interrupted one kept"
        if isinstance(answers[0], BaseException):
            raise answers[0]
        status = dict(answers[0].select("pipeline_id", "status").rows())
        assert {status[key] for key in self.done} <= {"completed"}
        finished = [key for key, value in status.items() if value == "completed"]
        counts = self.store.query_predictions(run_id=self.run_id)["pipeline_id"].value_counts()
        found = dict(counts.rows())
        assert {found.get(key) for key in finished} <= {2}
        assert found.get(self.pipeline_id, 0) % 2 == 0, "half a transaction"
        catalog_lock = CatalogLock(Layout(self.folder), writable=True)
        catalog_lock.acquire(exclusive=True, timeout=20.0)
        catalog_lock.release()
        assert list((self.folder / "journal" / "rejected").iterdir()) == []


def lines_of(patient: Patient, call: Callable[[], None]) -> int:
    """How many lines a call has, about; counted once."""
    if call.__name__ not in patient.lines:
        with interrupted(None, KeyboardInterrupt) as interruption:
            call()
        patient.lines[call.__name__] = interruption.lines
    return patient.lines[call.__name__]


def interrupt(patient: Patient, draw: random.Random) -> str:
    call = draw.choice(patient.calls())
    kind = draw.choice(_MOMENTS)
    at = draw.randint(1, max(1, lines_of(patient, call)))
    name = f"{kind.__name__} at line {at} of {call.__name__}"
    try:
        with interrupted(at, kind) as interruption:
            call()
    except kind as error:
        assert interruption.fired, name
        where = error.__traceback__
        # The last one is that of the interruption itself.
        while where is not None and where.tb_next is not None and where.tb_next.tb_next is not None:
            where = where.tb_next
        assert where is not None
        name += f" ({Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno} {where.tb_frame.f_code.co_name})"
    except NirsStoreError as error:
        if kind is KeyboardInterrupt:
            raise AssertionError(f"{name} became {error!r}") from error
    try:
        patient.look()
    except Exception as error:
        error.add_note(name)
        raise
    return name


@pytest.mark.parametrize(
    ("seed", "count"),
    [(1, 25), *(pytest.param(n, 250, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]) for n in range(2, 6))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_anywhere_costs_nothing_that_was_acknowledged(
    memory: Path, seed: int, count: int
) -> None:
    folder = memory / "workspace"
    draw = random.Random(seed)
    patient = Patient(folder)
    for _ in range(count):
        interrupt(patient, draw)
    patient.store.close()
    with WorkspaceStore(folder) as store:
        report = store.check(read_data=True)
        assert report.errors == (), str(report)
    assert list((folder / "journal" / "claims").iterdir()) == []


# Where a store, or the catalog's file, is opened and closed.
_CLOSING = (
    "close",
    "abort",
    "_let_go",
    "attach",
    "detach",
    "release",
    "open_catalog",
    "connect",
    "disconnect",
)


@pytest.mark.parametrize(
    "within",
    [
        ("abort", "attach"),
        *(
            pytest.param(names, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
            for names in (_CLOSING, ())
        ),
    ],
)
def test_a_close_that_was_interrupted_is_finished_when_the_store_is_let_go_of(
    memory: Path, within: tuple[str, ...]
) -> None:
    folder = memory / "workspace"

    def opened() -> WorkspaceStore:
        store = WorkspaceStore(folder, threads=1)
        begin(store)
        return store

    store = opened()
    with interrupted(None, KeyboardInterrupt, within) as whole:
        store.close()
    assert whole.lines > 5
    fired = 0
    for at in range(1, whole.lines + 1):
        store = opened()
        with suppress(KeyboardInterrupt), interrupted(at, KeyboardInterrupt, within) as interruption:
            store.close()
        fired += interruption.fired
        del store
        assert list((folder / "journal" / "claims").iterdir()) == [], f"line {at}"
        catalog_lock = CatalogLock(Layout(folder), writable=True)
        catalog_lock.acquire(exclusive=True, timeout=5.0)
        catalog_lock.release()
    # The last lines are not always reached.
    assert fired > 0.9 * whole.lines


def test_a_close_that_was_interrupted_once_everything_was_committed_counts_as_one(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = memory / "workspace"
    store = WorkspaceStore(folder)
    run_id = begin(store)[0]

    def interrupted() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(store._engine, "abort", interrupted)
        with pytest.raises(MemoryError):
            store.close()
    assert store._engine.closed
    with pytest.raises(StoreClosed):
        store.begin_run("too late", {}, [])
    store.close()
    assert list((folder / "journal" / "claims").iterdir()) == []
    with WorkspaceStore(folder) as other:
        assert other.get_run(run_id) is not None
