"""A chain whose code was edited since says so; code that no module has travels with the chain."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nirs_store import WorkspaceStore, load_bundle, record_cross_validation
from nirs_store.errors import CodeChanged, CodeChangedWarning, ReplayError, SerializationError

X = np.random.default_rng(0).normal(size=(30, 4)) + 3
Y = X @ np.arange(4.0)
NAMES: dict[str, Any] = {
    each.__name__: each
    for each in (BaseEstimator, FeatureUnion, FunctionTransformer, StandardScaler, TransformerMixin)
} | {"functools": functools}

BASE = """
from sklearn.base import BaseEstimator, TransformerMixin

class Step(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self
"""
# Each kind: the modules, the expression of a transformer, what is edited, and into what.
KINDS: dict[str, tuple[dict[str, str], str, tuple[str, str, str]]] = {
    "a class": (
        {"own": BASE + "    def transform(self, X):\n        return X * 2\n"}, "own.Step()",
        ("own", "X * 2", "X * 3"),
    ),
    "a base class of another module": (
        {"base": BASE + "    def transform(self, X):\n        return self.turn(X) * 2\n",
         "own": "import base\nclass Own(base.Step):\n    def turn(self, X):\n        return X\n"},
        "own.Own()", ("base", "* 2", "* 3"),
    ),
    "a helper in the same module": (
        {"own": "def helper(X):\n    return X * 2\ndef treat(X):\n    return helper(X)\n"},
        "FunctionTransformer(own.treat)", ("own", "X * 2", "X * 3"),
    ),
    "a helper of a package, imported within": (
        {"pack/__init__": "", "pack/deep": "def helper(X):\n    return X * 2\n",
         "pack/own": "def treat(X):\n    from .deep import helper\n    return helper(X)\n"},
        "FunctionTransformer(pack.own.treat)", ("pack/deep", "X * 2", "X * 3"),
    ),
    "a constant": (
        {"own": "FACTOR = 2.0\ndef treat(X):\n    return X * FACTOR\n"},
        "FunctionTransformer(own.treat)", ("own", "= 2.0", "= 3.0"),
    ),
    "a default": (
        {"own": "def treat(X, factor=2.0):\n    return X * factor\n"},
        "FunctionTransformer(own.treat)", ("own", "=2.0", "=3.0"),
    ),
    "a decorated function": (
        {"tools": "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def inner(X):\n        return f(X) * 2\n"
                  "    return inner\n",
         "own": "from tools import twice\n@twice\ndef treat(X):\n    return X\n"},
        "FunctionTransformer(own.treat)", ("tools", "* 2", "* 3"),
    ),
    "a partial": (
        {"own": "def treat(X, factor):\n    return X * factor * 2\n"},
        "FunctionTransformer(functools.partial(own.treat, factor=1.5))", ("own", "* 2", "* 3"),
    ),
    "a dataclass as a parameter": (
        {"own": "from dataclasses import dataclass\n@dataclass\nclass Gain:\n    by: float = 1.0\n"
                "    def __call__(self, X):\n        return X * self.by * 2\n"},
        "FunctionTransformer(own.Gain())", ("own", "* 2", "* 3"),
    ),
    "a function in a nested object": (
        {"own": "def treat(X):\n    return X * 2\n"},
        "FeatureUnion([('a', FunctionTransformer(own.treat)), ('b', StandardScaler())])", ("own", "* 2", "* 3"),
    ),
}  # fmt: skip


class Modules:
    """Modules in a folder on the path, imported anew as a new process would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def write(self, modules: dict[str, str]) -> None:
        for name, text in modules.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / f"{name}.py").write_text(text)
            self.names.add(name.replace("/", ".").removesuffix(".__init__"))

    def forget(self) -> None:
        for name in self.names:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()

    def make(self, step: str) -> Any:
        self.forget()
        found = {
            name.partition(".")[0]: importlib.import_module(name) for name in sorted(self.names, reverse=True)
        }
        return eval(step, {**NAMES, **found})


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Modules]:
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "code")
    # A compiled file goes by seconds; here a file is edited twice within one.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Modules(tmp_path / "code")
    yield made
    made.forget()


def record(store: WorkspaceStore, step: Any, **options: Any) -> Any:
    model = make_pipeline(step, Ridge())
    return record_cross_validation(store, model, X, Y, cv=3, dataset_name="d", **options)


def told(act: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        act()
    return [str(entry.message) for entry in said if entry.category is CodeChangedWarning]


def said_by_all(folder: Path, bundle: Path, chain_id: str) -> list[str]:
    """What a new session is told by a replay, cold and warm, by the predictor, and by a bundle."""
    with WorkspaceStore(folder) as store:
        said = told(lambda: store.replay_chain(chain_id, X))
        assert (
            said == told(lambda: store.replay_chain(chain_id, X)) == told(lambda: store.predictor(chain_id))
        )
        opened = told(lambda: load_bundle(bundle, allow_pickle=True))
        assert [text.partition(" was ")[2] for text in opened] == [
            text.partition(" was ")[2] for text in said
        ]
        for act in (
            lambda: store.replay_chain(chain_id, X, strict=True),
            lambda: store.predictor(chain_id, strict=True),
            lambda: load_bundle(bundle, allow_pickle=True, strict=True),
        ):
            if said:
                with pytest.raises(CodeChanged, match="other code than there is now"):
                    act()
            else:
                act()
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_since_the_recording_is_said_and_a_remark_is_not(
    modules: Modules, tmp_path: Path, kind: str
) -> None:
    texts, step, (edited, before, after) = KINDS[kind]
    modules.write(texts)
    with WorkspaceStore(tmp_path / "ws") as store:
        chain_id = record(store, modules.make(step)).chain_id
        bundle = store.export_chain(chain_id, tmp_path / "b")
    modules.write({n: f'"""What it is for."""\n\n# A remark.\n{t}\n\n# The end.\n' for n, t in texts.items()})
    modules.forget()
    assert said_by_all(tmp_path / "ws", bundle, chain_id) == []
    assert before in texts[edited]
    modules.write({edited: texts[edited].replace(before, after)})
    modules.forget()
    (said,) = said_by_all(tmp_path / "ws", bundle, chain_id)
    assert said.startswith(f"Chain {chain_id} was recorded with other code than there is now: ")
    assert f"module {edited.replace('/', '.')!r} ({modules.folder / edited}.py)" in said


def test_a_module_that_is_gone_is_named(modules: Modules, tmp_path: Path) -> None:
    modules.write({"own": "def treat(X):\n    return X * 2\n"})
    with WorkspaceStore(tmp_path / "ws") as store:
        chain_id = record(store, modules.make("FunctionTransformer(own.treat)")).chain_id
    modules.forget()
    (modules.folder / "own.py").rename(modules.folder / "moved.py")
    for text, words in ((None, "No module named 'own'"), ("", "'treat' on <module 'own'")):
        if text is not None:
            modules.write({"own": text})
        with WorkspaceStore(tmp_path / "ws") as store, pytest.raises(SerializationError, match=words):
            store.replay_chain(chain_id, X)


@pytest.mark.parametrize(
    "after", ["def treat(X):\n    return X * 3\n", "def treat(X)\n    it is being typed"]
)
def test_what_ran_decides_where_the_file_was_edited_without_a_reload(
    modules: Modules, tmp_path: Path, after: str
) -> None:
    modules.write({"own": "def treat(X):\n    return X * 2\n"})
    step = modules.make("FunctionTransformer(own.treat)")
    modules.write({"own": after})
    with WorkspaceStore(tmp_path / "ws") as store:
        chain_id = record(store, step).chain_id
        entry = store.get_chain(chain_id)["metadata"]["code"]["modules"]["own"]  # type: ignore[index]
        assert (entry["source"], entry["text"]) == (None, None)
        assert told(lambda: store.replay_chain(chain_id, X)) == []
        modules.write({"own": "def treat(X):\n    # As it ran.\n    return X * 2\n"})
        modules.forget()
        assert told(lambda: store.replay_chain(chain_id, X)) == []
        modules.write({"own": "def treat(X):\n    return X * 3\n"})
        modules.forget()
        assert len(told(lambda: store.replay_chain(chain_id, X))) == 1


@pytest.mark.parametrize("how", ["reloaded", "its code replaced", "replaced", "the file alone"])
def test_a_warm_replay_runs_what_was_defined_last(modules: Modules, tmp_path: Path, how: str) -> None:
    modules.write({"own": "def treat(X):\n    return X * 2\ndef other(X):\n    return X ** 2\n"})
    step = modules.make("FunctionTransformer(own.treat)")
    own: Any = sys.modules["own"]
    with WorkspaceStore(tmp_path / "ws") as store:
        chain_id = record(store, step).chain_id
        old = store.replay_chain(chain_id, X)
        if how in ("reloaded", "the file alone"):
            modules.write({"own": "def treat(X):\n    return X ** 2\n"})
        if how == "reloaded":
            importlib.reload(own)
        elif how == "its code replaced":
            own.treat.__code__ = own.other.__code__
        elif how == "replaced":
            own.other.__qualname__ = own.other.__name__ = "treat"
            own.treat = own.other
        found: list[Any] = []
        said = told(lambda: found.append(store.replay_chain(chain_id, X)))
        chain: Any = store.get_chain(chain_id)
        step = store.load_artifact(chain["steps"][1]["fold_artifact_ids"]["final"][0])
        model = store.load_artifact(chain["fold_artifacts"]["final"])
        assert np.array_equal(found[0], model.predict(step.transform(X)))
    changed = how != "the file alone"
    assert (not np.array_equal(found[0], old), len(said)) == (changed, changed)


def test_what_edited_code_fitted_is_not_taken_over(modules: Modules, tmp_path: Path) -> None:
    texts = {
        "middle": "def middle(X):\n    return X.mean(axis=0)\n",
        "own": "import numpy as np\nfrom middle import middle\n"
        + BASE.replace("Step", "Centre").replace(
            "        return self", "        self.c_ = middle(X)\n        return self"
        )
        + "    def transform(self, X):\n        return np.abs(X - self.c_)\n",
    }

    def taken_over() -> bool:
        step = modules.make("own.Centre()")
        with WorkspaceStore(tmp_path / "ws") as store:
            found = record(store, step, reuse=True)
            messages = store.get_pipeline_log(found.pipeline_id)["message"].to_list()
        expected = cross_val_predict(make_pipeline(step, Ridge()), X, Y, cv=3)
        assert found.rmsecv == pytest.approx(np.sqrt(np.mean((expected - Y) ** 2)))
        return any("taken over" in (message or "") for message in messages)

    modules.write(texts)
    assert [taken_over(), taken_over()] == [False, True]
    modules.write({"middle": texts["middle"].replace("mean", "max")})
    assert not taken_over()
    modules.write({"middle": "# The largest.\n" + texts["middle"].replace("mean", "max")})
    assert taken_over()


@pytest.mark.takes_over
def test_a_chain_saved_by_hand_knows_its_code(modules: Modules, tmp_path: Path) -> None:
    modules.write({"own": "def treat(X):\n    return X * 2\n"})
    step = modules.make("FunctionTransformer(own.treat)")
    with WorkspaceStore(tmp_path / "ws") as store:
        pipeline = store.begin_pipeline(store.begin_run("r", {}, ["d"]), "p", {}, [], "d", "")
        kept = store.save_artifact(step.fit(X), "FunctionTransformer", "transformer", format="pickle")
        model = store.save_artifact(Ridge().fit(X, Y), "Ridge", "model")
        steps = [
            {"step_idx": 1, "operator_class": "f", "artifact_id": kept},
            {"step_idx": 2, "operator_class": "m"},
        ]
        chain_id = store.save_chain(pipeline, steps, 2, "Ridge", "", "single", {"final": model}, {})
        modules.write({"own": "def treat(X):\n    return X * 4\n"})
        modules.forget()
        assert len(told(lambda: store.replay_chain(chain_id, X))) == 1
        plain = store.save_chain(pipeline, steps[1:], 2, "Ridge", "", "single", {"final": model}, {})
        assert "code" not in (store.get_chain(plain) or {})["metadata"]


BY_VALUE = {
    "a class": ("class T(TransformerMixin, BaseEstimator):\n    def fit(self, X, y=None):\n        return self\n"
                "    def transform(self, X):\n        return helper(X)\n", "T()"),
    "a function": ("def treat(X):\n    return helper(X)\n", "FunctionTransformer(treat)"),
    "a lambda": ("treat = lambda X: helper(X)\n", "FunctionTransformer(treat)"),
    "a closure": ("def make(by):\n    def treat(X):\n        return helper(X) * by\n    return treat\n",
                  "FunctionTransformer(make(1.5))"),
    "a partial": ("def treat(X, by):\n    return helper(X) * by\n",
                  "FunctionTransformer(functools.partial(treat, by=1.5))"),
    "a decorated function": ("def deco(f):\n    @functools.wraps(f)\n    def inner(X):\n        return f(X)\n    return inner\n"
                             "@deco\ndef treat(X):\n    return helper(X)\n", "FunctionTransformer(treat)"),
    "a dataclass": ("from dataclasses import dataclass\n@dataclass\nclass Gain:\n    by: float = 2.0\n"
                    "    def __call__(self, X):\n        return helper(X) * self.by\n", "FunctionTransformer(Gain())"),
    "a subclass with super": ("class S(StandardScaler):\n    def transform(self, X):\n"
                              "        return helper(super().transform(X))\n", "S()"),
    "executed text": ("exec('def treat(X):\\n    return helper(X)\\n')\n", "FunctionTransformer(treat)"),
}  # fmt: skip


def defined(folder: Path, text: str) -> dict[str, Any]:
    """What a script or notebook defines, without being the `__main__` of this process."""
    (folder / "script.py").write_text(text)
    names: dict[str, Any] = {"__name__": "__main__", **NAMES}
    exec(compile(text, str(folder / "script.py"), "exec"), names)
    return names


@pytest.mark.parametrize("kind", BY_VALUE)
@pytest.mark.parametrize("artifact_format", ["joblib", "cloudpickle"])
def test_what_a_script_defines_travels_with_its_source(
    tmp_path: Path, kind: str, artifact_format: str
) -> None:
    definition, step = BY_VALUE[kind]
    names = defined(tmp_path, "FACTOR = 2.0\ndef helper(X):\n    return X * FACTOR\n" + definition)
    made = eval(step, names)
    want = make_pipeline(made, Ridge()).fit(X, Y).predict(X)
    with WorkspaceStore(tmp_path / "ws") as store:
        chain_id = record(store, made, artifact_format=artifact_format).chain_id
        assert np.array_equal(store.replay_chain(chain_id, X), want)
        # The cell is edited and run again: the chain keeps what it was fitted with, and the class its own code.
        names["FACTOR"] = 7.0
        assert np.array_equal(store.predictor(chain_id).predict(X), want)
        other = make_pipeline(made, Ridge()).fit(X, Y)[0].transform(X)
        assert not np.array_equal(other, store.load_artifact(step_of(store, chain_id)).transform(X))
        bundle = store.export_chain(chain_id, tmp_path / "b")
        code = (store.get_chain(chain_id) or {})["metadata"]["code"]
    assert np.array_equal(load_bundle(bundle, allow_pickle=True).predict(X), want)
    assert (code["modules"], code["python"]) == ({}, f"{sys.version_info[0]}.{sys.version_info[1]}")
    texts = [entry["text"] for entry in code["by_value"].values()]
    assert (kind == "executed text") or any(
        "helper(X)" in text or "helper(super" in text for text in texts if text
    )


def step_of(store: WorkspaceStore, chain_id: str) -> str:
    chain: Any = store.get_chain(chain_id)
    return str(chain["steps"][1]["fold_artifact_ids"]["final"][0])


def test_bytecode_of_another_python_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = defined(tmp_path, "def treat(X):\n    return X * 2\n")
    with WorkspaceStore(tmp_path / "ws") as store:
        chain_id = record(store, FunctionTransformer(names["treat"])).chain_id
        bundle = store.export_chain(chain_id, tmp_path / "b")
        monkeypatch.setattr("nirs_store.blobs.code._PYTHON", "4.0")
        monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("it was loaded"))
        for act in (
            lambda: store.replay_chain(chain_id, X),
            lambda: store.predictor(chain_id),
            lambda: load_bundle(bundle, allow_pickle=True),
        ):
            with pytest.raises(
                ReplayError, match=r"holds code that no module has \(__main__.treat\), compiled by Python 3"
            ):
                act()


def test_a_script_records_with_workers_and_another_process_replays(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import numpy as np
from nirs_store import WorkspaceStore, record_cross_validation
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

class Squared(StandardScaler):
    def transform(self, X):
        return super().transform(X) ** 2

if __name__ == "__main__":
    X = np.random.default_rng(0).normal(size=(30, 4)) + 3
    model = make_pipeline(Squared(), Ridge())
    with WorkspaceStore("ws") as store:
        r = record_cross_validation(store, model, X, X @ np.arange(4.0), cv=2, dataset_name="d", n_jobs=2)
        assert np.array_equal(store.replay_chain(r.chain_id, X), model.fit(X, X @ np.arange(4.0)).predict(X))
        print(r.chain_id)
""")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with WorkspaceStore(tmp_path / "ws") as store:
        scaled = StandardScaler().fit_transform(X) ** 2
        found = store.replay_chain(done.stdout.strip(), X)
        assert found == pytest.approx(Ridge().fit(scaled, Y).predict(scaled))
        assert type(store.load_artifact(step_of(store, done.stdout.strip()))).__module__ == "__main__"
