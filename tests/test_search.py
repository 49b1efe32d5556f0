"""Finding chains by words, and runs by their names."""

from __future__ import annotations

import json

import pytest
from clikit import invoke

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput

SG = {"operator_class": "nirs_store.estimators.SavitzkyGolay", "params": {"deriv": 2, "window_length": 11}}
CHEMO = {
    "operator_class": "chemotools.derivative.SavitzkyGolay",
    "params": {"derivate_order": 1, "window_size": 21},
}
SNV = {"operator_class": "nirs_store.estimators.StandardNormalVariate", "params": {}}


def save(store: WorkspaceStore, run: str, steps: list, model: str, score: float, **about: object) -> str:
    """Record a chain of a few steps with one fold's score."""
    pipeline = store.begin_pipeline(run, about.pop("pipeline", "p"), {}, [], about.pop("dataset", "corn"), "")
    last = {"operator_class": model, "params": about.pop("params", {"n_components": 12})}
    listed = [
        {"step_idx": n, "operator_type": "transformer", "stateless": True, **step}
        for n, step in enumerate([*steps, last])
    ]
    chain = store.save_chain(
        pipeline, listed, len(steps), model, about.pop("labels", ""), "shared", {}, {}, metadata=about
    )
    store.save_prediction(
        pipeline, chain, "corn", "PLS", model, "fold_0", "val", score, None, None, "rmse", "regression", 10, 5,
        {}, {}, None, None, 0, 0.0,
    )  # fmt: skip
    store.complete_pipeline(pipeline, score, None, "rmse", 1)
    return chain


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    with WorkspaceStore(tmp_path_factory.mktemp("search")) as opened:
        yield opened


PLS = "sklearn.cross_decomposition.PLSRegression"


@pytest.fixture(scope="module")
def chains(store: WorkspaceStore) -> dict[str, str]:
    first = store.begin_run("Größe of kernels", {}, [])
    store.tag_run(first, "wet-lab", "Été")
    store.annotate_run(first, "the good lamp")
    second = store.begin_run("corn 2nd try [x]", {}, [])
    return {
        "sg": save(store, first, [SG], PLS, 0.5, target="Moisture", target_unit="g/100g", labels="SG(11, 2, deriv=2)"),
        "chemo": save(store, first, [CHEMO], PLS, 0.4, target="Moisture", target_unit="g/100g", params={"n_components": 3}, dataset="oil-2024"),
        "snv": save(store, second, [SNV], "sklearn.svm.SVR", 0.1, target="protein", params={"C": 100.0}),
        "deriv20": save(store, second, [{"operator_class": "a.B", "params": {"deriv": 20}}], PLS, 0.3, target="protein",
                        params={"n_components": 120}),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("moisture sg 2nd", ["sg"]),
        ("MOIST savgol", ["chemo", "sg"]),
        ("1st", ["chemo"]),
        ("savitzky 2nd", ["sg"]),
        ("2nd", ["sg", "snv", "deriv20"]),  # the name of a run counts too
        ("snv", ["snv"]),
        ("plsr protein", ["deriv20"]),
        ("lv=12", ["sg"]),
        ("n_components=3 pls", ["chemo"]),
        ("c=100", ["snv"]),
        ("deriv=2", ["sg"]),
        ("größe", ["chemo", "sg"]),
        ("été lamp", ["chemo", "sg"]),
        ("wet", ["chemo", "sg"]),
        ("oil-2024", ["chemo"]),
        ("g/100g", ["chemo", "sg"]),
        ("oisture", []),
        ("moisture protein", []),
        (".* moisture", ["chemo", "sg"]),  # no pattern: signs alone are no word
        ("%", None),
        ("  ", None),
    ],
)
def test_all_words_must_be_found_and_the_best_come_first(store, chains, text, found):
    if found is None:
        with pytest.raises(InvalidInput, match="words"):
            store.search(text)
        return
    names = {chain: name for name, chain in chains.items()}
    assert [names[chain] for chain in store.search(text)["chain_id"]] == found


def test_a_search_says_what_a_leaderboard_says_and_the_tags(store, chains):
    bare = store.save_chain(
        store.begin_pipeline(store.begin_run("bare", {}, []), "p", {}, [], "", ""), [{"step_idx": 0, "operator_class": PLS, "stateless": True,
        "params": {"n_components": 7}}], 0, PLS, "", "shared", {}, {}, metadata={"target": "Moisture", "target_unit": "g/100g"}
    )  # fmt: skip
    found = store.search("moisture", n=None)
    top = store.top_chains(None, target="Moisture")
    assert found[: top.height].select(top.columns).equals(top)
    assert found["components"].to_list() == [3, 12, 7]
    assert found["tags"].to_list() == [["wet-lab", "Été"], ["wet-lab", "Été"], []]
    assert found["chain_id"][-1] == bare
    assert found["score"][-1] is None
    assert store.search("moisture", n=1)["chain_id"].to_list() == [chains["chemo"]]
    assert store.search("protein", metric="rmse").height == 2
    assert store.search("protein", metric="f1").height == 0


@pytest.mark.parametrize(
    ("name", "count"),
    [("corn", 1), ("GRÖSSE", 0), ("größe", 1), ("*[x]", 1), ("c?rn*", 1), ("kern*", 0), ("o", 2)],
)
def test_runs_and_their_chains_by_name(store, chains, name, count):
    runs = store.list_runs(name=name)
    assert runs.height == count
    assert set(store.top_chains(None, name=name, target="protein")["run_id"]) <= set(runs["run_id"])
    folder = str(store.workspace_path)
    top = json.loads(invoke("top", "--name", name, "--json", "-w", folder).output)
    assert {row["run_id"] for row in top} == set(runs["run_id"])
    listed = json.loads(invoke("runs", "--name", name, "--json", "-w", folder).output)
    assert [row["run_id"] for row in listed] == runs["run_id"].to_list()


def test_the_command_prints_what_it_found(store, chains):
    store.flush()
    result = invoke("search", "moisture", "sg", "2nd", "-w", store.workspace_path)
    assert result.exit_code == 0
    assert "SG(11, 2, deriv=2)" in result.output
    assert "LV" in result.output
    rows = json.loads(invoke("search", "moisture", "--json", "-w", store.workspace_path).output)
    assert [row["chain_id"] for row in rows][:2] == [chains["chemo"], chains["sg"]]
