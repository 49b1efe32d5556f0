"""A gc on one computer while others save: nothing that is claimed or named is lost, and late deletions hit nothing."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from typing import Any

import numpy as np
import pytest
from sampling import covering
from storekit import Y_TRUE, begin, chain_of

from nirs_store.db.session import Engine
from nirs_store.errors import ArtifactMissing, InvalidInput, SessionEnded, UnknownDataset
from nirs_store.shared.checking import status_of
from nirs_store.store import WorkspaceStore

X = np.arange(12.0).reshape(4, 3) ** 1.5


def model() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(X, Y_TRUE)


def save(store: WorkspaceStore, **about: Any) -> str:
    return store.save_artifact(model(), "sklearn.linear_model.LinearRegression", "model", "joblib", **about)


def recorded(store: WorkspaceStore) -> tuple[str, str]:
    """Run and chain of one model, committed."""
    run_id, pipeline_id = begin(store)
    chain_id = chain_of(store, pipeline_id, save(store))
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    return run_id, chain_id


def blobs(store: WorkspaceStore) -> list[str]:
    return sorted(store._engine.layout.blobs.list("artifacts/"))


def collect(store: WorkspaceStore) -> int:
    return store.gc_artifacts(grace_seconds=0)


def dies(keys: Any) -> None:
    raise KeyboardInterrupt


def test_a_key_that_was_given_up_is_never_used_again(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = recorded(one)
    (first,) = blobs(one)
    one.delete_run(run_id, now=True)
    assert blobs(other) == []
    _, chain_id = recorded(one)
    (second,) = blobs(one)
    assert second == first.replace(".joblib", "~1.joblib")
    # A deletion of the first key that comes only now.
    other._engine.layout.blobs.remove([first])
    assert collect(other) == 0
    np.testing.assert_array_equal(other.replay_chain(chain_id, X), model().predict(X))


def put_file(store: WorkspaceStore) -> None:
    store.files.put(b"the same bytes", "notes", type="text_raw")


def remove_file(store: WorkspaceStore) -> None:
    store.files.delete("notes", force=True)


def add_spectra(store: WorkspaceStore) -> None:
    store.datasets.add("corn", X, references={"protein": Y_TRUE})


def remove_spectra(store: WorkspaceStore) -> None:
    for number in range(1, 4):
        with contextlib.suppress(UnknownDataset):
            store.datasets.delete(f"corn@v{number}", force=True)


@pytest.mark.parametrize(("add", "remove"), [(put_file, remove_file), (add_spectra, remove_spectra)])
def test_what_is_stored_without_a_claim_gets_a_key_that_was_never_given_up(
    machine: Any, add: Any, remove: Any
) -> None:
    one, other = machine("one"), machine("other")
    add(one)
    first = blobs(one)
    for store, again in ((one, other), (other, one)):
        remove(store)
        collect(store)
        assert blobs(other) == []
        add(again)
        # A deletion of the first keys that comes only now.
        other._engine.layout.blobs.remove(first)
        assert blobs(again)
        assert one.check(read_data=True).ok
        assert len(blobs(one)) == len(first)
    add(other)  # the same bytes once more are no other object
    assert len(blobs(one)) == len(first)


def test_what_another_computer_has_saved_and_not_committed_stays(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = recorded(one)
    _, pipeline_id = begin(other)
    other.flush()
    there = blobs(one)
    with other.transaction():
        # Found in its place, so nothing is written: from here on only the claim holds it.
        artifact_id = save(other)
        chain_id = chain_of(other, pipeline_id, artifact_id)
        one.delete_run(run_id, now=True)
        assert collect(one) == 0
        assert one.get_artifact(artifact_id) is not None
    assert blobs(one) == there
    np.testing.assert_array_equal(one.replay_chain(chain_id, X), model().predict(X))


def test_what_a_gc_that_died_had_given_up_is_deleted_by_the_next(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = recorded(one)

    with monkeypatch.context() as patch:
        patch.setattr(one._engine.layout.blobs, "remove", dies)
        with pytest.raises(KeyboardInterrupt):
            one.delete_run(run_id, now=True)
    assert len(blobs(other)) == 1
    # It is there, and must not be referred to.
    _, chain_id = recorded(other)
    assert len(blobs(other)) == 2
    assert status_of(other._engine).condemned == 1
    collect(other)
    assert len(blobs(other)) == 1
    assert status_of(other._engine).condemned == 0
    np.testing.assert_array_equal(one.replay_chain(chain_id, X), model().predict(X))


def test_an_id_whose_key_was_given_up_is_missing_for_a_store_without_its_bytes(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = recorded(one)
    artifact_id = save(other)
    other.close()
    third = machine("third")
    _, pipeline_id = begin(third)
    third.get_artifact_path(artifact_id)
    one.delete_run(run_id, now=True)
    collect(one)
    with pytest.raises(ArtifactMissing):
        chain_of(third, pipeline_id, artifact_id)


def put_to_sleep(store: WorkspaceStore, database: str) -> None:
    """Cut the connections of a store that show that it lives, as when a laptop sleeps; it has not come back yet."""
    import psycopg

    holder = store._engine._claim.claim_id
    store._engine._flusher.stop()  # its threads sleep, too
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(
            "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l JOIN nirs_store.holders h "
            "ON (l.classid::bigint << 32 | l.objid::bigint) = h.lock_key WHERE h.holder = %s",
            [holder],
        )


def test_a_store_that_was_taken_for_dead_goes_on_where_it_has_lost_nothing(
    machine: Any, database: str
) -> None:
    one, other = machine("one"), machine("other")
    run_id, pipeline_id = begin(one)
    chain_id = chain_of(one, pipeline_id, save(one))
    one.flush()
    put_to_sleep(one, database)
    assert one._engine.session_id not in other._engine.claims.living()
    collect(other)
    one.log_step(pipeline_id, 0, "x", "start")
    one.flush()
    assert other.get_pipeline_log(pipeline_id)["event"].to_list() == ["start"]
    assert one._engine.session_id in other._engine.claims.living()
    # Its new claims hold as the old ones did.
    other.delete_run(run_id, now=True)
    _, pipeline_id = begin(one, "again")
    one.flush()
    with one.transaction():
        chain_id = chain_of(one, pipeline_id, save(one))
        assert collect(other) == 0
    np.testing.assert_array_equal(other.replay_chain(chain_id, X), model().predict(X))


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a store that was put to sleep from looking for new settings in the background."""
    monkeypatch.setattr(Engine, "next_look", None)


def test_a_store_that_was_taken_for_dead_still_answers_and_looks_for_settings(
    machine: Any, database: str
) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    one.flush()
    put_to_sleep(one, database)
    collect(other)
    assert one._engine.journal.settings_wait() is False
    assert one.list_runs()["run_id"].to_list() == [run_id]
    one.retention.pin(run_id, "the paper")
    assert other.retention.pins().height == 1


@pytest.mark.usefixtures("asleep")
def test_a_store_that_was_taken_for_dead_never_refers_to_what_was_given_up(
    machine: Any, database: str
) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = recorded(one)
    _, pipeline_id = begin(one, "asleep")
    one.flush()
    before = other.list_runs().height

    def sleep_in_between() -> None:
        with one.transaction():
            # Found in its place, so nothing is written.
            chain_of(one, pipeline_id, save(one))
            put_to_sleep(one, database)
            # No living store claims it, and nothing refers to it any more.
            other.delete_run(run_id, now=True)
            collect(other)

    with pytest.raises(SessionEnded):
        sleep_in_between()
    # The rows are kept, and refused as often as they are sent.
    with pytest.raises(SessionEnded):
        one.flush()
    one._engine.abort()
    assert blobs(other) == []
    assert other.list_runs().height == before - 1
    assert other.get_chains_for_pipeline(pipeline_id).is_empty()


@pytest.mark.usefixtures("asleep")
def test_a_store_whose_connection_was_cut_lives_again_with_the_next_one(machine: Any, database: str) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = recorded(one)
    _, pipeline_id = begin(one, "cut off")
    one.flush()
    with one.transaction():
        # Found in its place, so nothing is written.
        chain_id = chain_of(one, pipeline_id, save(one))
        put_to_sleep(one, database)
        one._engine.journal.settings_wait()
        other.delete_run(run_id, now=True)
        assert collect(other) == 0
    np.testing.assert_array_equal(other.replay_chain(chain_id, X), model().predict(X))


@pytest.mark.usefixtures("asleep")
def test_what_a_store_that_was_taken_for_dead_claims_again_is_held_until_its_end(
    machine: Any, database: str
) -> None:
    one, other = machine("one"), machine("other")
    run_id, pipeline_id = begin(one)
    one.flush()
    put_to_sleep(one, database)
    collect(other)
    with one.transaction():
        chain_of(one, pipeline_id, save(one))
    one.close()
    other.delete_run(run_id, now=True)
    assert blobs(other) == []


def test_the_grace_period_of_a_store_that_was_taken_for_dead_begins_at_its_end(
    machine: Any, database: str
) -> None:
    one, other = machine("one"), machine("other")
    begin(one)
    one.flush()
    put_to_sleep(one, database)
    collect(other)
    # It sleeps for two hours.
    assert other._engine.change(
        lambda con: con.execute(
            "UPDATE sessions SET ended_at = ended_at - INTERVAL 2 HOUR WHERE session_id = ? RETURNING session_id",
            [one._engine.session_id],
        ).fetchall()
    )
    save(one)  # no chain names it
    one.close()
    assert other.gc_artifacts() == 0
    assert len(blobs(other)) == 1
    assert collect(other) == 1


def test_a_gc_says_how_much_it_removed_and_what_it_left(machine: Any) -> None:
    store = machine("one")
    run_id, _ = recorded(store)
    store._engine.layout.blobs.put({"artifacts/ab/nobody.joblib": b"x"})
    size = store._engine.query(
        lambda con: con.execute("SELECT sum(size_bytes)::BIGINT FROM blobs").fetchall()
    )
    store.delete_run(run_id, delete_artifacts=False, now=True)
    store.close()
    result = machine("two")._engine
    from nirs_store.maintenance.gc import collect as run_gc

    found = run_gc(result, grace_seconds=0)
    assert (found.files, found.bytes, found.plan.bytes) == (1, size[0][0], size[0][0])
    assert found.plan.unknown_files == ("artifacts/ab/nobody.joblib",)


def test_a_row_that_names_what_is_no_blob_goes_alone(machine: Any) -> None:
    store = machine("one")
    outside = store.workspace_path.parent / "outside.bin"
    outside.write_bytes(b"mine")
    store._engine.change(
        lambda con: con.execute(
            "INSERT INTO blobs SELECT 'x', '../outside.bin', repeat('0', 64), 'C', 'model', 'bytes', 4, now()::TIMESTAMP"
        )
    )
    assert collect(machine("two")) == 0
    assert collect(store) == 0
    assert store.get_artifact("x") is None
    assert outside.exists()


@pytest.mark.usefixtures("asleep")
def test_a_change_of_a_store_that_was_taken_for_dead_never_refers_to_what_was_given_up(
    machine: Any, database: str
) -> None:
    one, other = machine("one"), machine("other")
    episodes = [{"episode": 1, "score": 1.0}]
    first = one.evaluations.record("model", "suite", 1.0, episodes=episodes)
    waits = one._engine.blobs.wait

    def sleep(ids: Any = None) -> None:
        waits(ids)
        if not ids:
            return  # a commit without blobs
        one._engine.blobs.wait = waits  # type: ignore[method-assign]
        put_to_sleep(one, database)
        # Nothing refers to it any more, and no living store claims it.
        other.evaluations.delete(first, now=True)
        collect(other)

    one._engine.blobs.wait = sleep  # type: ignore[method-assign, assignment]
    with pytest.raises(SessionEnded):
        one.evaluations.record("model", "suite", 1.0, episodes=episodes)
    assert other.evaluations.list().is_empty()
    one._engine.abort()
    again = machine("one").evaluations.record("model", "suite", 1.0, episodes=episodes)
    assert other.evaluations.episodes(again)["score"].to_list() == [1.0]


def register(store: WorkspaceStore, artifact_id: str, content: bytes, path: str = "models/x.bin") -> None:
    digest = hashlib.sha256(content).hexdigest()
    store.register_existing_artifact(artifact_id, path, digest, "C", "model", "bytes", len(content))


def write(store: WorkspaceStore, content: bytes, path: str = "models/x.bin") -> None:
    store._engine.layout.blobs.put({path: content})


def give_up(store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch, remove: Any) -> None:
    """Collect, with another way to delete what was given up."""
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(store._engine.layout.blobs, "remove", remove)
        collect(store)


OWN_NAMES = [("mine", "models/x.bin"), ("0" * 64, "models/x.bin"), ("mine", f"artifacts/ab/{'ab' * 32}.bin")]


@pytest.mark.parametrize(("names", "killed"), covering(OWN_NAMES, [True, False]))
def test_a_name_of_the_users_own_that_was_given_up_is_not_registered_again(
    machine: Any, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], killed: bool
) -> None:
    artifact_id, path = names
    one, other = machine("one"), machine("other")
    write(one, b"old", path)
    register(one, artifact_id, b"old", path)
    one.close()
    if killed:
        give_up(other, monkeypatch, dies)
    else:
        assert collect(other) == 1
    assert other.get_artifact(artifact_id) is None
    third = machine("third")
    write(third, b"new", path)
    for ident in (artifact_id, "another"):
        with pytest.raises(InvalidInput, match="under another name"):
            register(third, ident, b"new", path)
    third.flush()
    assert third.get_artifact("another") is None
    # What the message says to do; the id may come again.
    write(third, b"new", "models/y.bin")
    register(third, artifact_id, b"new", "models/y.bin")
    third.flush()
    # A deletion that arrives late, and one that was left undone.
    other._engine.layout.blobs.remove([path])
    collect(other)
    assert other.read_artifact(artifact_id) == b"new"


def test_a_file_that_is_remembered_and_was_given_up_is_missing(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    write(one, b"old")
    register(one, "mine", b"old")
    _, pipeline_id = begin(other)
    one.close()
    other.get_artifact_path("mine")
    give_up(machine("third"), monkeypatch, dies)
    # It is there, and must not be referred to.
    with pytest.raises(ArtifactMissing):
        chain_of(other, pipeline_id, "mine")


def test_a_name_whose_file_is_just_being_deleted_is_not_registered(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = machine("one"), machine("other"), machine("third")
    write(one, b"old")
    register(one, "mine", b"old")
    one.close()
    tried = []

    def while_another_registers(keys: Any) -> None:
        with pytest.raises(InvalidInput, match="under another name"):
            register(third, "mine", b"old")
        tried.extend(keys)

    give_up(other, monkeypatch, while_another_registers)
    assert tried == ["models/x.bin"]


def test_bytes_whose_file_was_given_up_under_a_name_of_the_users_own_get_another_key(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = recorded(one)
    (key,) = blobs(one)
    content = one._engine.layout.blobs.path(key).read_bytes()
    register(one, "mine", content, key)
    # The file outlives its own id, and is given up under the other.
    one.delete_run(run_id, now=True)
    one.close()
    collect(other)
    assert blobs(other) == []
    _, chain_id = recorded(other)
    assert blobs(other) == [key.replace(".joblib", "~1.joblib")]
    other._engine.layout.blobs.remove([key])
    np.testing.assert_array_equal(other.replay_chain(chain_id, X), model().predict(X))


def test_a_file_stays_while_a_second_id_of_it_waits_in_a_transaction(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    write(one, b"old")
    register(one, "mine", b"old")
    one.close()
    begin(other)
    other.flush()
    with other.transaction():
        register(other, "second", b"old")
        # Another thread of the process commits a model, and with it goes its claim and no other.
        thread = threading.Thread(target=lambda: (recorded(other), other.flush()))
        thread.start()
        thread.join()
        assert collect(machine("third")) == 0
    assert machine("third").read_artifact("second") == b"old"


@pytest.mark.parametrize("saved", [False, True])
def test_a_file_stays_while_one_of_its_two_ids_is_claimed(machine: Any, saved: bool) -> None:
    one, other = machine("one"), machine("other")
    content = b"old"
    first = hashlib.sha256(content).hexdigest() if saved else "mine"
    write(one, content)
    for artifact_id in (first, "second"):
        register(one, artifact_id, content)
    one.close()
    _, pipeline_id = begin(other)
    other.flush()
    with other.transaction():
        if saved:
            # Claimed by its hash, of which the name of the file says nothing.
            assert other.save_artifact(content, "C", "model", "bytes") == first
        chain_of(other, pipeline_id, first)
        assert collect(machine("third")) == 0
    assert machine("third").get_artifact("second") is None
    assert machine("third").read_artifact(first) == content
