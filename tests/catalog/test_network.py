"""A workspace on a network file system: which locks it takes, and that one computer at a time uses it.

The file system is an emulated NFS: the recogniser says so; another computer is another name and another start; and where
its server does not pass locks on, each computer locks another byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from storekit import ROOT, begin, let_go, snapshot

from nirs_store.cli._app import app
from nirs_store.db import layout as filesystem
from nirs_store.db import lock
from nirs_store.db import marks as machine
from nirs_store.db.layout import Layout
from nirs_store.db.lock import CatalogLock, open_lock_file, try_lock, unlock
from nirs_store.errors import InvalidInput, WorkspaceElsewhere
from nirs_store.maintenance.check import check_workspace
from nirs_store.store import WorkspaceStore

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="locks of open files"),
    pytest.mark.filterwarnings("ignore:.*(network file system|read-only here):UserWarning"),
]

Computer = Callable[..., contextlib.AbstractContextManager[None]]
DESK = {"host": "desk", "machine": "m1", "boot": "b1"}


@pytest.fixture
def share(folder: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that nobody uses, on an emulated NFS."""
    shutil.copytree(empty, folder)
    monkeypatch.setattr(filesystem, "network_filesystem", lambda folder: "nfs4")
    return folder


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Computer:
    """Makes what a block does happen on another computer; the rest happens on `desk`."""
    here = dict(DESK)
    monkeypatch.setattr(machine, "this_computer", lambda: dict(here))

    @contextlib.contextmanager
    def at(host: str = "node", *, passes_locks: bool = False, **ids: str) -> Iterator[None]:
        before, byte = dict(here), lock._BYTE
        here.update({"host": host, "machine": "m2", "boot": "b2"} | ids)
        lock._BYTE = byte if passes_locks else byte + 1
        try:
            yield
        finally:
            here.update(before)
            lock._BYTE = byte

    return at


def crash(store: WorkspaceStore) -> None:
    """Have a store's computer go down: its locks are gone, its files stay."""
    engine = store._engine
    store.flush()
    engine._presence.abandon()
    engine._presence._network = False
    engine.abort()


# -- locks -------------------------------------------------------------------------------------


def old_lock(fd: int, *, emulated: bool) -> bool:
    """What an older version does: flock, which NFS and SMB make a lock of all bytes."""
    try:
        if emulated:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("network", [False, True])
def test_an_older_version_and_this_one_exclude_each_other(tmp_path: Path, network: bool) -> None:
    old, new, third = (open_lock_file(tmp_path / "lock") for _ in range(3))
    assert old_lock(old, emulated=network)
    assert not try_lock(new, exclusive=False, network=network)
    os.close(old)
    assert try_lock(new, exclusive=False, network=network)
    assert not old_lock(third, emulated=network)
    unlock(new, network=network)
    assert old_lock(third, emulated=network)


@pytest.mark.parametrize("network", [False, True])
def test_the_lease_and_the_claims_of_a_folder_are_locks_of_its_file_system(
    folder: Path, empty: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    shutil.copytree(empty, folder)
    monkeypatch.setattr(filesystem, "network_filesystem", lambda folder: "nfs4" if network else None)
    with WorkspaceStore(folder) as store:
        begin(store)
        store.flush()
        (claim,) = (folder / "journal" / "claims").iterdir()
        fd = open_lock_file(claim)
        assert not old_lock(fd, emulated=network)
        assert old_lock(fd, emulated=not network), "and no others"
        os.close(fd)
        fd = open_lock_file(folder / "journal" / "lock")
        store.list_runs()
        held = CatalogLock(Layout(folder), writable=True)
        store._engine.access.close()
        assert old_lock(fd, emulated=network)
        assert not held.try_acquire()
        os.close(fd)
        assert held.try_acquire()
        held.release()


def test_neither_a_closed_descriptor_nor_a_forked_child_loses_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held, other = open_lock_file(path), open_lock_file(path)
    assert try_lock(held, exclusive=True, network=True)
    os.close(open_lock_file(path))  # what ends a lock of the process
    child = os.fork()
    if child == 0:
        os.close(held)
        os._exit(0)
    os.waitpid(child, 0)
    assert not try_lock(other, exclusive=False, network=True)
    os.close(held)
    assert try_lock(other, exclusive=True, network=True)
    os.close(other)


def test_where_a_file_system_knows_no_such_locks_flock_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_OPEN_FILE", 9999)  # EINVAL
    one, two = open_lock_file(tmp_path / "lock"), open_lock_file(tmp_path / "lock")
    assert try_lock(one, exclusive=True, network=True)
    assert not old_lock(two, emulated=False)
    unlock(one, network=True)
    assert old_lock(two, emulated=False)


# -- one computer at a time -----------------------------------------------------------------------


@pytest.mark.parametrize("passes_locks", [True, False])
def test_another_computer_is_refused_until_the_last_store_here_is_closed(
    share: Path, at: Computer, passes_locks: bool
) -> None:
    first, second = WorkspaceStore(share), WorkspaceStore(share, read_only=True)
    run_id, _ = begin(first)
    first.list_runs()
    for close in (first.close, second.close):
        before = sorted(path for path in share.rglob("*"))
        for ask in (
            lambda: WorkspaceStore(share),
            lambda: WorkspaceStore(share, read_only=True),
            lambda: check_workspace(share),
        ):
            with (
                at(passes_locks=passes_locks),
                pytest.raises(WorkspaceElsewhere, match="'desk' uses it since") as told,
            ):
                ask()
            assert told.value.host == "desk"
            assert told.value.since is not None
        assert sorted(path for path in share.rglob("*")) == before
        assert run_id in second.list_runs()["run_id"].to_list()
        close()
    # Who only reads removes nothing.
    assert (share / "journal" / "machine").exists()
    WorkspaceStore(share).close()
    with at(passes_locks=passes_locks), WorkspaceStore(share) as elsewhere:
        assert elsewhere.list_runs().height == 1
        assert (share / "journal" / "machine").exists()
    assert not (share / "journal" / "machine").exists()


@pytest.mark.parametrize(
    ("host", "ids", "same"),
    [
        ("desk", {"machine": "m1"}, True),  # after a restart
        ("container", {"boot": "b1"}, True),  # of the same kernel
        ("desk", {}, False),  # a computer of that name
        ("other", {"machine": "m1"}, False),  # made from the same image
        ("other", {"machine": "", "boot": ""}, False),
    ],
)
def test_what_makes_two_computers_one(
    share: Path, at: Computer, host: str, ids: dict[str, str], same: bool
) -> None:
    crash(WorkspaceStore(share))
    with at(host, **ids), contextlib.nullcontext() if same else pytest.raises(WorkspaceElsewhere):
        WorkspaceStore(share).close()


@pytest.mark.parametrize("left", [None, b"", b"[1]", b'{"host": 7, "since": "soon"}'])
def test_a_computer_that_is_gone_is_replaced_by_who_has_looked(
    share: Path, at: Computer, left: bytes | None
) -> None:
    store = WorkspaceStore(share)
    run_id, _ = begin(store)
    crash(store)
    if left is not None:
        (share / "journal" / "machine").write_bytes(left)
    with at():
        with pytest.raises(WorkspaceElsewhere, match="take_over=True"):
            WorkspaceStore(share)
        with WorkspaceStore(share, take_over=True) as there:
            assert there.list_runs()["run_id"].to_list() == [run_id]
            WorkspaceStore(share).close()
    WorkspaceStore(share).close()


def test_a_computer_that_was_replaced_too_early_stops(share: Path, at: Computer) -> None:
    store = WorkspaceStore(share)
    run_id, _ = begin(store)
    with at():
        there = WorkspaceStore(share, take_over=True)
    for call in (lambda: store.list_runs(), lambda: begin(store), lambda: store.delete_run(run_id)):
        with pytest.raises(WorkspaceElsewhere, match="'node' uses it"):
            call()
    with at():
        assert there.list_runs().height == 1
        there.close()
    begin(store, "again")  # it has come back
    store.close()


def test_the_end_of_one_that_was_replaced_leaves_the_catalog_alone(share: Path, at: Computer) -> None:
    store = WorkspaceStore(share)
    _run_id, pipeline_id = begin(store)
    store.log_step(pipeline_id, 0, "builtins.list", "end", 5)
    with at():
        there = WorkspaceStore(share, take_over=True)
        there.list_runs()
        let_go(there)
    before = snapshot(share)
    store.close()
    after = snapshot(share)
    # Its last rows are a commit, for the other one to apply.
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed
    assert {Path(name).parent.name for name in changed} == {"segments"}
    with at():
        assert len(there.get_pipeline_log(pipeline_id)) == 1
        there.close()


def test_one_that_is_known_to_be_at_work_is_not_replaced(share: Path, at: Computer) -> None:
    with WorkspaceStore(share) as store:
        with at(passes_locks=True), pytest.raises(WorkspaceElsewhere, match="still open there"):
            WorkspaceStore(share, take_over=True)
        begin(store)


def test_only_the_name_that_somebody_has_seen_is_replaced(
    share: Path, at: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(WorkspaceStore(share))
    real, third = machine._remove, []

    def remove(fd: int, path: Path) -> None:
        real(fd, path)
        with at("third", machine="m3", boot="b3"):
            third.append(WorkspaceStore(path.parent.parent))

    with at(), monkeypatch.context() as patch:
        patch.setattr(machine, "_remove", remove)
        with pytest.raises(WorkspaceElsewhere, match="'third'"):
            WorkspaceStore(share, take_over=True)
    with at("third", machine="m3", boot="b3"):
        third[0].close()


def test_the_file_comes_whole_and_two_computers_that_come_at_once_are_one(
    share: Path, at: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, others = machine.rename_if_absent, []

    def rename(draft: Path, path: Path) -> None:
        if not others:
            with at():
                others.append(None)
                others[0] = WorkspaceStore(share)
        real(draft, path)

    monkeypatch.setattr(machine, "rename_if_absent", rename)
    with pytest.raises(WorkspaceElsewhere, match="'node'"):
        WorkspaceStore(share)
    assert not list((share / "journal" / "tmp").iterdir())
    with at():
        others[0].close()


def test_a_forked_child_keeps_the_workspace_when_its_parent_closes(share: Path, at: Computer) -> None:
    store = WorkspaceStore(share)
    begin(store)
    to_child, from_child = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.list_runs()
            os.write(from_child[1], b"1")
            os.read(to_child[0], 1)
            store.close()
            status = 0
        finally:
            os._exit(status)
    os.read(from_child[0], 1)
    store.close()
    assert (share / "journal" / "machine").exists()
    os.write(to_child[1], b"1")
    assert os.waitpid(child, 0)[1] == 0
    assert not (share / "journal" / "machine").exists()
    for fd in (*to_child, *from_child):
        os.close(fd)


def test_on_a_local_disk_nothing_is_left_and_a_copy_is_free(
    share: Path, tmp_path: Path, at: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(WorkspaceStore(share))
    copied = tmp_path / "copy"
    shutil.copytree(share, copied)
    monkeypatch.setattr(filesystem, "network_filesystem", lambda folder: None)
    with at():
        WorkspaceStore(copied).close()
        # The disk of a file server, which others see over a network.
        with pytest.raises(WorkspaceElsewhere):
            WorkspaceStore(share)
        WorkspaceStore(share, take_over=True).close()
    with WorkspaceStore(share) as store:
        begin(store)
        assert not (share / "journal" / "machine").exists()


@pytest.mark.parametrize("options", [{"read_only": True, "take_over": True}])
def test_who_only_reads_takes_nothing_over(share: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="take_over"):
        WorkspaceStore(share, **options)


def test_the_command_says_who_uses_it_and_asks(share: Path, at: Computer) -> None:
    crash(WorkspaceStore(share))
    with at():
        refused = CliRunner().invoke(app, ["runs", "-w", str(share)])
        assert (refused.exit_code, "take-over" in refused.output) == (5, True)
        asked = CliRunner().invoke(app, ["take-over", "-w", str(share)])
        assert "Used by desk since" in asked.output
        assert (share / "journal" / "machine").exists()
        done = CliRunner().invoke(app, ["take-over", "--yes", "-w", str(share)])
        assert (done.exit_code, "No other computer" in done.output) == (0, True)
    WorkspaceStore(share).close()


_OTHER = """
import sys, warnings
from nirs_store.db import layout
layout.network_filesystem = lambda folder: "nfs4"
warnings.simplefilter("ignore")
from nirs_store import WorkspaceStore
from nirs_store.errors import WorkspaceElsewhere
try:
    WorkspaceStore(sys.argv[1], **eval(sys.argv[2])).close()
    print("free")
except WorkspaceElsewhere as error:
    print(error)
"""


@pytest.mark.slow
def test_a_process_in_namespaces_of_its_own_is_another_computer(share: Path, tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    boot.write_text("00000000-another-start\n")
    script = (
        f"hostname other-node && mount --bind {boot} /proc/sys/kernel/random/boot_id && "
        f'exec {sys.executable} -c "$1" "$2" "$3"'
    )

    def elsewhere(options: str) -> str:
        command = ["unshare", "-m", "-u", "sh", "-c", script, "sh", _OTHER, str(share), options]
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=90)
        except FileNotFoundError:
            pytest.skip("no unshare")
        if done.returncode and "Traceback" not in done.stderr:
            pytest.skip(f"namespaces are not allowed here: {done.stderr.strip()}")
        assert not done.returncode, done.stderr
        return done.stdout

    store = WorkspaceStore(share)
    assert "uses it since" in elsewhere("{}")
    assert "still open there" in elsewhere("{'take_over': True}"), "one kernel passes the locks on"
    crash(store)
    assert "uses it since" in elsewhere("{}")
    assert elsewhere("{'take_over': True}") == "free\n"
    WorkspaceStore(share).close()
    assert elsewhere("{}") == "free\n"
