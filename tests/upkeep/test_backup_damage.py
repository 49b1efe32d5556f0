"""One damaged backup costs that backup only; one that was killed at any step costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sampling import covering
from storekit import whole_pipeline

from nirs_store import WorkspaceStore, restore_backup
from nirs_store.errors import BackupInvalid, InvalidInput


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a workspace and three backups of it."""
    folder = tmp_path_factory.mktemp("three")
    with WorkspaceStore(folder / "ws") as store:
        made = []
        for name in "abc":
            whole_pipeline(store, store.begin_run(name, {}, []))
            made.append(store.backups.create(folder / "backups"))
    return folder, [each.backup_id for each in made if each is not None]


def edited(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "not an object": lambda path: path.write_text("[1, 2]"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "another backup's": lambda path: edited(
        path, lambda facts: facts.update(backup_id="0190aaaa-0000-7000-8000-000000000000")
    ),
    "of a newer version": lambda path: edited(path, lambda facts: facts.update(format_version=99)),
    "without a time zone": lambda path: edited(
        path, lambda facts: facts.update(created_at="2026-01-01T00:00:00")
    ),
    "a folder": as_folder,
    "missing": lambda path: path.unlink(),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("damage", "which"), covering(DAMAGE, [0, 2]))
def test_the_other_backups_can_be_used(
    three: tuple[Path, list[str]], memory: Path, damage: str, which: int
) -> None:
    shutil.copytree(three[0], memory / "copy")
    target, ids = memory / "copy" / "backups", three[1]
    DAMAGE[damage](target / "backups" / f"{ids[which]}.json")
    good = [each for each in ids if each != ids[which]]
    with WorkspaceStore(memory / "copy" / "ws") as store:
        with pytest.warns(UserWarning, match=ids[which]):
            assert store.backups.list(target)["backup_id"].to_list() == good
        for each in good:
            store.backups.verify(target, each)
        assert store.backups.restore(target, memory / "back").backup_id == good[-1]
        with pytest.raises(LookupError if damage == "missing" else BackupInvalid, match=ids[which]):
            store.backups.verify(target, ids[which])
        # What the damaged one needs stays, also when the others are pruned.
        blobs = set((target / "blobs").rglob("*"))
        made = store.backups.create(target)
        assert made is not None
        store.backups.prune(target, keep_last=1)
        assert store.backups.list(target)["backup_id"].to_list() == [made.backup_id]
        assert blobs <= set((target / "blobs").rglob("*"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("damage", ["empty", "truncated", "missing"])
def test_a_lost_mark_is_written_again(three: tuple[Path, list[str]], memory: Path, damage: str) -> None:
    shutil.copytree(three[0], memory / "copy")
    target = memory / "copy" / "backups"
    mark = target / "nirs_store-backups.json"
    before = mark.read_bytes()
    DAMAGE[damage](mark)
    restore_backup(target, memory / "back")
    with WorkspaceStore(memory / "copy" / "ws") as store:
        store.backups.create(target)
        assert store.backups.list(target).height == 4
    assert mark.read_bytes() == before


def test_all_backups_damaged_are_named_and_a_new_one_can_be_made(
    three: tuple[Path, list[str]], memory: Path
) -> None:
    shutil.copytree(three[0], memory / "copy")
    target = memory / "copy" / "backups"
    for each in three[1]:
        (target / "backups" / f"{each}.json").write_text("{")
    with WorkspaceStore(memory / "copy" / "ws") as store:
        with (
            pytest.warns(UserWarning, match="cannot be read"),
            pytest.raises(BackupInvalid, match="No backup in"),
        ):
            store.backups.list(target)
        with pytest.warns(UserWarning, match="cannot be read"):
            made = store.backups.create(target)
        assert made is not None
        with pytest.warns(UserWarning, match="cannot be read"):
            store.backups.restore(target, memory / "back")


@pytest.mark.parametrize("foreign", ["notes.txt", "backups/mine.txt", "blobs/ab/file", "other/x"])
def test_a_folder_with_anything_else_is_refused(memory: Path, foreign: str) -> None:
    (memory / "target" / foreign).parent.mkdir(parents=True)
    (memory / "target" / foreign).write_text("mine")
    with WorkspaceStore(memory / "ws") as store, pytest.raises(InvalidInput, match="is not empty"):
        store.backups.create(memory / "target")


# -- killed at any step -----------------------------------------------------------------------------------

KILLER = """
import os, sys, signal
step, act, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
import nirs_store, nirs_store.backup.backup, polars
store = nirs_store.WorkspaceStore("ws")
seen = 0
def watch(event, arguments):
    global seen
    writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile", "os.link") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writes and any(folder in str(each) for each in arguments):
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
sys.addaudithook(watch)
{"create": lambda: store.backups.create("target"), "prune": lambda: store.backups.prune("target", keep_last=1),
 "restore": lambda: store.backups.restore("target", "back")}[act]()
print("done", seen)
"""


def killed(folder: Path, step: int, act: str, place: str) -> bool:
    """Kill an act at one of the steps by which it changes a folder; False when it comes through."""
    command = [sys.executable, "-c", KILLER, str(step), act, place]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == -9 or done.stdout.startswith("done"), done.stderr
    return done.returncode == -9


def killed_and_made_again(folder: Path, act: str, step: int) -> bool:
    """Kill an act at a step, then look that all works as if it had not been tried."""
    place = {"create": "target", "prune": "target", "restore": "back"}[act]
    with WorkspaceStore(folder / "ws") as store:
        whole_pipeline(store, store.begin_run("a", {}, []))
        if act != "create":
            for _ in range(2):
                store.backups.create(folder / "target")
    died = killed(folder, step, act, place)
    with WorkspaceStore(folder / "ws") as store:
        if act == "create":
            assert store.backups.create(folder / "target") is not None
        elif act == "prune":
            store.backups.prune(folder / "target", keep_last=1)
            assert store.backups.list(folder / "target").height == 1
        for path in folder.glob(".back.*"):
            for each in (*path.rglob("*"), path):
                os.utime(each, (time.time() - 4000,) * 2)
        if not (folder / "back").exists() or not any((folder / "back").iterdir()):
            store.backups.restore(folder / "target", folder / "back")
        store.backups.verify(folder / "target")
    left = [path.name for path in folder.rglob("*") if path.suffix in (".tmp", ".unfinished")]
    assert [name for name in left if not name.startswith("draft")] == []
    with WorkspaceStore(folder / "back") as store:
        assert store.list_runs().height == 1
        assert store.check().ok
    return died


@pytest.mark.parametrize(("act", "step"), [("create", 1), ("create", 9), ("prune", 1), ("restore", 8)])
def test_a_backup_that_was_killed_costs_nothing(memory: Path, act: str, step: int) -> None:
    assert killed_and_made_again(memory, act, step)


@pytest.mark.slow
@pytest.mark.parametrize("act", ["create", "prune", "restore"])
def test_killed_at_any_step_costs_nothing(memory: Path, act: str) -> None:
    step = 0
    while killed_and_made_again(memory / str(step), act, step):
        shutil.rmtree(memory / str(step))
        step += 1
    assert step >= 4
