"""After a power loss, what was acknowledged is there, whatever the disk had not yet been told to keep."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from fault_bench import Bench, Fault, unavailable
from fault_ops import OPERATIONS
from powerloss import TRACE, Disk, look_at, states

_REASON = unavailable()
needs_strace = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")

_SAMPLE = 3


@needs_strace
@pytest.mark.parametrize("operation", ["complete_pipeline", "gc", "apply"])
def test_what_was_acknowledged_survives(bench: Bench, operation: str) -> None:
    with bench.record(operation, TRACE) as recording:
        found = list(states(recording))
        assert len(found) > 5
        # The last moment, at which everything was promised, and some others.
        chosen = [found[-1], *random.Random(operation).sample(found[:-1], _SAMPLE)]
        problems = {
            f"moment {state.moment}, without {state.dropped}": look_at(bench, recording, state)
            for state in chosen
        }
    assert not {where: what for where, what in problems.items() if what}


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_state_at_all_has_lost_anything(bench: Bench, operation: str) -> None:
    with bench.record(operation, TRACE) as recording:
        problems = {
            f"moment {state.moment}, without {state.dropped}": look_at(bench, recording, state)
            for state in states(recording)
        }
    assert not {where: what for where, what in problems.items() if what}


# A process is killed, or meets an error, at a sync; the next one finds what it wrote, and must not rely on it.
@needs_strace
@pytest.mark.parametrize(
    ("operation", "path", "which", "what"),
    [
        ("inbox", "<>", 0, "KILL"),
        ("inbox", r"</inbox/[^/]+>", 1, "EIO"),
        ("set_alias", "/store.duckdb>", -1, "KILL"),
        ("set_alias", "/store.duckdb>", -1, "EIO"),
    ],
)
def test_what_was_written_and_never_synced_is_not_relied_on(
    bench: Bench, operation: str, path: str, which: int, what: str
) -> None:
    syncs = [call for call in bench.calls(operation, "main") if call.name in ("fsync", "fdatasync")]
    call = [call for call in syncs if re.search(path, call.text)][which]
    with bench.record(operation, TRACE, after=Fault(operation, "main", call, what)) as recording:
        last = [state for state in states(recording, every_moment=False) if state.dropped == "everything"][-1]
        assert "INJECTED" in recording.log or "killed by SIGKILL" in recording.log
        assert len(last.acks) > 1
        assert not look_at(bench, recording, last)


# -- the model of the disk -----------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    start = tmp_path / "start"
    start.mkdir()
    (start / "old").write_bytes(b"old")
    return Disk(Path("/w"), start)


def create(disk: Disk, path: str, data: bytes) -> None:
    disk.apply("openat", ["AT_FDCWD", path, "O_WRONLY|O_CREAT"], 3, path)
    disk.apply("write", [f"3<{path}>", "".join(f"\\x{byte:02x}" for byte in data)], len(data), None)


def test_content_that_was_not_synced_is_missing(disk: Disk) -> None:
    create(disk, "/w/new", b"abc")
    disk.apply("fsync", ["4</w>"], 0, None)
    assert disk.without_all() == {"old": b"old", "new": b""}


def test_a_name_whose_folder_was_not_synced_is_missing(disk: Disk) -> None:
    create(disk, "/w/new", b"abc")
    disk.apply("fsync", ["3</w/new>"], 0, None)
    assert disk.without_all() == {"old": b"old"}
    assert [files for _, files in disk.without_each()] == [{"old": b"old"}]


def test_after_both_syncs_nothing_is_missing(disk: Disk) -> None:
    create(disk, "/w/new", b"abc")
    disk.apply("fsync", ["3</w/new>"], 0, None)
    disk.apply("fsync", ["4</w>"], 0, None)
    assert disk.without_all() == {"old": b"old", "new": b"abc"}
    assert list(disk.without_each()) == []


def test_a_rename_is_taken_back_as_a_whole(disk: Disk) -> None:
    disk.apply("rename", ['"/w/old"', '"/w/young"'], 0, None)
    assert [files for _, files in disk.without_each()] == [{"old": b"old"}]


def test_a_removed_file_may_come_back(disk: Disk) -> None:
    disk.apply("unlink", ['"/w/old"'], 0, None)
    assert disk.without_all() == {"old": b"old"}
