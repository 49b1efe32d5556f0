"""Signatures bind what was signed; rules of aliases; nothing that an alias needs goes away."""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servicekit import NEW, Recorded, X, Y, alter
from storekit import let_go

from nirs_store import WorkspaceStore, restore_backup
from nirs_store.errors import CalibrationInUse, InvalidInput

KEY = b"0123456789abcdef0123456789abcdef"


def signed(store: WorkspaceStore, recorded: Recorded, **options: Any) -> str:
    store.calibrations.register("fat", recorded.first, author="Ada", scope={"matrix": "meat"})
    store.calibrations.sign("fat@v1", meaning="authorship", signer="Ada", **options)
    store.calibrations.sign("fat@v1", meaning="approval", signer="Grace", note="as planned", **options)
    return store.calibrations.get("fat@v1").version_id


def test_a_signature_says_who_when_what_for(store: WorkspaceStore, recorded: Recorded) -> None:
    signed(store, recorded)
    first, second = store.calibrations.signatures("fat@v1")
    assert [(s.signer, s.meaning, s.note) for s in (first, second)] == [
        ("Ada", "authorship", None),
        ("Grace", "approval", "as planned"),
    ]
    assert first.content_hash == second.content_hash
    found = store.calibrations.verify_signatures("fat@v1")
    assert found.ok
    assert found.valid == (first, second)
    with pytest.raises(CalibrationInUse, match="already"):
        store.calibrations.sign("fat@v1", meaning="approval", signer="Grace")
    with pytest.raises(InvalidInput, match="Did you mean 'approval'"):
        store.calibrations.sign("fat@v1", meaning="aproval")  # type: ignore[arg-type]
    assert store.audit.verify().ok


# What is changed behind the library's back, and a word of what is said of it.
TAMPERED: dict[str, tuple[str, str]] = {
    "the chain": ("UPDATE chains SET steps = replace(steps::VARCHAR, 'PLS', 'plS')", "chain"),
    "a hash of an artifact": ("UPDATE blobs SET content_hash = repeat('0', 64)", "artifacts"),
    "the scope": ("UPDATE calibration_versions SET scope = '{}'", "the version itself"),
    "a figure": ("UPDATE calibration_versions SET figures = '{\"sep\": 0.1}'", "the version itself"),
    "the chain that is meant": ("UPDATE calibration_versions SET chain_id = $other", "chain"),
    "the number": ("UPDATE calibration_versions SET version = 7", "the version itself"),
    "the signer": ("UPDATE signatures SET signer = 'Boss'", "altered"),
    "the meaning": ("UPDATE signatures SET meaning = 'review'", "altered"),
    "the time": ("UPDATE signatures SET signed_at = signed_at + INTERVAL 1 DAY", "altered"),
    "the head": ("UPDATE signatures SET audit_head = '1:' || repeat('a', 64)", "altered"),
    "a signature is gone": ("DELETE FROM signatures WHERE meaning = 'approval'", "it is gone"),
    "a signature by hand": (
        "INSERT INTO signatures SELECT uuid()::VARCHAR, version_id, 'Boss', meaning, note, content_hash, audit_head, "
        "signed_at, algorithm, key_id, signature FROM signatures WHERE meaning = 'approval'",
        "put in by hand",
    ),
    "the entry": ("UPDATE audit_entries SET details = replace(details::VARCHAR, 'Grace', 'Boss')", "altered"),
    "an entry is gone": ("DELETE FROM audit_entries WHERE operation = 'sign'", "does not name it"),
    "another entry is gone": ("DELETE FROM audit_entries WHERE number = 2", "entries are missing"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), TAMPERED.values(), ids=list(TAMPERED))
@pytest.mark.of_a_folder("it alters the file of the catalog")
def test_tampering_is_found(recorded: Recorded, change: str, words: str) -> None:
    with WorkspaceStore(recorded.folder) as store:
        version_id = signed(store, recorded)
    alter(recorded.folder, change.replace("$other", f"'{recorded.second}'"))
    with WorkspaceStore(recorded.folder) as store:
        found = store.calibrations.verify_signatures(version_id)
    assert not found.ok
    assert any(words in why for _, why in found.problems), found.problems


def test_another_domain_or_artifact_is_found(store: WorkspaceStore, recorded: Recorded) -> None:
    signed(store, recorded)
    chain = store.get_chain(recorded.first)
    assert chain is not None
    path = store.get_artifact_path(chain["fold_artifacts"]["final"])
    os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    store._forget()
    found = store.calibrations.verify_signatures("fat@v1")
    assert [where.startswith("artifact") for where, _ in found.problems] == [True]
    path.write_bytes(whole)
    store.add_domain(recorded.first, X[::-1][::-1], Y)
    store._engine.change(
        lambda con: con.execute(
            'UPDATE chains SET metadata = json_merge_patch(metadata, \'{"domain_artifact": "0"}\') WHERE chain_id = ?',
            [recorded.first],
        )
    )
    assert any("domain" in why for _, why in store.calibrations.verify_signatures("fat@v1").problems)


def test_a_correction_is_signed_with_its_version(store: WorkspaceStore, recorded: Recorded) -> None:
    calibrations = store.calibrations
    calibrations.set_rule("fat", "production", signatures=2, others=1)
    signed(store, recorded)
    ids = [f"s{number}" for number in range(24)]
    found = store.predict("fat@v1", X[:24], sample_ids=ids, on_outlier="ignore")
    for name, value in zip(ids, found["prediction"], strict=True):
        store.references.add(name, value + 1.5 + 0.1 * np.sin(value), target="fat")
    calibrations.correct("fat@v1", kind="bias")
    assert any("correction" in why for _, why in calibrations.verify_signatures("fat@v1").problems)
    with pytest.raises(CalibrationInUse, match="correction"):
        calibrations.set_alias("fat", "production", 1)
    for signer in ("Ada", "Grace"):
        calibrations.sign("fat@v1", meaning="review", signer=signer)
    calibrations.set_alias("fat", "production", 1)
    calibrations.retire_correction("fat@v1")
    assert {each.meaning for each in calibrations.verify_signatures("fat@v1").valid} == {
        "authorship",
        "approval",
    }


@pytest.mark.of_a_folder("it alters the file of the catalog")
def test_a_signature_does_not_count_for_another_version(recorded: Recorded) -> None:
    with WorkspaceStore(recorded.folder) as store:
        signed(store, recorded)
        other = store.calibrations.register(
            "fat", recorded.first, author="Ada", scope={"matrix": "meat"}
        ).version_id
    alter(recorded.folder, f"UPDATE signatures SET version_id = '{other}'")
    with WorkspaceStore(recorded.folder) as store:
        assert store.calibrations.verify_signatures("fat@v2").valid == ()
        assert {why for _, why in store.calibrations.verify_signatures("fat@v1").problems} == {
            "the audit trail names it, and it is gone"
        }


def test_a_key_shows_who_holds_it(store: WorkspaceStore, recorded: Recorded, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    signed(store, recorded, key=tmp_path / "key")
    verify = store.calibrations.verify_signatures
    assert verify("fat@v1", KEY) == verify("fat@v1", [KEY.decode()])
    assert (verify("fat@v1", KEY).ok, verify("fat@v1", KEY).unchecked) == (True, ())
    assert len(verify("fat@v1").unchecked) == len(verify("fat@v1", b"x" * 32).unchecked) == 2
    with pytest.raises(InvalidInput, match="at least 16 bytes"):
        store.calibrations.sign("fat@v1", meaning="review", key="short")
    with pytest.raises(InvalidInput, match="cannot be read"):
        store.calibrations.sign("fat@v1", meaning="review", key=tmp_path / "nothing")
    text = json.dumps(store.audit.query().rows(), default=str)
    assert KEY.decode() not in text
    # Whoever can write rows and the trail, but has no key, cannot make this one.
    store._engine.change(lambda con: con.execute("UPDATE signatures SET signature = repeat('0', 64)"))
    assert not verify("fat@v1", KEY).ok


def test_an_alias_demands_signatures(store: WorkspaceStore, recorded: Recorded) -> None:
    calibrations = store.calibrations
    calibrations.set_rule("fat", "production", signatures=2, others=1, meanings=["review", "approval"])
    with pytest.raises(CalibrationInUse, match="demands signatures of 2 persons"):
        calibrations.register("fat", recorded.first, author="Ada", alias="production")
    assert calibrations.list().height == 0
    calibrations.register("fat", recorded.first, author="Ada")
    move: Callable[[], Any] = lambda: calibrations.set_alias("fat", "production", 1)  # noqa: E731
    for meaning, signer in (("review", "Ada"), ("approval", " ada"), ("authorship", "Grace")):
        calibrations.sign("fat@v1", meaning=meaning, signer=signer)  # type: ignore[arg-type]
        with pytest.raises(CalibrationInUse, match="review by Ada"):
            move()
    calibrations.set_alias("fat", "candidate", 1)
    calibrations.sign("fat@v1", meaning="approval", signer="Grace")
    move()
    # The rule is about the next version as well, and what was signed may not change on the way.
    calibrations.register("fat", recorded.second, author="Ada")
    with pytest.raises(CalibrationInUse, match="has: none"):
        calibrations.set_alias("fat", "production", 2)
    assert calibrations.resolve("fat").version == 1
    with pytest.raises(InvalidInput, match="not more by others"):
        calibrations.set_rule("fat", "production", signatures=1, others=2)
    assert str(calibrations.rules("fat")["production"]).startswith(
        "signatures of 2 persons (review or approval)"
    )
    assert calibrations.remove_rule("fat", "production")
    calibrations.set_alias("fat", "production", 2)
    assert "set_rule" in store.audit.query()["operation"].to_list()


def test_what_an_alias_or_a_signature_needs_is_not_deleted(store: WorkspaceStore, recorded: Recorded) -> None:
    chain = store.get_chain(recorded.first)
    pipeline = store.get_pipeline(chain["pipeline_id"])  # type: ignore[index]
    run = pipeline["run_id"]  # type: ignore[index]
    deletions: list[Callable[..., Any]] = [
        lambda **o: store.delete_chain(recorded.first, **o),
        lambda **o: store.delete_pipeline(pipeline["pipeline_id"], **o),  # type: ignore[index]
        lambda **o: store.delete_run(run, **o),
    ]
    store.calibrations.register("fat", recorded.first, alias="production")
    for delete in deletions:
        for options in ({}, {"dry_run": True}, {"force": True}, {"now": True}):
            with pytest.raises(CalibrationInUse, match="fat@production names it"):
                delete(**options)
    from nirs_store.history.policy import keep_recent

    for kind in ("run", "chain"):
        plan = store.retention.plan(keep_recent(1, on=kind))
        assert "the alias fat@production names it" in str(plan.to_dict())
        store.retention.execute(plan)
    assert store.get_chain(recorded.first) is not None
    store.calibrations.remove_alias("fat", "production")
    store.calibrations.sign("fat@v1", meaning="review", signer="Ada")
    with pytest.raises(CalibrationInUse, match="is signed"):
        deletions[0]()
    with pytest.raises(CalibrationInUse, match="Give a reason"):
        store.calibrations.delete("fat@v1")
    store.calibrations.delete("fat@v1", reason="a wrong reference")
    assert store.trash.list()["kind"].to_list() == ["calibration"]
    store.trash.restore(store.trash.list()["trash_id"][0])
    assert store.calibrations.verify_signatures("fat@v1").ok
    store.calibrations.delete("fat@v1", reason="a wrong reference")
    deletions[2]()


def test_a_version_outlives_its_chain_as_a_record(store: WorkspaceStore, recorded: Recorded) -> None:
    store.calibrations.register("fat", recorded.first)
    store.delete_chain(recorded.first)
    found = store.calibrations.get("fat@v1")
    assert (found.chain_exists, found.figures["n_cal"]) == (False, 90)
    with pytest.raises(KeyError, match=recorded.first):
        store.replay_chain("fat@v1", NEW)
    let_go(store)
    assert {f.kind for f in store.check().findings if f.where.startswith("calibrations/")} == {
        "calibration_gone"
    }
    store.trash.restore(recorded.first)
    assert np.isfinite(store.replay_chain("fat@v1", NEW)).all()
    assert not store.check().of_kind("calibration_gone")


@pytest.mark.of_a_folder("it alters the file of the catalog")
def test_check_names_an_alias_of_nothing(recorded: Recorded) -> None:
    with WorkspaceStore(recorded.folder) as store:
        store.calibrations.register("fat", recorded.first, alias="production")
        store.calibrations.sign("fat", meaning="review")
        assert not [f for f in store.check().findings if f.where.startswith("calibrations/")]
    alter(recorded.folder, "DELETE FROM calibration_versions")
    with WorkspaceStore(recorded.folder) as store:
        found = store.check().of_kind("calibration_broken")
    assert len(found) == 2


def test_signatures_count_where_the_trail_is_off_and_hold_in_a_copy(
    recorded: Recorded, tmp_path: Path
) -> None:
    with WorkspaceStore(recorded.folder, audit=False) as store:
        signed(store, recorded)
        assert store.calibrations.verify_signatures("fat@v1").ok
    with WorkspaceStore(recorded.folder) as store:
        store.audit.switch(False)
        store.calibrations.sign("fat@v1", meaning="review", signer="Linus")
        assert len(store.calibrations.verify_signatures("fat@v1").valid) == 3
        store.backups.create(tmp_path / "backups")
        store.vacuum()
        assert store.calibrations.verify_signatures("fat@v1").ok
    restore_backup(tmp_path / "backups", tmp_path / "again")
    with WorkspaceStore(tmp_path / "again") as store:
        assert len(store.calibrations.verify_signatures("fat@v1").valid) == 3


@pytest.mark.parametrize("keys", [[1], [None, 2.5], 7, ["short"], [Path("nowhere") / "key"]])
def test_keys_that_are_none_say_that_nothing_was_checked(
    store: WorkspaceStore, recorded: Recorded, keys: Any
) -> None:
    store.calibrations.register("fat", recorded.first)
    with pytest.raises(InvalidInput, match="Nothing was checked") as error:
        store.calibrations.verify_signatures("fat@v1", keys=keys)
    assert "signed" not in str(error.value)


def test_a_rule_is_not_set_next_to_the_alias_that_is_meant(store: WorkspaceStore, recorded: Recorded) -> None:
    store.calibrations.register("fat", recorded.first, alias="production")
    store.calibrations.set_rule("fat", "approved")
    for name, alias in (("fat", "Production"), ("Fat", "production"), ("fat", "APPROVED")):
        with pytest.raises(InvalidInput, match="capital letters only"):
            store.calibrations.set_rule(name, alias)
    with pytest.raises(InvalidInput, match="capital letters only"):
        store.calibrations.set_alias("fat", "Approved", np.int64(1))
    assert list(store.calibrations.rules("fat")) == ["approved"]
    with pytest.raises(CalibrationInUse):
        store.calibrations.set_alias("fat", "approved", np.int64(1))


def ruled(store: WorkspaceStore, recorded: Recorded) -> None:
    """Log predictions of a signed version that an alias with a rule points to, with references 1.5 above them."""
    signed(store, recorded)
    store.calibrations.set_rule("fat", "production", signatures=2, others=1)
    store.calibrations.set_alias("fat", "production", 1)
    ids = [f"s{number}" for number in range(24)]
    found = store.predict("fat", X[:24], sample_ids=ids, on_outlier="ignore")
    for name, value in zip(ids, found["prediction"], strict=True):
        store.references.add(name, value + 1.5 + 0.1 * np.sin(value), target="fat")


RULED = "'production' points to it and demands signatures of 2 persons"


@pytest.mark.parametrize("name", ["fat", "fat@v1"])
@pytest.mark.parametrize("how", [{}, {"bias": 1.0}, {"slope": 1.01, "dry_run": True}])
def test_a_version_under_a_rule_is_not_corrected(
    store: WorkspaceStore, recorded: Recorded, name: str, how: dict[str, Any]
) -> None:
    ruled(store, recorded)
    with pytest.raises(CalibrationInUse, match=RULED):
        store.calibrations.correct(name, **how)
    assert store.calibrations.corrections("fat") == ()
    assert store.calibrations.verify_signatures("fat").ok


def test_a_correction_under_a_rule_is_a_new_version(store: WorkspaceStore, recorded: Recorded) -> None:
    ruled(store, recorded)
    calibrations = store.calibrations
    raw = store.predict("fat", NEW, on_outlier="ignore")["prediction"]
    # The chain of another version predicts something else; its samples do not count.
    calibrations.register("fat", recorded.second)
    store.predict("fat@v2", X[:24], sample_ids=[f"s{number}" for number in range(24)], on_outlier="ignore")
    calibrations.register("fat", recorded.first, author="Ada")
    made = calibrations.correct("fat@v3", kind="bias")
    assert (len(made.samples), made.slope) == (24, 1.0)
    assert made.bias == pytest.approx(1.5, abs=0.1)
    for signer in ("Ada", "Grace"):
        calibrations.sign("fat@v3", meaning="approval", signer=signer)
    calibrations.set_alias("fat", "production", 3)
    found = store.predict("fat", NEW, on_outlier="ignore")
    np.testing.assert_allclose(found["prediction"], raw + made.bias)
    with pytest.raises(CalibrationInUse, match="freed of its correction.*" + RULED):
        calibrations.retire_correction("fat")
    assert store.predict("fat", NEW, on_outlier="ignore")["prediction"].equals(found["prediction"])
    calibrations.remove_rule("fat", "production")
    assert calibrations.retire_correction("fat").words == made.words


@pytest.mark.parametrize(("signatures", "said"), [(1, False), (2, False), (3, True)])
def test_a_rule_that_its_alias_breaks_already_is_told(
    store: WorkspaceStore, recorded: Recorded, signatures: int, said: bool
) -> None:
    signed(store, recorded)
    store.calibrations.set_alias("fat", "production", 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store.calibrations.set_rule("fat", "production", signatures=signatures)
        store.calibrations.set_rule("fat", "candidate", signatures=9)
        store.calibrations.remove_rule("fat", "production")
    assert [str(each.message) for each in caught] == said * [
        "The rule of fat@production is set and holds for later moves; the alias already points to fat@v1, which lacks "
        "these signatures."
    ]


def test_an_alias_without_a_rule_binds_nothing(store: WorkspaceStore, recorded: Recorded) -> None:
    ruled(store, recorded)
    store.calibrations.register("fat", recorded.second, alias="candidate")
    assert store.calibrations.correct("fat@candidate", bias=1.0).version == 2


def test_a_version_under_a_rule_gets_no_other_domain(recorded: Recorded) -> None:
    alter(
        recorded.folder,
        "UPDATE chains SET metadata = json_merge_patch(metadata, '{\"domain_artifact\": null}')",
    )
    with WorkspaceStore(recorded.folder) as store:
        ruled(store, recorded)
        with pytest.raises(CalibrationInUse, match="given another domain.*" + RULED):
            store.add_domain("fat@production", X, Y)
        assert store.domain(recorded.first) is None
        assert store.calibrations.verify_signatures("fat").ok
        store.add_domain(recorded.second, X, Y)
        store.calibrations.remove_rule("fat", "production")
        store.add_domain("fat@production", X, Y)
        assert store.domain(recorded.first) is not None
