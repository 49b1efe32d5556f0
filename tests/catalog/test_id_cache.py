"""What a process remembers to exist is bounded and can be forgotten."""

from __future__ import annotations

from nirs_store.db.recorder import IdCache


def test_it_remembers_notes_and_forgets_on_demand() -> None:
    known = IdCache()
    known.add("run", "a", {"n": 1})
    assert known.get("run", "a") == {"n": 1}
    assert ("run", "a") in known
    assert known.get("pipeline", "a") is None
    known.forget("run", "a")
    known.forget("chain", "never seen")
    assert ("run", "a") not in known


def test_a_training_loop_of_millions_does_not_fill_the_memory() -> None:
    known = IdCache(limit=3)
    for number in range(10):
        known.add("prediction", str(number), number)
    assert [known.get("prediction", str(number)) for number in range(10)] == [None] * 7 + [7, 8, 9]
    known.clear()
    assert known.get("prediction", "9") is None
