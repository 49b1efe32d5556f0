"""A chain is drawn with its branches, sources, folds, bases and artifacts, and nothing in it is code."""

from __future__ import annotations

from typing import Any

from clikit import invoke
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from nirs_store import BranchRecorder, WorkspaceStore, load_tecator
from nirs_store.records.views import chain_tree, tree_html, tree_lines

MEAT = load_tecator()


def drawn(chain: dict[str, Any], **more: Any) -> list[str]:
    return list(tree_lines(chain_tree(chain, **more)))


def test_branches_sources_and_folds_hang_where_they_belong() -> None:
    chain = {
        "steps": [
            {"step_idx": 1, "operator_class": "MSC", "artifact_id": "aaaaaaaaaa"},
            {"step_idx": 2, "operator_class": "x.SG", "branch_path": [0], "params": {"deriv": 1}},
            {"step_idx": 3, "operator_class": "PCA", "branch_path": [1, 2],
             "fold_artifact_ids": {"0": ["b" * 9], "final": ["c" * 9]}},
            {"step_idx": 4, "operator_class": "merge", "operator_type": "merge"},
            {"step_idx": 5, "operator_class": "PLS", "operator_type": "model"},
        ],
        "model_step_idx": 5,
        "fold_artifacts": {"fold_1": "d" * 9, "fold_0": "e" * 9},
        "shared_artifacts": {"_source_map": {"2": {"0": ["f" * 9], "1": []}}},
    }  # fmt: skip
    assert drawn(chain, title="T") == [
        "T",
        "├── 1 MSC  aaaaaaaa",
        "├── branch 0",
        "│   └── 2 SG(deriv=1)",
        "│       ├── source 0  ffffffff",
        "│       └── source 1",
        "├── branch 1",
        "│   └── branch 1.2",
        "│       └── 3 PCA",
        "│           ├── fold 0  bbbbbbbb",
        "│           └── final  cccccccc",
        "├── 4 merge",
        "└── 5 PLS  (model)",
        "    ├── fold 0  eeeeeeee",
        "    └── fold 1  dddddddd",
    ]


def test_the_bases_of_a_stack_are_drawn_below_it() -> None:
    base = {
        "steps": [{"step_idx": 1, "operator_class": "Ridge"}],
        "model_step_idx": 1,
        "fold_artifacts": {"final": "a" * 9},
        "shared_artifacts": {},
    }
    step = {
        "step_idx": 1,
        "operator_class": "Lasso",
        "operator_type": "meta_model",
        "sources": [{"feature": "ridge", "chain": base}],
    }
    chain = base | {"steps": [step], "fold_artifacts": {"final": "b" * 9}}
    assert drawn(chain, title="S") == [
        "S",
        "└── 1 Lasso  (meta model)",
        "    ├── ridge:",
        "    │   └── 1 Ridge",
        "    │       └── final  aaaaaaaa",
        "    └── final  bbbbbbbb",
    ]


def test_names_cannot_steer_a_terminal_or_a_notebook() -> None:
    evil = {
        "steps": [{"step_idx": 1, "operator_class": "<script>\x1b[2J\n"}],
        "model_step_idx": 1,
        "fold_artifacts": {},
        "shared_artifacts": {},
    }
    assert all(line.isprintable() for line in drawn(evil))
    assert "<script>" not in tree_html(chain_tree(evil))


def test_show_and_the_notebook_draw_the_tree(store: WorkspaceStore) -> None:
    run_id = store.begin_run("b", {}, [{"name": "meat"}])
    recorder = BranchRecorder(store, store.begin_pipeline(run_id, "p", {}, [], "meat", ""))
    with recorder.branch(0):
        left = StandardScaler().fit(MEAT.X)
        [first] = recorder.step(left)
        with recorder.branch(1):
            pca = PCA(3).fit(left.transform(MEAT.X))
            recorder.step(pca)
            chain = recorder.model({0: Ridge().fit(pca.transform(left.transform(MEAT.X)), MEAT.fat)})
    store.flush()
    output = invoke("show", chain, "-w", store.workspace_path).output
    for text in ("└── branch 0", "└── branch 0.1", first.blob_id[:8], "└── fold 0"):
        assert text in output
        assert text in store.show_chain(chain)._repr_html_()
