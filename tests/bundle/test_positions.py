"""What a safe bundle is checked for: each attribute of an accepted class holds what the list says, and nothing acts.

The fuzz moves, renames, retypes and repeats parts of payloads, loads what the checks let through, and calls it, while a
hook listens to everything that Python reports when a file is opened, a module imported, or a process started.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import json
import random
import sys
import sysconfig
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import skops.io
from joblib import Parallel, delayed, parallel_config
from sklearn.ensemble import StackingRegressor, VotingRegressor
from sklearn.feature_selection import SelectFromModel
from sklearn.impute import KNNImputer
from sklearn.linear_model import LassoLars, LinearRegression, LogisticRegressionCV, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVR

from nirs_store.blobs.serializers import normalise_skops
from nirs_store.blobs.trusted import always_trusted
from nirs_store.bundle.payload import audit_payload, load_payload, skops_payload, untrusted
from nirs_store.bundle.positions import is_accepted, kinds_of, parse_kind
from nirs_store.errors import BundleError, BundleInvalid, UntrustedBundle


def _neighbour(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


corpus = _neighbour("corpus")
LIST: dict[str, Any] = json.loads(
    (
        Path(importlib.import_module("nirs_store.bundle").__file__ or "").with_name("attributes.json")
    ).read_text()
)


def opened(data: bytes, trusted: tuple[str, ...] = ()) -> Any:
    """Open a payload as a bundle's reader does."""
    audit = audit_payload(data, "the payload")
    if audit.refused:
        raise BundleInvalid(f"refused: {sorted(audit.refused)}")
    if needs := untrusted(audit.needs, trusted):
        raise UntrustedBundle(", ".join(needs))
    return load_payload(data, audit.types)


# -- Honest objects.


@pytest.mark.parametrize("name", corpus.classes())
def test_every_accepted_class_opens_as_it_is(name: str) -> None:
    needs: set[str] = set()
    for model in corpus.fitted(name, every=False):
        needs |= audit_payload(skops_payload(model, name), name).needs
    assert needs <= {"sklearn.tree._tree.Tree"}


@pytest.mark.parametrize("target", ["labels", "objects", "classes", "two"])
@pytest.mark.filterwarnings("ignore")
def test_labels_of_every_kind_may_be_keys(target: str) -> None:
    model = LogisticRegressionCV(Cs=2, cv=3, max_iter=20).fit(corpus.X, corpus.TARGETS[target])
    np.testing.assert_array_equal(
        opened(skops_payload(model, "x")).predict(corpus.X), model.predict(corpus.X)
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", corpus.classes())
def test_every_accepted_class_opens_in_every_setting(name: str) -> None:
    needs: set[str] = set()
    for model in corpus.fitted(name):
        audit = audit_payload(normalise_skops(skops.io.dumps(model)), name)
        needs |= audit.needs if not audit.refused else set()
    assert needs <= {"sklearn.tree._tree.Tree"}


@pytest.mark.parametrize("name", corpus.classes())
def test_no_attribute_on_the_list_hides_a_method(name: str) -> None:
    cls = corpus.classes()[name]
    for key, kind in (kinds_of(f"{cls.__module__}.{cls.__qualname__}") or {}).items():
        assert not callable(getattr(cls, key, None)), key
        assert parse_kind(kind)


@pytest.mark.parametrize("module", ["__init__", "__main__", "_base.__init__", "__pycache__._base"])
def test_a_module_that_would_run_a_package_again_needs_a_word(module: str) -> None:
    assert is_accepted("sklearn.linear_model._ridge.Ridge")
    assert untrusted([f"sklearn.linear_model.{module}.Ridge"]) == [f"sklearn.linear_model.{module}.Ridge"]


# -- Objects that are not what they seem.


def stack(**attributes: Any) -> Any:
    made = StackingRegressor([("a", LinearRegression())]).fit(corpus.X, corpus.Y)
    made.__dict__.update(attributes)
    return made


def changed(model: Any, **attributes: Any) -> Any:
    model.__dict__.update(attributes)
    return model


def encoder(**attributes: Any) -> Any:
    made = OneHotEncoder(sparse_output=False, drop="first").fit(np.round(corpus.X[:, :2]))
    made.__dict__.update(attributes)
    return made


def rare(**attributes: Any) -> Any:
    column = np.array([[0.0]] * 30 + [[1.0]] * 6 + [[2.0]] * 2 + [[3.0]] * 2)
    made = OneHotEncoder(sparse_output=False, min_frequency=4, handle_unknown="infrequent_if_exist").fit(
        column
    )
    made.__dict__.update(attributes)
    return made


RIDGE = Ridge().fit(corpus.X, corpus.Y)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (stack(estimators_=[np.array([b"x"])], stack_method_=["predict"]), "StackingRegressor.estimators_"),
        (stack(stack_method_=["tofile"]), "StackingRegressor.stack_method_"),
        (stack(stack_method_=["__class__"]), "StackingRegressor.stack_method_"),
        (stack(named_estimators_={"a": np.zeros(3)}), "StackingRegressor.named_estimators_"),
        (stack(final_estimator_={"predict": RIDGE}), "StackingRegressor.final_estimator_"),
        (changed(FunctionTransformer(), func=np.save), "numpy.save"),
        (changed(FunctionTransformer(np.log), kw_args={"out": np.zeros((40, 12))}), "FunctionTransformer.kw_args"),
        (changed(FunctionTransformer(), validate=np.exp), "FunctionTransformer.validate"),
        (changed(VotingRegressor([("a", RIDGE)]), estimators_=["system"]), "VotingRegressor.estimators_"),
        (changed(SelectFromModel(RIDGE), importance_getter="__class__.__init__.__globals__"), "importance_getter"),
        (changed(SelectFromModel(RIDGE), importance_getter=np.abs), "SelectFromModel.importance_getter"),
        (changed(KNNImputer(), metric=np.abs), "KNNImputer.metric"),
        (changed(KNNImputer(), weights="os.system"), "KNNImputer.weights"),
        (changed(copy.deepcopy(RIDGE), predict=RIDGE), "Ridge.predict"),
        (changed(copy.deepcopy(RIDGE), __class__="x"), "Ridge.__class__"),
        (changed(copy.deepcopy(RIDGE), coef_=np.array(["../x"])), "Ridge.coef_"),
        (changed(copy.deepcopy(RIDGE), coef_=np.array([RIDGE, None], dtype=object)), "Ridge.coef_"),
        (changed(copy.deepcopy(RIDGE), verbose=100), "Ridge.verbose"),
        (changed(copy.deepcopy(RIDGE), _sklearn_output_config={"transform": "os"}), "Ridge._sklearn_output_config"),
        (changed(copy.deepcopy(RIDGE), random_state=np.random.default_rng(0)), "numpy.random._generator.Generator"),
        (encoder(_n_features_outs=[1, 1]), "OneHotEncoder._n_features_outs"),
        (encoder(_n_features_outs=[]), "OneHotEncoder._n_features_outs"),
        (encoder(categories_=[np.array([3.0, 1.0, 2.0])] * 2, _n_features_outs=[2, 2]), "OneHotEncoder.categories_"),
        (encoder(_drop_idx_after_grouping=np.array([99, 0], dtype=object)), "OneHotEncoder._drop_idx_after_grouping"),
        (encoder(_infrequent_enabled=True), "OneHotEncoder._default_to_infrequent_mappings"),
        (encoder(_infrequent_enabled=1), "OneHotEncoder._infrequent_enabled"),
        (rare(_default_to_infrequent_mappings=[np.array([0, 1, 2, 10**6])]), "_default_to_infrequent_mappings"),
        (rare(_default_to_infrequent_mappings=[np.array([0, 1, -9, 2])]), "_default_to_infrequent_mappings"),
        (rare(_default_to_infrequent_mappings=[np.array([0, 1, 2])]), "_default_to_infrequent_mappings"),
        (rare(_default_to_infrequent_mappings=[]), "_default_to_infrequent_mappings"),
        (rare(_default_to_infrequent_mappings=[None], _n_features_outs=[4]), "OneHotEncoder._infrequent_indices"),
        (rare(_infrequent_indices=[None]), "OneHotEncoder._infrequent_indices"),
        (rare(_n_features_outs=[2]), "OneHotEncoder._n_features_outs"),
        (changed(copy.deepcopy(RIDGE), verbose=-1), "Ridge.verbose"),
        (changed(copy.deepcopy(RIDGE), verbose="1"), "Ridge.verbose"),
        (changed(copy.deepcopy(RIDGE), verbose=1.5), "Ridge.verbose"),
        (changed(make_pipeline(RIDGE), steps=[("a", np.zeros(3))]), "Pipeline.steps"),
        (changed(make_pipeline(RIDGE), steps=[("a", "tofile")]), "Pipeline.steps"),
        (changed(make_pipeline(RIDGE), steps=[(RIDGE, "a")]), "Pipeline.steps"),
        (changed(make_pipeline(RIDGE), steps={"a": RIDGE}), "Pipeline.steps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "object",
)  # fmt: skip
def test_what_is_not_on_the_list_needs_a_word_for_the_attribute(model: Any, named: str) -> None:
    data = normalise_skops(skops.io.dumps(model))
    with pytest.raises(UntrustedBundle, match=named.replace(".", r"\.")):
        opened(data)
    needs = tuple(audit_payload(data, "x").needs)
    opened(data, needs)  # the word is enough, for this attribute and no other
    with pytest.raises(UntrustedBundle):
        opened(data, ("sklearn.linear_model._ridge.Ridge.alpha",))


@pytest.mark.parametrize("verbose", [True, 1, 10])
def test_a_model_that_printed_while_it_was_fitted_is_safe(verbose: Any) -> None:
    data = normalise_skops(skops.io.dumps(LassoLars(verbose=verbose).fit(corpus.X, corpus.Y)))
    assert not audit_payload(data, "x").needs
    assert opened(data).verbose == verbose


def test_an_encoder_of_rare_categories_is_safe_and_encodes_as_before() -> None:
    made = rare()
    data = normalise_skops(skops.io.dumps(made))
    assert not audit_payload(data, "x").needs
    seen = np.array([[0.0], [1.0], [2.0], [3.0], [7.0]])
    np.testing.assert_array_equal(opened(data).transform(seen), made.transform(seen))


def test_a_class_that_is_trusted_by_name_brings_its_attributes() -> None:
    model = make_pipeline(StandardScaler(), SVR()).fit(corpus.X, corpus.Y)
    model[-1].kernel_params = {"anything": [1, "x"]}
    data = normalise_skops(skops.io.dumps(model))
    opened(data, ("sklearn.svm._classes.SVR",))
    model[0].kernel = "x"
    with pytest.raises(UntrustedBundle, match=r"StandardScaler\.kernel"):
        opened(normalise_skops(skops.io.dumps(model)), ("sklearn.svm._classes.SVR",))


# -- The fuzz.

SEEDS = [name for name in corpus.classes() if not name.endswith(("PolynomialFeatures", "BandedSolver"))]
NASTY = (
    "tofile", "dump", "__class__", "__class__.__init__.__globals__", "__reduce__", "system", "os.system", "eval", "fit",
    "predict", "predict_proba", "transform", "set_params", "get_params", "score", "../canary", "canary", "this",
    "https://127.0.0.1/x", "memory", "", "auto", "loky", "precomputed", "1*canary", "{0.__class__}", "pandas",
)  # fmt: skip
NAMES = (
    "builtins.str", "builtins.eval", "builtins.open", "builtins.getattr", "builtins.dict", "os.system", "os.remove",
    "subprocess.Popen", "pathlib.Path", "this.x", "antigravity.x", "numpy.save", "numpy.memmap", "numpy.fromfile",
    "numpy.ndarray", "numpy.float64", "numpy.exp", "numpy.void", "numpy.random.mtrand.RandomState", "joblib.memory.Memory",
    "joblib.dump", "sklearn.pipeline.Pipeline", "sklearn.utils._bunch.Bunch", "sklearn.datasets._base.load_files",
    "sklearn.feature_extraction.text.CountVectorizer", "sklearn.linear_model._ridge.Ridge", "sklearn.__main__.x",
    "sklearn.preprocessing._function_transformer.FunctionTransformer", "sklearn.impute._iterative._ImputerTriplet",
    "sklearn.model_selection._split.KFold", "collections.OrderedDict", "functools.partial", "operator.methodcaller",
)  # fmt: skip
LOADERS = (
    "ObjectNode", "DictNode", "ListNode", "TupleNode", "SetNode", "NdArrayNode", "JsonNode", "FunctionNode", "TypeNode",
    "SliceNode", "LossNode", "TreeNode", "DTypeNode", "RandomStateNode", "RandomGeneratorNode", "MethodNode",
    "PartialNode", "OperatorFuncNode", "BytesNode", "CachedNode", "ConstructorFromReduceNode", "SparseMatrixNode",
)  # fmt: skip


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(schema: Any, held: dict[str, bytes]) -> bytes:
    text = json.dumps(schema)
    with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
        for name, content in held.items():
            if f'"{name}"' in text:
                archive.writestr(name, content)
        archive.writestr("schema.json", text)
    return out.getvalue()


def nodes(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if "__loader__" in part:
            yield part
        for inner in part.values():
            yield from nodes(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from nodes(inner)


def plain(value: Any) -> dict[str, Any]:
    return {
        "__class__": "str",
        "__module__": "builtins",
        "__loader__": "JsonNode",
        "content": json.dumps(value),
        "is_json": True,
    }


def named(loader: str, full: str) -> dict[str, Any]:
    module, _, name = full.rpartition(".")
    return {"__class__": name, "__module__": module, "__loader__": loader}


def state_of(rng: random.Random, schema: Any) -> dict[str, Any]:
    """Pick the attributes of an object."""
    found = [
        n["content"]
        for n in nodes(schema)
        if n["__loader__"] == "ObjectNode" and isinstance(n.get("content"), dict)
    ]
    return rng.choice([state for state in found if state.get("content")] or [schema])


def mutate(rng: random.Random, schema: dict[str, Any], strange: dict[str, Any]) -> None:
    """Change one thing in a payload's tree."""
    every = list(nodes(schema))
    one, other = rng.choice(every), rng.choice(every)
    state, more = state_of(rng, schema), state_of(rng, schema)
    kept = {key: schema[key] for key in ("protocol", "_skops_version")}
    values, others = (part.get("content") for part in (state, more))
    key = rng.choice(sorted(values)) if isinstance(values, dict) and values else None
    choice = rng.randrange(12)
    if choice == 0 and key is not None and isinstance(others, dict) and others:
        there = rng.choice(sorted(others))
        values[key], others[there] = others[there], values[key]
    elif choice == 1 and key is not None:
        new = rng.choice((*NASTY, *LIST["attributes"]))
        items = [(new if k == key else k, v) for k, v in values.items()]
        state["content"] = dict(items)
    elif choice == 2:
        one["__loader__"] = rng.choice(LOADERS)
    elif choice == 3:
        one.update({k: v for k, v in named("", rng.choice(NAMES)).items() if k != "__loader__"})
    elif choice == 4:
        one["__class__"], one["__module__"] = other["__class__"], other["__module__"]
    elif choice == 5:
        one["__id__"] = other.get("__id__", 1)
    elif choice == 6:
        texts = [n for n in every if n["__loader__"] == "JsonNode"]
        rng.choice(texts or [one])["content"] = json.dumps(
            rng.choice((*NASTY, None, True, -1, 3, 1e308, float("nan")))
        )
    elif choice == 7:
        taken = copy.deepcopy(rng.choice((other, strange)))
        one.clear()
        one.update(taken)
    elif choice == 8 and key is not None:
        new, value = (
            rng.choice((*NASTY, *LIST["attributes"])),
            copy.deepcopy(rng.choice((one, other, strange))),
        )
        values[new] = value
        if isinstance(state.get("key_types"), dict) and isinstance(state["key_types"].get("content"), list):
            state["key_types"]["content"].append(named("TypeNode", rng.choice(("builtins.str",) * 4 + NAMES)))
    elif choice == 9 and key is not None:
        loader = rng.choice(("FunctionNode", "FunctionNode", "TypeNode", "ObjectNode"))
        values[key] = named(loader, rng.choice(NAMES))
    elif choice == 10 and key is not None:
        values[key] = plain(rng.choice(NASTY))
    else:
        files = [n for n in every if isinstance(n.get("file"), str)]
        if files:
            rng.choice(files)["file"] = rng.choice(files)["file"]
    schema.update({k: v for k, v in kept.items() if k not in schema})


class Listener:
    """Hears what Python reports while it listens; a hook cannot be taken out again."""

    roots = (
        "numpy",
        "scipy",
        "sklearn",
        "chemotools",
        "skops",
        "joblib",
        "threadpoolctl",
        "narwhals",
        "nirs_store",
    )
    acts = (
        "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "os.remove",
        "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.utime",
        "os.putenv", "os.unsetenv", "os.chdir", "os.listdir", "os.scandir", "subprocess.Popen", "socket.", "shutil.", "tempfile.",
        "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "ctypes.dlopen", "pickle.find_class", "builtins.input",
        "builtins.breakpoint", "pty.spawn", "signal.", "mmap.", "sqlite3.", "glob.", "fcntl.", "pathlib.", "code.interact",
    )  # fmt: skip

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.on = False
        self.ours = tuple(
            {str(Path(path)) for path in (*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix)}
        )
        self.before: set[str] = set()
        sys.addaudithook(self)

    def __enter__(self) -> None:
        self.before, self.on = set(sys.modules), True

    def __exit__(self, *_: object) -> None:
        self.on = False
        # A module that is imported by its name is not reported.
        new = {name for name in sys.modules.keys() - self.before if name.partition(".")[0] not in self.roots}
        self.heard += [f"import {name}" for name in sorted(new)]

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args[0], args[1] or "", args[2] or 0
            known = isinstance(path, str) and path.startswith((*self.ours, "/proc/", "/sys/"))
            if not known or set(str(mode)) & set("wax+") or flags & 0o103:
                self.heard.append(f"open {path!r} {mode} {flags}")
        elif event == "import":
            if args[0].partition(".")[0] not in self.roots and args[0] not in sys.modules:
                self.heard.append(f"import {args[0]}")
        elif event == "exec":
            file = getattr(args[0], "co_filename", "")
            if not file.startswith((*self.ours, "<frozen", "<__array_function__")):
                self.heard.append(f"exec {file}")
        elif event.startswith(self.acts) and not (
            event in ("os.listdir", "os.scandir") and str(args[0]).startswith(self.ours)
        ):
            self.heard.append(f"{event} {args!r}"[:200])


@pytest.fixture(scope="session")
def heard() -> Listener:
    return Listener()


@pytest.fixture
def listener(heard: Listener, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """Listen, but not to the library when it reads its own configuration."""
    known = always_trusted()
    monkeypatch.setattr("nirs_store.bundle.payload.always_trusted", lambda: known)
    return heard


SPELT = np.frombuffer(b"./" * 42 + b"/written.text"[:12], "<f8").reshape(1, 12)
CALLS = (
    "predict",
    "transform",
    "inverse_transform",
    "predict_proba",
    "decision_function",
    "get_feature_names_out",
)


def use(model: Any) -> None:
    """Call what a reader and its user call."""
    for call in CALLS:
        for X in (corpus.X[:3], SPELT):
            try:
                method = getattr(model, call)
                _ = method() if call.startswith("get") else method(X)
            except Exception:
                continue
    with contextlib.suppress(Exception):  # an attribute may be missing
        repr(model)


def fuzz(cases: int, seed: int, listener: Listener) -> Counter[str]:
    """Load changed payloads and use what is accepted."""
    rng = random.Random(seed)
    strange = json.loads(members(normalise_skops(skops.io.dumps(np.array([b"x"]))))["schema.json"])
    seeds: list[tuple[Any, dict[str, bytes]]] = []
    for name in SEEDS if cases > 1000 else rng.sample(SEEDS, 25):
        for model in corpus.fitted(name, every=False):
            held = members(skops_payload(model, name))
            schema = json.loads(held.pop("schema.json"))
            if len(json.dumps(schema)) < 200_000:
                seeds.append((schema, held))
                use(opened(packed(schema, held), ("sklearn.tree._tree.Tree",)))  # imports what it imports
    with parallel_config(backend="threading"):
        Parallel(n_jobs=2)(delayed(abs)(number) for number in range(2))  # imports what threads need
    strange_held = {"000999.npy": members(skops.io.dumps(np.array([b"x"]))).popitem()[1]}
    counts: Counter[str] = Counter()
    for case in range(cases):
        base, held = rng.choice(seeds)
        schema = copy.deepcopy(base)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            mutate(rng, schema, {**copy.deepcopy(strange), "file": "000999.npy"})
        data = packed(schema, {**held, **strange_held})
        with listener:
            try:
                model = opened(data)
                outcome = "loaded"
            except BundleError as error:
                outcome = type(error).__name__
            except Exception as error:
                # An accepted class may refuse what it is set to; the reader says so with a typed error.
                outcome = f"not constructed, {type(error).__name__}"
            else:
                with parallel_config(backend="threading"):
                    use(model)
        assert not listener.heard, (seed, case, listener.heard)
        counts[outcome] += 1
    return counts


def test_the_listener_hears_what_acts(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doings: list[Callable[[], object]] = [
        lambda: np.zeros(2).tofile(tmp_path / "x"),
        lambda: (tmp_path / "y").touch(),
        lambda: importlib.import_module("this"),
        lambda: exec(compile("1", "payload", "exec")),
        lambda: importlib.import_module("subprocess").Popen(["true"]).wait(),
    ]
    # Other tests of this process must find the module as it was: not imported.
    monkeypatch.setitem(sys.modules, "this", sys)
    monkeypatch.delitem(sys.modules, "this")
    for doing in doings:
        with listener:
            doing()
        assert listener.heard
        listener.heard.clear()


@pytest.mark.filterwarnings("ignore")
def test_nothing_acts_that_the_checks_let_through(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with np.errstate(all="ignore"):
        counts = fuzz(400, 1, listener)
    assert counts["loaded"] > 10
    assert counts["BundleInvalid"] + counts["UntrustedBundle"] > 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_nothing_acts_of_twelve_thousand(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = fuzz(12_000, 20260301, listener)
    print(f"\n12,000 changed payloads: {dict(counts)}")
    assert sum(counts.values()) == 12_000
    assert list(tmp_path.iterdir()) == []
