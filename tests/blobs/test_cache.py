"""The byte-bounded cache."""

from __future__ import annotations

import os
import threading

import pytest

from nirs_store.blobs.cache import ByteLRU
from nirs_store.errors import InvalidInput


def test_what_was_used_longest_ago_goes_first():
    cache = ByteLRU[str, int](max_bytes=30)
    for number, key in enumerate("abc"):
        cache.put(key, number, 10)
    cache.get("a")

    cache.put("d", 3, 10)

    assert [key for key in "abcd" if key in cache] == ["a", "c", "d"]


def test_a_none_that_was_put_is_a_hit():
    cache = ByteLRU[str, None](max_bytes=30)
    cache.put("a", None, 1)
    missing = object()

    assert cache.get("a", missing) is None
    assert cache.get("b", missing) is missing
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)


def test_what_is_larger_than_the_bound_is_not_kept_and_evicts_nothing():
    cache = ByteLRU[str, int](max_bytes=10)
    cache.put("a", 1, 10)

    cache.put("b", 2, 11)

    assert "b" not in cache
    assert cache.get("a") == 1


def test_an_entry_that_outgrew_the_bound_does_not_leave_its_old_value():
    cache = ByteLRU[str, int](max_bytes=10)
    cache.put("a", 1, 10)

    cache.put("a", 2, 11)

    assert cache.get("a") is None
    assert cache.stats().bytes == 0


def test_putting_a_key_again_counts_its_bytes_once():
    cache = ByteLRU[str, int](max_bytes=10)
    for size in (3, 4, 5):
        cache.put("a", size, size)

    assert cache.stats().bytes == 5
    assert cache.stats().entries == 1


def test_the_number_of_entries_can_be_bounded_too():
    cache = ByteLRU[int, int](max_bytes=100, max_entries=2)
    for number in range(5):
        cache.put(number, number, 1)

    assert len(cache) == 2
    assert 4 in cache


def test_shrinking_forgets_what_no_longer_fits():
    cache = ByteLRU[int, int](max_bytes=100)
    for number in range(10):
        cache.put(number, number, 10)

    cache.resize(25)
    assert (cache.stats().entries, cache.stats().bytes) == (2, 20)
    cache.resize(0)
    assert len(cache) == 0


def test_remove_and_clear():
    cache = ByteLRU[str, int](max_bytes=100)
    cache.put("a", 1, 10)
    cache.put("b", 1, 10)

    assert cache.remove("a")
    assert not cache.remove("a")
    cache.clear()

    assert (cache.stats().entries, cache.stats().bytes) == (0, 0)


@pytest.mark.parametrize("arguments", [(-1,), (1, -1)])
def test_negative_bounds_are_refused(arguments):
    with pytest.raises(InvalidInput):
        ByteLRU[str, int](*arguments)


def test_many_threads_leave_the_books_in_order():
    cache = ByteLRU[int, int](max_bytes=500)
    wrong: list[object] = []

    def work(seed):
        for step in range(3000):
            key = (seed * 7 + step * 13) % 100
            found = cache.get(key)
            if found not in (None, key):
                wrong.append(found)
            cache.put(key, key, key)
            if step % 50 == 0:
                cache.remove(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()

    assert wrong == []
    assert stats.bytes == sum(key for key in range(100) if key in cache) <= 500
    assert stats.hits + stats.misses == 6 * 3000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_use_the_cache_whatever_the_parent_s_threads_did():
    cache = ByteLRU[str, int](max_bytes=100)
    cache.put("a", 1, 10)
    cache._lock.acquire()  # as a thread would hold it that the child has not got

    child = os.fork()
    if child == 0:
        os._exit(0 if cache._lock.acquire(timeout=0) and cache._entries["a"] == (1, 10) else 1)
    cache._lock.release()

    assert os.waitpid(child, 0)[1] == 0


def test_the_cache_shows_what_it_holds():
    cache = ByteLRU[str, int](max_bytes=2000)
    cache.put("a", 1, 1000)

    assert repr(cache) == "ByteLRU(1 entries, 1,000 of 2,000 bytes)"
