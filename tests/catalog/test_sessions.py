"""Claims: a locked file says that its owner lives and which blobs it is about to name."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children
import pytest

from nirs_store.db.layout import Layout
from nirs_store.db.lock import ClaimFile, living, read_claims
from nirs_store.errors import StoreClosed, WriteFailed
from nirs_store.ids import new_id


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    for folder in layout.folders:
        folder.mkdir(parents=True)
    return layout


def claim(layout: Layout) -> ClaimFile:
    return ClaimFile(layout, new_id())


def test_a_session_lives_from_its_first_claim_to_its_close(layout: Layout) -> None:
    mine = claim(layout)
    assert living(layout) == []
    mine.ensure()
    mine.ensure()
    assert living(layout) == [mine.claim_id]
    mine.close()
    mine.close()
    assert living(layout) == []
    assert list(layout.claims.iterdir()) == []


def test_claims_of_the_living_count_and_are_given_up_together(layout: Layout) -> None:
    mine, other = claim(layout), claim(layout)
    mine.add("a")
    mine.add("b")
    other.add("c")
    assert read_claims(layout, remove_dead=True) == {"a", "b", "c"}
    mine.clear(keep={"b"})
    assert {"b", "c"} <= read_claims(layout, remove_dead=False)
    mine.clear(keep=set())
    assert read_claims(layout, remove_dead=False) == {"c"}
    mine.add("d")
    assert read_claims(layout, remove_dead=False) == {"c", "d"}
    for some in (mine, other):
        some.close()


@pytest.mark.parametrize("token", ["exports/my model.joblib", "a\nb", "grün", "100%"])
def test_a_claim_may_be_any_text(layout: Layout, token: str) -> None:
    mine = claim(layout)
    mine.add(token)
    mine.add("next")
    assert read_claims(layout, remove_dead=False) == {token, "next"}
    mine.close()


def test_claims_of_the_dead_are_ignored_and_removed(layout: Layout, crew: Callable[..., Any]) -> None:
    child = crew(children.record_and_wait, layout.root / "ws")
    child.hear()
    inner = Layout(layout.root / "ws")
    assert len(living(inner)) == 1
    child.signal(signal.SIGKILL)
    child.end()
    assert living(inner) == []
    assert len(list(inner.claims.iterdir())) == 1
    assert read_claims(inner, remove_dead=False) == set()
    assert len(list(inner.claims.iterdir())) == 1
    read_claims(inner, remove_dead=True)
    assert list(inner.claims.iterdir()) == []


def test_nobody_ever_sees_a_claim_file_that_is_not_locked(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        seen.append(os.listdir(layout.claims))
        real(source, target)
        seen.append(living(layout))

    monkeypatch.setattr(os, "rename", rename)
    mine = claim(layout)
    mine.ensure()
    assert seen == [[], [mine.claim_id]]
    mine.close()


def test_a_closed_session_does_not_come_to_life_again(layout: Layout) -> None:
    mine = claim(layout)
    mine.ensure()
    mine.close()
    with pytest.raises(StoreClosed):
        mine.add("a")
    assert list(layout.claims.iterdir()) == []


def test_a_claim_that_could_only_be_written_in_part_is_refused_and_does_not_spoil_the_next(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = claim(layout)
    mine.add("first")
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
        with pytest.raises(WriteFailed):
            mine.add("second")
    mine.add("third")
    assert read_claims(layout, remove_dead=False) == {"first", "third"}
    mine.close()


@pytest.mark.parametrize("call", ["open", "rename", "write"])
def test_a_full_disk_is_a_typed_error(layout: Layout, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mine = claim(layout)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(WriteFailed, match="No space"):
            mine.add("a")
    mine.add("b")
    assert read_claims(layout, remove_dead=False) == {"b"}
    mine.close()


def test_a_workspace_without_claims_has_no_living_sessions(tmp_path: Path) -> None:
    assert living(Layout(tmp_path)) == []
    assert read_claims(Layout(tmp_path), remove_dead=True) == set()
