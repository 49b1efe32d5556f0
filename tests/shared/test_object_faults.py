"""An object store that fails between two computers: what was acknowledged is there, once, and the replicas are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bucketkit
import numpy as np
import pytest
from bucketkit import Proxy, Seen, Send
from storekit import begin, chain_of

from nirs_store.blobs import bucket as bucket_module
from nirs_store.blobs.bucket import Bucket, parse_place
from nirs_store.blobs.objects import OWNER
from nirs_store.db.table import digests
from nirs_store.errors import InvalidInput, SharedStoreUnreachable
from nirs_store.store import WorkspaceStore

pytest.importorskip("obstore", reason="the extra nirs-store[shared] is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture
def proxied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the bucket, and the address of a prefix through it."""
    bucketkit.credentials(monkeypatch, tmp_path)
    with bucketkit.proxy() as state:
        yield state, bucketkit.address(state.port)


def recorded(store: WorkspaceStore, number: int) -> tuple[str, str, str]:
    """A run with a model, and a commit that is too large for a row of the log."""
    run_id = store.begin_run("r", {"text": str(number) * 300_000}, [])
    pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "corn", "hash")
    saved = store.save_artifact([float(number)] * 99, "builtins.list", "model", "joblib")
    chain_id = chain_of(store, pipeline_id, saved)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    return run_id, chain_id, saved


def same(*stores: WorkspaceStore) -> None:
    """Compare the replicas, and read every blob."""
    for store in stores:
        store.flush()
    found = [store._engine.query(digests) for store in stores]
    assert all(each == found[0] for each in found)
    for (artifact_id,) in stores[0]._engine.query(
        lambda con: con.execute("SELECT artifact_id FROM blobs").fetchall()
    ):
        for store in stores:
            store.load_artifact(artifact_id)


def once(answer: Callable[[Seen, Send], Any], *methods: str) -> bucketkit.Rule:
    """Answer the first request for each object badly."""
    seen: set[str] = set()

    def rule(request: Seen, send: Send) -> Any:
        name = f"{request.method} {request.path}"
        if request.method not in methods or name in seen or request.path.endswith(OWNER[1:]):
            return send()
        seen.add(name)
        return answer(request, send)

    return rule


def status(number: int, code: str = "SlowDown") -> Callable[[Seen, Send], Any]:
    return lambda request, send: (number, [], f"<Error><Code>{code}</Code></Error>".encode())


def answer_lost(request: Seen, send: Send) -> None:
    send()


def cut_off(request: Seen, send: Send) -> Any:
    number, headers, body = send()
    headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
    return number, [*headers, ("Content-Length", str(len(body)))], body[: len(body) // 2]


def altered(request: Seen, send: Send) -> Any:
    number, headers, body = send()
    return number, headers, bytes([body[0] ^ 1]) + body[1:] if body else body


@pytest.mark.parametrize(
    "rule",
    [
        once(status(500, "InternalError"), "GET", "PUT", "HEAD", "POST"),
        once(status(503), "GET", "PUT", "HEAD", "POST"),
        once(answer_lost, "PUT", "POST"),
        once(cut_off, "GET"),
        once(altered, "GET"),
    ],
    ids=["500", "503", "answer lost", "cut off", "altered once"],
)
def test_what_passes_costs_nothing(machine: Any, proxied: tuple[Proxy, str], rule: Any) -> None:
    proxy, url = proxied
    one, other = machine("one", blobs=url), machine("other", blobs=url)
    proxy.rule = rule
    runs = []
    for number, store in enumerate((one, other, one)):
        runs.append(recorded(store, number)[0])
        for each in (one, other):
            try:
                each.list_runs()
            except SharedStoreUnreachable:
                each.list_runs()  # said that the bytes of a commit were others, and is asked again
    assert sorted(one.list_runs()["run_id"]) == sorted(runs)
    one.delete_run(runs[0], now=True)
    proxy.rule = None
    same(one, other, machine("new", blobs=url))


@pytest.mark.parametrize(
    "answer",
    [status(403, "ExpiredToken"), status(503), lambda request, send: None],
    ids=["credentials expired", "503 for long", "no connection"],
)
def test_what_lasts_is_said_and_the_same_rows_are_committed_afterwards(
    machine: Any, proxied: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(bucket_module, "PATIENCE", 0.3)
    proxy, url = proxied
    one, other = machine("one", blobs=url), machine("other", blobs=url)
    recorded(one, 1)
    _, pipeline_id = begin(one, "in the middle")
    one.flush()
    proxy.rule = answer
    with pytest.raises(SharedStoreUnreachable):
        one.save_artifact([2.0], "builtins.list", "model", "joblib")
    # What this store saved before is looked for in the background, and the commit waits for it.
    chain_of(one, pipeline_id, one.save_artifact([1.0] * 99, "builtins.list", "model", "joblib"))
    for call in (one.flush, lambda: machine("new", blobs=url).list_runs()):
        with pytest.raises(SharedStoreUnreachable):
            call()
    proxy.rule = None
    one.flush()
    assert other.get_chains_for_pipeline(pipeline_id).height == 1
    one.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    assert sorted(other.list_runs()["name"]) == sorted(one.list_runs()["name"])
    same(one, other, machine("new", blobs=url))


def test_a_deletion_that_arrives_an_hour_later_hits_nothing(machine: Any, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    one, other = machine("one", blobs=url), machine("other", blobs=url)
    run_id, _, saved = recorded(one, 1)
    late: list[Send] = []

    def hold(request: Seen, send: Send) -> Any:
        if request.method == "DELETE" or (request.method == "POST" and "delete" in request.path):
            late.append(send)
        return send()

    proxy.rule = hold
    one.delete_run(run_id, now=True)
    assert late
    _, _, again = recorded(other, 1)
    assert again == saved
    for send in late:
        send()
    # A new computer has no copy of it.
    same(one, other, machine("new", blobs=url))
    assert one.load_artifact(again) == other.load_artifact(saved)


def test_a_bucket_that_was_emptied_or_is_anothers_is_refused_and_nothing_counts_as_lost(
    machine: Any, proxied: tuple[Proxy, str], database: str, tmp_path: Path
) -> None:
    _, url = proxied
    one = machine("one", blobs=url)
    run_id, _, saved = recorded(one, 1)
    there: Any = Bucket(parse_place(url))
    owner = there.get(OWNER, 0, there.head(OWNER)["size"], None)
    # Another workspace in another place of the same bucket.
    place = bucketkit.address()
    WorkspaceStore(f"{database}?workspace=wheat&replica={tmp_path / 'wheat'}", blobs=place).close()
    with pytest.raises(InvalidInput, match="is not that place"):
        machine("wrong", blobs=place)
    there.delete([OWNER])
    with pytest.raises(SharedStoreUnreachable, match="is not, or no longer"):
        recorded(machine("emptied", blobs=url), 3)
    there.replace(OWNER, owner)
    assert one.list_runs()["run_id"].to_list() == [run_id]
    np.testing.assert_array_equal(one.load_artifact(saved), [1.0] * 99)
    same(one, machine("new", blobs=url))


def test_a_listing_that_is_late_loses_and_doubles_nothing(machine: Any, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    one, other = machine("one", blobs=url), machine("other", blobs=url)

    def late(request: Seen, send: Send) -> Any:
        if "list-type=2" not in request.path:
            return send()
        return 200, [("Content-Type", "application/xml")], b"<ListBucketResult></ListBucketResult>"

    proxy.rule = late
    first, _, saved = recorded(one, 1)
    _, _, again = recorded(other, 1)
    one.delete_run(first, now=True)
    one.gc_artifacts(grace_seconds=0)
    assert saved == again
    same(one, other)
    proxy.rule = None
    same(one, other, machine("new", blobs=url))
