"""Calls that import a library find room for their frames, however deep their caller is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from nirs_store.blobs.serializers import get_serializer
from nirs_store.lazy import later, with_room


def test_it_gives_what_the_call_gives_and_raises_what_it_raises() -> None:
    assert with_room(lambda: [1, 2]) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        with_room(lambda: 1 // 0)


def test_it_can_be_called_within_itself_and_be_recursed_into_deeply() -> None:
    def deep(n: int) -> int:
        return n if n == 0 else 1 + deep(n - 1)

    assert with_room(lambda: with_room(lambda: deep(500))) == 500


def _leaf() -> None:
    pass


# Larger than the frames between which it is called, so that at some depth it lies across a border.
_leaf.__code__ = _leaf.__code__.replace(co_stacksize=100)


def _at(depth: int, work: Callable[[], int]) -> int:
    return work() if depth == 0 else _at(depth - 1, work)


def _pages() -> int:
    """Memory that the system gave while a function was called 300 times."""
    resource = pytest.importorskip("resource")  # Windows has none
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(300):
        _leaf()
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count it")
def test_no_depth_of_the_caller_makes_calls_ask_for_memory_again_and_again() -> None:
    depths = range(200)
    if max(_at(depth, _pages) for depth in depths) < 200:
        pytest.skip("this interpreter keeps the memory")
    assert max(with_room(lambda depth=depth: _at(depth, _pages)) for depth in depths) < 200  # type: ignore[misc]


@pytest.mark.parametrize(
    "asked",
    [lambda: later("calendar").isleap(2024), lambda: get_serializer("pickle").loads(b"\x80\x04K\x07.")],
    ids=["a module that is imported later", "an object that is loaded"],
)
def test_what_imports_libraries_is_given_room(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def counting(call: Any) -> Any:
        given.append(1)
        return with_room(call)

    monkeypatch.setattr("nirs_store.lazy.with_room", counting)
    monkeypatch.setattr("nirs_store.blobs.serializers.with_room", counting)
    assert asked()
    assert given == [1]
