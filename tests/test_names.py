"""Names are data: whatever they are, they come back as they were, or are refused, and lead nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from storekit import chain_of, predict

from nirs_store.errors import NirsStoreError
from nirs_store.library import PipelineLibrary
from nirs_store.store import WorkspaceStore

NAMES = [
    "..",
    "../outside",
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows\\x",
    "\\\\server\\share",
    "CON",
    "nul.txt",
    "COM1",
    "trailing dot.",
    " space ",
    "🌾 wheat 💧",
    "e\u0301te\u0301",
    "\u202egnp.exe",
    "x" * 300,
    "a\nb\tc",
    "a\0b",
    "",
    "'; DROP TABLE runs; --",
    "%_*?[]",
]


@pytest.fixture
def surroundings(tmp_path: Path) -> Path:
    """A folder around the workspace, in which nothing may appear."""
    (tmp_path / "around").mkdir()
    return tmp_path / "around"


def outside(surroundings: Path) -> set[str]:
    return {path.name for path in surroundings.iterdir()}


def test_names_of_runs_pipelines_and_datasets_are_data(surroundings: Path) -> None:
    given: dict[str, str] = {}
    with WorkspaceStore(surroundings / "workspace") as store:
        for name in NAMES:
            try:
                run_id = store.begin_run(name, {"name": name}, [{"name": name}])
                pipeline_id = store.begin_pipeline(run_id, name, {}, [], name, name)
                predict(store, pipeline_id, chain_of(store, pipeline_id), dataset_name=name, model_name=name)
            except NirsStoreError:
                continue
            given[run_id] = name
    assert len(given) >= len(NAMES) - 2, "at most the empty name and the one with a NUL may be refused"
    with WorkspaceStore(surroundings / "workspace") as store:
        assert {row["run_id"]: row["name"] for row in store.list_runs().rows(named=True)} == given
        for run_id, name in given.items():
            (pipeline,) = store.list_pipelines(run_id).rows(named=True)
            assert (pipeline["name"], pipeline["dataset_name"]) == (name, name)
            (row,) = store.query_predictions(run_id=run_id).rows(named=True)
            assert (row["dataset_name"], row["model_name"]) == (name, name)
            if name:
                assert store.query_predictions(dataset_name=name)["pipeline_id"].to_list() == [pipeline["pipeline_id"]]
        assert store.check(read_data=True).ok
    assert outside(surroundings) == {"workspace"}


def test_names_of_exports_stay_where_they_were_put_or_are_refused(surroundings: Path) -> None:
    target = surroundings / "out"
    target.mkdir()
    with WorkspaceStore(surroundings / "workspace") as store:
        run_id = store.begin_run("r", {}, [])
        pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "corn", "h")
        chain_id = chain_of(store, pipeline_id)
        written = 0
        for name in NAMES:
            # A path of the caller's own may lead anywhere: only what is one plain name is asked about.
            if Path(name).name != name or name == "..":
                continue
            for export in (
                lambda path: store.export_run(run_id, path),
                lambda path: store.export_pipeline_config(pipeline_id, path),
                lambda path: store.export_predictions_parquet(path),
                lambda path: store.export_chain(chain_id, path),
            ):
                before = set(target.iterdir())
                try:
                    path = export(target / name)
                except (NirsStoreError, ValueError) as error:
                    assert isinstance(error, NirsStoreError), repr(error)
                    assert set(target.iterdir()) == before
                    continue
                assert path.parent == target
                assert path.is_file()
                path.unlink()
                written += 1
        assert written > 20
    assert outside(surroundings) == {"workspace", "out"}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_templates_come_back_or_are_refused_and_lead_nowhere(surroundings: Path, name: str) -> None:
    library = PipelineLibrary(surroundings / "workspace")
    for given in ({"name": name}, {"name": "plain", "category": name}):
        try:
            library.save_template([{"class": "x"}], **given)
        except NirsStoreError:
            continue
        assert library.load_template(given["name"]) is not None
    for path in (surroundings / "workspace").rglob("*.json"):
        assert path.relative_to(surroundings / "workspace").parts[:2] == ("library", "templates")
        assert path.stem.upper() not in {"CON", "NUL", "COM1"}
    assert outside(surroundings) <= {"workspace"}
