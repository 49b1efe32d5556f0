"""Pipeline templates: what goes in comes out, and nothing ever lies outside the library."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict

from nirs_store.datasets import load_tecator
from nirs_store.errors import (
    InvalidInput,
    NirsStoreError,
    NotAWorkspace,
    PathEscapes,
    ReadOnlyStore,
    TemplateExists,
    TemplateNotFound,
    UnknownId,
)
from nirs_store.library import PipelineLibrary, build_cv, build_estimator
from nirs_store.scaffold import copy_workspace_template

CONFIG = {"steps": [{"class": "sklearn.linear_model.Ridge", "params": {"alpha": 2.0}}]}
NEEDS_LINKS = pytest.mark.skipif(sys.platform == "win32", reason="making a symbolic link needs a privilege")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def library(workspace: Path) -> PipelineLibrary:
    return PipelineLibrary(workspace)


class OnePipeline:
    """A store that knows one pipeline."""

    def __init__(self, **row: Any) -> None:
        self.row = row

    def get_pipeline(self, pipeline_id: str) -> dict[str, Any] | None:
        return self.row if pipeline_id == self.row["pipeline_id"] else None


def everything_below(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    for path in sorted(folder.rglob("*")):
        yield str(path), path.read_bytes() if path.is_file() else None


def test_a_saved_template_comes_back_with_its_metadata(library: PipelineLibrary, workspace: Path) -> None:
    path = library.save_template(
        CONFIG,
        "baseline_pls",
        category="regression",
        description="PLS baseline",
        tags=["nirs", "pls", "nirs"],
        metrics={"rmsecv": np.float64(2.8), "r2": float("nan")},
        notes="Größe: µm",
    )
    assert path == workspace / "library" / "templates" / "regression" / "baseline_pls.json"
    assert library.load_template("baseline_pls") == CONFIG
    assert library.load_template("baseline_pls", category="regression") == CONFIG
    metadata = library.get_template_metadata("baseline_pls")
    assert metadata["created_at"].endswith("+00:00")
    assert {key: metadata[key] for key in metadata if not key.endswith("_at")} == {
        "name": "baseline_pls",
        "category": "regression",
        "description": "PLS baseline",
        "tags": ["nirs", "pls"],
        "metrics": {"rmsecv": 2.8, "r2": None},
        "notes": "Größe: µm",
        "source": {},
        "path": str(path),
    }


def test_opening_a_library_makes_nothing(library: PipelineLibrary, workspace: Path) -> None:
    assert library.list_templates() == []
    assert list(workspace.iterdir()) == []


def test_a_list_of_steps_is_a_configuration_too(library: PipelineLibrary) -> None:
    library.save_template(CONFIG["steps"], "ridge")
    assert library.load_template("ridge") == CONFIG


def test_tuples_and_numpy_values_become_plain_ones(library: PipelineLibrary) -> None:
    library.save_template({"a": (1, np.int64(2)), "b": np.array([1.5, 2.5]), "c": np.bool_(True)}, "plain")
    assert library.load_template("plain") == {"a": [1, 2], "b": [1.5, 2.5], "c": True}


def test_templates_are_listed_by_category_name_and_any_tag(library: PipelineLibrary) -> None:
    library.save_template(CONFIG, "b", category="two", tags=["x"])
    library.save_template(CONFIG, "a", category="two", tags=["y"])
    library.save_template(CONFIG, "c", category="one", tags=["x", "z"])
    names = [(entry["category"], entry["name"]) for entry in library.list_templates()]
    assert names == [("one", "c"), ("two", "a"), ("two", "b")]
    assert [entry["name"] for entry in library.list_templates(category="two")] == ["a", "b"]
    assert [entry["name"] for entry in library.list_templates(tags=["y", "z"])] == ["c", "a"]
    assert [entry["name"] for entry in library.list_templates("two", ["x"])] == ["b"]
    assert library.list_templates(category="three") == []


def test_an_existing_template_is_kept_unless_overwriting_is_asked_for(library: PipelineLibrary) -> None:
    path = library.save_template(CONFIG, "ridge")
    before, created = path.read_bytes(), library.get_template_metadata("ridge")["created_at"]
    with pytest.raises(TemplateExists, match="overwrite=True") as caught:
        library.save_template({"steps": ["other"]}, "ridge")
    assert isinstance(caught.value, FileExistsError)
    assert path.read_bytes() == before
    library.save_template({"steps": ["other"]}, "ridge", overwrite=True)
    assert library.load_template("ridge") == {"steps": ["other"]}
    metadata = library.get_template_metadata("ridge")
    assert metadata["created_at"] == created < metadata["modified_at"]


def test_of_two_who_save_one_name_at_once_one_is_told(library: PipelineLibrary) -> None:
    def save(number: int) -> int | None:
        try:
            library.save_template({"number": number}, "contested")
        except TemplateExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(save, range(24)) if number is not None]
    assert len(winners) == 1
    assert library.load_template("contested") == {"number": winners[0]}


def test_names_that_differ_only_in_case_are_one(library: PipelineLibrary) -> None:
    library.save_template(CONFIG, "Ridge", category="Linear")
    with pytest.raises(TemplateExists, match="'Ridge'"):
        library.save_template(CONFIG, "ridge", category="Linear", overwrite=True)
    with pytest.raises(InvalidInput, match="'Linear'"):
        library.save_template(CONFIG, "other", category="linear")


def test_names_are_found_in_either_unicode_form(library: PipelineLibrary) -> None:
    library.save_template(CONFIG, "me\u0301thode", category="\u00e9t\u00e9")
    assert library.load_template("m\u00e9thode", category="e\u0301te\u0301") == CONFIG
    assert library.list_templates("e\u0301te\u0301")[0]["name"] == "m\u00e9thode"
    # As a file system that decomposes names would give it back.
    (path,) = library.workspace_path.rglob("*.json")
    path.rename(path.with_name("me\u0301thode.json"))
    assert library.load_template("m\u00e9thode") == CONFIG


def test_a_name_in_two_categories_needs_the_category(library: PipelineLibrary) -> None:
    library.save_template(CONFIG, "ridge", category="one")
    library.save_template({"steps": ["other"]}, "ridge", category="two")
    with pytest.raises(InvalidInput, match="'one', 'two'"):
        library.load_template("ridge")
    assert library.load_template("ridge", category="two") == {"steps": ["other"]}


def test_an_unknown_template_names_the_nearest(library: PipelineLibrary) -> None:
    with pytest.raises(TemplateNotFound, match="It is empty"):
        library.load_template("ridge")
    library.save_template(CONFIG, "baseline_pls")
    with pytest.raises(TemplateNotFound, match="Did you mean 'baseline_pls' in 'general'") as caught:
        library.load_template("baselin_pls")
    assert isinstance(caught.value, FileNotFoundError)
    for call in (library.get_template_metadata, library.delete_template):
        with pytest.raises(TemplateNotFound):
            call("baseline_pls", category="elsewhere")


def test_deleting_the_last_template_removes_its_category(library: PipelineLibrary, workspace: Path) -> None:
    library.save_template(CONFIG, "a", category="one")
    library.save_template(CONFIG, "b", category="one")
    library.delete_template("a")
    assert [entry["name"] for entry in library.list_templates()] == ["b"]
    library.delete_template("b")
    assert not (workspace / "library" / "templates" / "one").exists()
    with pytest.raises(TemplateNotFound):
        library.delete_template("b")


ESCAPES = [
    "../x",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..\\x",
    "C:x",
    "C:\\x",
    "x\0y",
    "a/../../b",
    "x:stream",
]
UNUSABLE = [
    "",
    "   ",
    ".hidden",
    "trailing.",
    "trailing ",
    " leading",
    "con",
    "NUL.v2",
    "Com1",
    "a*b",
    "a?b",
    "a|b",
    "new\nline",
    "tab\t",
    "x" * 300,
    "é" * 60,
    "\u202eoverride",
    "🙂",
    None,
    3,
]


@pytest.mark.parametrize("name", ESCAPES + UNUSABLE, ids=repr)
def test_no_name_or_category_leaves_the_library(library: PipelineLibrary, tmp_path: Path, name: Any) -> None:
    library.save_template(CONFIG, "kept", category="general")
    outside = tmp_path / "x.json"
    outside.write_text(json.dumps(CONFIG), encoding="utf-8")
    before = list(everything_below(tmp_path))
    expected = PathEscapes if name in ESCAPES else InvalidInput
    calls = [
        lambda: library.save_template(CONFIG, name, overwrite=True),
        lambda: library.save_template(CONFIG, "n", category=name, overwrite=True),
        lambda: library.load_template(name),
        lambda: library.delete_template(name),
        lambda: library.export_template(name, tmp_path / "exported.json"),
        lambda: library.copy_from_pipeline(OnePipeline(pipeline_id="p", expanded_config=CONFIG), "p", name),
    ]
    if name:  # for these, None and "" mean: not given
        calls += [
            lambda: library.load_template("kept", category=name),
            lambda: library.delete_template("kept", category=name),
            lambda: library.get_template_metadata("kept", category=name),
            lambda: library.list_templates(category=name),
            lambda: library.import_template(outside, category=name),
            lambda: library.import_template(outside, name=name),
        ]
    for call in calls:
        with pytest.raises(expected):
            call()
    assert list(everything_below(tmp_path)) == before


@pytest.mark.parametrize("name", ["pls-10", "SNV + SG (1st)", "ridge_v1.2", "méthode été", "近赤外"])
def test_ordinary_names_are_kept_as_they_are(library: PipelineLibrary, name: str) -> None:
    assert library.save_template(CONFIG, name, category=name).stem == name
    assert library.list_templates()[0]["name"] == name
    library.delete_template(name)


@NEEDS_LINKS
def test_a_link_in_the_library_is_not_followed_out_of_it(
    library: PipelineLibrary, workspace: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "secret.json"
    secret.write_text(json.dumps({"nirs_store_template": 1}), encoding="utf-8")
    library.save_template(CONFIG, "mine")
    (workspace / "library" / "templates" / "linked").symlink_to(outside)
    for call in (library.load_template, library.delete_template, library.get_template_metadata):
        with pytest.raises(PathEscapes):
            call("secret", category="linked")
    with pytest.raises(PathEscapes):
        library.save_template(CONFIG, "new", category="linked")
    entries = {entry["name"]: entry["error"] for entry in library.list_templates()}
    assert entries["mine"] is None
    assert "does not stay inside" in entries["secret"]
    assert [path.name for path in outside.iterdir()] == ["secret.json"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "at least one step"),
        ([], "at least one step"),
        ("steps", "at least one step"),
        (None, "at least one step"),
        (
            {"steps": [{"params": {"alpha": float("nan")}}]},
            r"configuration\.steps\[0\]\.params\.alpha is nan",
        ),
        ({"steps": [Ridge()]}, r"configuration\.steps\[0\] is a Ridge.*describe_estimator"),
        ({"weights": {0: 1}}, "the key 0"),
        ({"big": "x" * (2 << 20)}, "holds parameters, not data"),
    ],
)
def test_a_configuration_that_is_not_plain_changes_nothing(
    library: PipelineLibrary, workspace: Path, config: Any, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        library.save_template(config, "bad")
    assert isinstance(caught.value, ValueError)
    assert list(workspace.iterdir()) == []


def test_a_configuration_that_holds_itself_is_refused(library: PipelineLibrary) -> None:
    config: dict[str, Any] = {}
    config["self"] = config
    with pytest.raises(InvalidInput, match="holds itself"):
        library.save_template(config, "loop")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"tags": "pls"}, "list of texts"),
        ({"tags": [1]}, "list of texts"),
        ({"metrics": {"rmse": "low"}}, "not a number"),
        ({"metrics": [1]}, "mapping of names"),
        ({"description": 3}, "description"),
    ],
)
def test_bad_metadata_is_refused(library: PipelineLibrary, metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        library.save_template(CONFIG, "bad", **metadata)


def test_a_recorded_pipeline_becomes_a_template_with_scores_and_origin(library: PipelineLibrary) -> None:
    store = OnePipeline(
        pipeline_id="p1",
        run_id="r1",
        dataset_name="corn",
        expanded_config=CONFIG,
        best_val=2.5,
        best_test=None,
        metric="rmse",
    )
    library.copy_from_pipeline(store, "p1", "good", category="regression", tags=["won"])
    assert library.load_template("good") == CONFIG
    metadata = library.get_template_metadata("good")
    assert metadata["metrics"] == {"val_rmse": 2.5}
    assert metadata["source"] == {"pipeline_id": "p1", "run_id": "r1", "dataset_name": "corn"}
    with pytest.raises(UnknownId, match="p2") as caught:
        library.copy_from_pipeline(store, "p2", "other")
    assert isinstance(caught.value, KeyError)
    with pytest.raises(TemplateExists):
        library.copy_from_pipeline(store, "p1", "good", category="regression")
    store.row["expanded_config"] = None
    with pytest.raises(InvalidInput, match="without a configuration"):
        library.copy_from_pipeline(store, "p1", "other")


def test_an_exported_template_is_the_same_after_import_elsewhere(
    library: PipelineLibrary, tmp_path: Path
) -> None:
    library.save_template(CONFIG, "ridge", category="linear", tags=["t"], metrics={"r2": 0.9}, notes="n")
    exported = library.export_template("ridge", tmp_path / "sent" / "ridge")
    assert exported == tmp_path / "sent" / "ridge.json"
    assert library.export_template("ridge", tmp_path / "sent") == exported
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = PipelineLibrary(other_folder)
    assert other.import_template(exported).parent.name == "linear"
    assert other.load_template("ridge") == CONFIG
    kept = ("name", "category", "tags", "metrics", "notes", "created_at")
    first, second = library.get_template_metadata("ridge"), other.get_template_metadata("ridge")
    assert {key: first[key] for key in kept} == {key: second[key] for key in kept}
    with pytest.raises(TemplateExists):
        other.import_template(exported)
    other.import_template(exported, category="mine", name="ridge2")
    assert other.load_template("ridge2", "mine") == CONFIG


def test_a_bare_configuration_can_be_imported(library: PipelineLibrary, tmp_path: Path) -> None:
    file = tmp_path / "from_elsewhere.json"
    file.write_text(json.dumps(CONFIG["steps"]), encoding="utf-8")
    assert library.import_template(file).relative_to(library.workspace_path).as_posix() == (
        "library/templates/general/from_elsewhere.json"
    )
    assert library.load_template("from_elsewhere") == CONFIG


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not strict JSON"),
        ("{", "not strict JSON"),
        ('{"steps": [NaN]}', "NaN is not JSON"),
        ('{"steps": 1, "steps": 2}', "occurs twice"),
        ("[" * 100_000, "not strict JSON"),
        ("3", "at least one step"),
        ('{"nirs_store_template": 2}', "Update nirs_store"),
        ('{"nirs_store_template": 1}', "lacks the key 'pipeline'"),
        ('{"nirs_store_template": 1, "pipeline": {}, "name": "a", "category": "b"}', "damaged"),
        ('{"nirs_store_template": 1, "pipeline": {"a": 1}, "name": "../a", "category": "b"}', "plain name"),
        ('{"nirs_store_template": 1, "pipeline": {"a": 1}, "name": "a", "category": "/etc"}', "plain name"),
        (" " * (2 << 20), "larger than"),
    ],
    ids=lambda value: value[:24],
)
def test_a_file_that_is_no_template_is_not_imported(
    library: PipelineLibrary, workspace: Path, tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "import_me.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=words):
        library.import_template(file)
    assert list(workspace.iterdir()) == []


def test_importing_a_missing_file_or_a_folder_says_so(library: PipelineLibrary, tmp_path: Path) -> None:
    with pytest.raises(TemplateNotFound, match=r"nothing_here\.json"):
        library.import_template(tmp_path / "nothing_here.json")
    with pytest.raises(InvalidInput, match="cannot be read"):
        library.import_template(tmp_path)


def test_a_damaged_template_is_listed_with_its_fault_and_can_be_replaced_or_deleted(
    library: PipelineLibrary,
) -> None:
    library.save_template(CONFIG, "good", tags=["t"])
    damaged = library.save_template(CONFIG, "torn")
    damaged.write_bytes(damaged.read_bytes()[:40])
    entries = {entry["name"]: entry for entry in library.list_templates(tags=["t"])}
    assert entries["good"]["error"] is None
    assert "not strict JSON" in entries["torn"]["error"]
    assert entries["torn"]["description"] == ""
    with pytest.raises(InvalidInput, match="not strict JSON"):
        library.load_template("torn")
    library.save_template(CONFIG, "torn", overwrite=True)
    assert library.load_template("torn") == CONFIG
    damaged.write_bytes(b"")
    library.delete_template("torn")
    assert [entry["name"] for entry in library.list_templates()] == ["good"]


def test_a_missing_workspace_folder_is_made_by_the_first_save(tmp_path: Path) -> None:
    library = PipelineLibrary(tmp_path / "missing")
    assert library.list_templates() == []
    assert not (tmp_path / "missing").exists()
    library.save_template(CONFIG, "ridge")
    assert library.load_template("ridge") == CONFIG


def test_a_file_in_the_place_of_the_workspace_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(NotAWorkspace, match="is a file"):
        PipelineLibrary(file)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the powers of root, whom no mode of a folder keeps from writing."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="modes of folders do not keep anybody from writing there")
def test_a_read_only_workspace_says_so() -> None:
    # Not below pytest's own folder: that is closed to others.
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        library = PipelineLibrary(workspace)
        library.save_template(CONFIG, "ridge")
        for folder in (workspace, *(path for path in workspace.rglob("*") if path.is_dir())):
            folder.chmod(0o555)
        with as_nobody(), pytest.raises(ReadOnlyStore):
            library.save_template(CONFIG, "lasso")
        for folder in (workspace, *(path for path in workspace.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        assert [entry["name"] for entry in library.list_templates()] == ["ridge"]


def test_a_failed_write_leaves_the_old_template(
    library: PipelineLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library.save_template(CONFIG, "ridge")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(NirsStoreError, match="No space left"):
            library.save_template({"steps": ["new"]}, "ridge", overwrite=True)
    assert library.load_template("ridge") == CONFIG
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "limit"), [("pls_baseline", 2.9), ("snv_sg_pls", 2.1), ("snv_pca_lda", 0.9)]
)
def test_the_shipped_templates_calibrate_real_spectra(workspace: Path, name: str, limit: float) -> None:
    copy_workspace_template(workspace)
    library = PipelineLibrary(workspace)
    assert {entry["error"] for entry in library.list_templates()} == {None}
    config = library.load_template(name)
    tecator = load_tecator()
    classifier = config["task"] == "classification"
    y = np.where(tecator.fat > 20, "fat", "lean") if classifier else tecator.fat
    cv = build_cv(config, classifier=classifier)
    predicted = cross_val_predict(build_estimator(config), tecator.X, y, cv=cv)
    if classifier:
        assert np.mean(predicted == y) > limit
    else:
        assert np.sqrt(np.mean((predicted - y) ** 2)) < limit
