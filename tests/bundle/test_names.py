"""What the names of artifacts say in version 1.0."""

from __future__ import annotations

import pytest

from nirs_store.bundle.nirs4all import by_step, fold_of, in_order, parse_artifact_name
from nirs_store.errors import BundleInvalid


@pytest.mark.parametrize(
    ("member", "key", "fold", "sub"),
    [
        ("artifacts/step_1.joblib", "step_1", None, None),
        ("artifacts/step_1_sub0.joblib", "step_1_sub0", None, 0),
        ("artifacts/step_1_StandardScaler.joblib", "step_1_StandardScaler", None, None),
        ("artifacts/step_1_StandardScaler_sub12.pkl", "step_1_StandardScaler_sub12", None, 12),
        ("artifacts/step_3_fold0.joblib", "step_3_fold0", "fold0", None),
        ("artifacts/step_3_fold0_PLSRegression_sub0.joblib", "step_3_fold0", "fold0", 0),
        ("artifacts/step_3_PLS_fold12_x.joblib", "step_3_fold12", "fold12", None),
        ("artifacts/step_1_foldfinal_PLSRegression.joblib", "step_1_foldfinal", "foldfinal", None),
        ("artifacts/step_10_final.joblib", "step_10_final", None, None),
        ("artifacts/deep/er/step_2_a.b.c", "step_2_a.b", None, None),
        ("step_0", "step_0", None, None),
    ],
)
def test_names_are_cut_into_step_fold_and_place(
    member: str, key: str, fold: str | None, sub: int | None
) -> None:
    name = parse_artifact_name(member)
    assert name is not None
    assert (name.key, name.fold, name.sub) == (key, fold, sub)


@pytest.mark.parametrize(
    "member",
    ["artifacts/model.joblib", "artifacts/step.joblib", "artifacts/step_x.joblib", "artifacts/Step_1.joblib"],
)
def test_other_names_say_nothing(member: str) -> None:
    assert parse_artifact_name(member) is None


def test_only_numbered_folds_have_a_number() -> None:
    names = [
        parse_artifact_name(f"step_1_{part}.joblib") for part in ("fold3", "foldfinal", "folding", "sub1")
    ]
    assert [fold_of(name) for name in names if name] == [3, None, None, None]


@pytest.mark.parametrize(
    "members",
    [
        ["a/step_3_fold0_PLS.joblib", "a/step_3_fold0_SVR.joblib"],
        ["step_1.joblib", "step_1.pkl"],
        ["step_2_foldfinal_PLS_sub1.joblib", "step_2_foldfinal_Ridge_sub2.joblib"],
    ],
)
def test_two_members_with_one_key_are_refused(members: list[str]) -> None:
    with pytest.raises(BundleInvalid, match="both mean step_"):
        by_step(members)


def test_numbers_decide_the_order_where_there_are_numbers() -> None:
    notes: list[str] = []
    members = [f"step_1_sub{k}.joblib" for k in (0, 1, 10, 11, 2)]
    held = by_step(members)[1].values()
    assert [name.sub for name in in_order(held, notes)] == [0, 1, 2, 10, 11]
    assert "another order" in notes[0]


def test_else_the_archive_decides_the_order_and_it_is_said() -> None:
    notes: list[str] = []
    held = by_step(["step_1_SNV.joblib", "step_1_Gap.joblib"])[1].values()
    assert [name.key for name in in_order(held, notes)] == ["step_1_SNV", "step_1_Gap"]
    assert "only that of the archive" in notes[0]
    assert in_order(list(held)[:1], []) == list(held)[:1]


def test_members_named_by_hash_are_refused_with_their_reason() -> None:
    with pytest.raises(BundleInvalid, match=r"named by hash.*0\.7"):
        by_step([f"artifacts/{'ab' * 32}.joblib"])
    with pytest.raises(BundleInvalid, match="holds no model"):
        by_step(["artifacts/model.joblib"])
    with pytest.raises(BundleInvalid, match=r"readme\.joblib is a fitted object that belongs to no step"):
        by_step(["artifacts/readme.joblib", "artifacts/step_1.joblib"])
