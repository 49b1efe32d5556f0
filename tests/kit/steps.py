"""Savers, a deleter and a collector in processes of their own that stop at every point where it matters.

A child is told what to do, says where it has come to, and goes on when told: so the parent decides, step by
step, who is next, and a seed gives the same interleaving each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from storekit import Talk, chain_of

from nirs_store.blobs.local import LocalFolder
from nirs_store.db import lock as claims
from nirs_store.errors import ArtifactMissing, StoreBusy
from nirs_store.maintenance import gc
from nirs_store.store import WorkspaceStore

__all__ = ["collector", "deleter", "saver"]

# Nobody may wait for somebody who stands still until the parent lets him go.
_PATIENCE = 0.03


def saver(talk: Talk, folder: Path) -> None:
    """Save, chain and end sessions, stopping around each claim, blob and commit."""
    store = WorkspaceStore(folder, lock_timeout=_PATIENCE, threads=1)
    _stop_around(talk, store)
    saved = ""
    while True:
        what, argument = talk.wait()
        try:
            if what == "save":
                saved = store.save_artifact(content(argument), "builtins.list", "model", "joblib")
                store.flush()
                talk.say(("done", saved))
            elif what == "chain":
                with store.transaction():
                    run_id = store.begin_run("r", {}, [])
                    pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "corn", "h")
                    chain_of(store, pipeline_id, argument or saved or None)
                talk.say(("done", run_id))
            else:
                store.close()
                store = WorkspaceStore(folder, lock_timeout=_PATIENCE, threads=1)
                _stop_around(talk, store)
                saved = ""
                talk.say(("done", None))
        except ArtifactMissing:
            talk.say(("missing", None))


def content(number: int) -> list[Any]:
    """One of few things to save, so that savers meet what others saved."""
    return ["content", number]


def deleter(talk: Talk, folder: Path) -> None:
    """Delete runs."""
    store = WorkspaceStore(folder, lock_timeout=_PATIENCE, threads=1)
    while True:
        run_id, with_artifacts = talk.wait()
        try:
            store.delete_run(run_id, delete_artifacts=with_artifacts, now=True)
            talk.say(("done", None))
        except StoreBusy:
            talk.say(("busy", None))


def collector(talk: Talk, folder: Path) -> None:
    """Collect garbage, stopping between all steps, or plan and collect at once."""
    store = WorkspaceStore(folder, lock_timeout=_PATIENCE, threads=1)
    while True:
        if talk.wait() == "gc":
            with _stepping(talk):
                found: Any = _patiently(lambda: store.collect_garbage(grace_seconds=0.0))
            talk.say(("done", None if found is None else found.files))
            continue
        plan = _at_last(lambda: store.gc_artifacts(dry_run=True, grace_seconds=0.0))
        before = _files(folder)
        result = _at_last(lambda: store.collect_garbage(grace_seconds=0.0))
        removed = before.keys() - _files(folder).keys()
        same = (
            set(plan.files) == set(result.plan.files) == removed
            and result.files == len(removed)
            and plan.bytes == result.bytes == sum(before[path] for path in removed)
            and {a.artifact_id for a in plan.artifacts} == {a.artifact_id for a in result.plan.artifacts}
        )
        talk.say(("done", (same, len(removed))))


def _patiently(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StoreBusy:
        return None


def _at_last(call: Callable[[], Any]) -> Any:
    # Nobody stands still now, but somebody may just be applying what he committed.
    for _ in range(500):
        found = _patiently(call)
        if found is not None:
            return found
        time.sleep(0.02)
    return call()


def _files(folder: Path) -> dict[str, int]:
    paths = (path for path in (folder / "artifacts").rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _stop(talk: Talk, where: str) -> None:
    talk.say(("at", where))
    talk.wait()


def _stop_around(talk: Talk, store: WorkspaceStore) -> None:
    """Stop after the claim, after the blob, before the commit, and after it."""
    engine = store._engine
    add, put, append = engine._claim.add, engine.blobs.put, engine.journal.append

    def stopping_add(token: str) -> None:
        add(token)
        _stop(talk, "claimed")

    def stopping_put(*args: Any, **named: Any) -> Any:
        info = put(*args, **named)
        engine.blobs.wait()
        _stop(talk, "blob written")
        return info

    def stopping_append(*args: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return append(*args)
        _stop(talk, "before the commit")
        result = append(*args)
        _stop(talk, "committed")
        return result

    engine._claim.add = stopping_add  # type: ignore[method-assign]
    engine.blobs.put = stopping_put  # type: ignore[method-assign]
    engine.journal.append = stopping_append  # type: ignore[method-assign]


@contextmanager
def _stepping(talk: Talk) -> Iterator[None]:
    """Stop after each step of a gc."""

    def stopping(name: str, owner: Any = gc) -> Any:
        real = getattr(owner, name)

        def step(*args: Any, **named: Any) -> Any:
            result = real(*args, **named)
            _stop(talk, f"after {name}")
            return result

        return patch.object(owner, name, step)

    delete = gc.delete_unreferenced

    def stopping_delete(*args: Any, **named: Any) -> Any:
        _stop(talk, "before the rows go")
        return delete(*args, **named)

    with (
        stopping("_plan"),
        stopping("trash", LocalFolder),
        stopping("read_claims", claims),
        patch.object(gc, "delete_unreferenced", stopping_delete),
        stopping("settle_trash"),
    ):
        yield
