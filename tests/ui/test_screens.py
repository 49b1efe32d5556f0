"""Each screen shows what was recorded, as a page and as data."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, RepeatedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from uikit import Page, addresses, fields

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation, record_stacking
from nirs_store.choosing import CODES
from nirs_store.errors import BlobMissing
from nirs_store.ui import app
from nirs_store.ui.frame import Request
from nirs_store.ui.screens import calibrations, compare, pivot, records, runs, sql
from nirs_store.ui.table import Column, Table


def test_a_folder_without_a_workspace_says_how_to_begin(
    tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    page = open_page(tmp_path / "nothing <here>")
    answer = page.get("/")
    assert answer.status_code == 404
    assert "nirs-store demo --ui" in answer.text
    assert "nothing &lt;here&gt;" in answer.text
    assert not (tmp_path / "nothing <here>").exists()
    WorkspaceStore(tmp_path / "nothing <here>").close()
    assert page.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/chains"])
def test_an_empty_workspace_is_shown(empty: Path, open_page: Callable[..., Page], path: str) -> None:
    assert "recorded" in open_page(empty).html(path)


def test_the_overview_begins_with_the_best_chains_and_their_figure(page: Page, chain_id: str) -> None:
    html = page.html("/")
    assert "corn: corn (%)" in html
    assert html.index("PLS(3)") < html.index("PLS(1)")
    assert '<svg class="figure"' in html
    assert "corn7" in html
    assert page.json("/")["counts"]["chains"] == 3


def test_the_leaderboard_sorts_filters_and_pages_in_the_address(page: Page) -> None:
    best = page.json("/chains")["rows"]
    assert [row["components"] for row in best] == [3, 2, 1]
    assert best[0]["score"] < best[1]["score"] < best[2]["score"]
    assert best[0]["r2"] > best[2]["r2"]
    assert [row["components"] for row in page.json("/chains?sort=components&down=")["rows"]] == [1, 2, 3]
    assert [
        row["components"] for row in page.json("/chains?sort=components&down=1&size=1&page=2")["rows"]
    ] == [2]
    assert page.json("/chains?size=1&page=99")["first"] == 0
    assert page.json("/chains?q=lv%3D2")["total"] == 1
    assert page.json("/chains?dataset_name=wheat")["total"] == 0
    assert page.json("/chains?tag=corn&target=corn&model_class=PLSRegression")["total"] == 3
    html = page.html("/chains?show=pipeline&show=rpd&size=1")
    assert "RPD" in html
    assert "RMSEP" not in html.partition("<tbody>")[0].partition("<thead>")[2]
    assert 'href="/chains?show=pipeline&amp;show=rpd&amp;size=1&amp;page=2"' in html


def test_the_leaderboard_filters_by_review_code(changing: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    spectra = load_tecator()
    with WorkspaceStore(changing.folder) as store:
        for components in (8, 9):  # more samples are advised for so many latent variables
            record_cross_validation(
                store,
                PLSRegression(components),
                spectra.X[:40],
                spectra.fat[:40],
                cv=KFold(3),
                dataset_name="more",
            )
        chains = store.list_chains()["chain_id"].to_list()
        codes = {each: {f.code for f in store.review(each).findings} for each in chains}
    wanted = [each for each in chains if "R03" in codes[each]]
    assert 2 <= len(wanted) < len(chains) == 5
    told = changing.json("/chains?review=r03&size=1")
    assert (told["total"], told["reviewed"], told["matching"]) == (len(wanted), 5, 5)
    paged = [changing.json(f"/chains?review=R03&size=1&page={n + 1}")["rows"] for n in range(len(wanted))]
    assert [row["chain_id"] for rows in paged for row in rows] == wanted
    csv = changing.get("/chains?review=R03&size=1&format=csv").content
    assert pl.read_csv(csv)["chain_id"].to_list() == wanted
    html = changing.html("/chains?review=R03&show=pipeline&show=review")
    assert '<option value="R03" selected>R03 few samples' in html
    assert "Reviewed: all 5 chains" in html
    never = next(each for each in CODES if all(each not in found for found in codes.values()))
    assert changing.json(f"/chains?review={never}&page=3") == told | {"total": 0, "rows": [], "first": 0}
    # What was reviewed is kept until the catalog changes, and what is cut off is said.
    monkeypatch.setattr(WorkspaceStore, "review", lambda *_: pytest.fail("reviewed twice"))
    monkeypatch.setattr("nirs_store.ui.screens.leaderboard._REVIEWED", 2)
    assert "Reviewed: the best 2 of 5 chains" in changing.html("/chains?review=R03&size=9")
    assert "Reviewed: the first 2 of 5 chains" in changing.html("/chains?review=R03&sort=components&down=1")


def test_chains_that_cannot_be_reviewed_are_counted(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise BlobMissing("ab" * 32)

    monkeypatch.setattr(WorkspaceStore, "review", damaged)
    assert "3 of them cannot be reviewed" in page.html("/chains?review=R03&size=7")


@pytest.mark.parametrize("wrong", ["sort=nothing", "page=x", "size=1e9", "format=xml", "review=R99"])
def test_an_address_that_makes_no_sense_is_refused_in_words(page: Page, wrong: str) -> None:
    answer = page.get(f"/chains?{wrong}")
    assert answer.status_code == 400
    assert "expected" in answer.text


def test_a_review_code_that_is_unknown_is_refused_with_the_nearest(page: Page) -> None:
    answer = page.get("/chains?review=R3", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_input")
    assert "Did you mean 'R" in answer.json()["message"]


def test_a_list_is_downloaded_whole(page: Page) -> None:
    csv = page.get("/chains?size=1&format=csv")
    assert csv.headers["content-disposition"] == 'attachment; filename="chains.csv"'
    assert pl.read_csv(csv.content).height == 3
    assert pl.read_parquet(io.BytesIO(page.get("/chains?size=1&format=parquet").content)).height == 3


def test_cells_of_several_parts_are_whole_in_a_csv_file(changing: Page) -> None:
    with WorkspaceStore(changing.folder) as store:
        run_id = store.list_runs()["run_id"][0]
        for tag in ("=1+1", "two words", "x" * 60):
            store.tag_run(run_id, tag)
    for path in ("/runs", "/chains"):
        (tags,) = set(pl.read_csv(io.BytesIO(changing.get(f"{path}?format=csv").content))["tags"])
        assert sorted(tags.lstrip("'").split(", ")) == sorted(["=1+1", "corn", "two words", "x" * 60])
        assert not tags.startswith("=")
    frame = pl.DataFrame(
        {
            "numbers": [[1.5, None], None],
            "parts": [{"a": "=2", "b": [1]}] * 2,
            "deep": [[["é"]], []],
            "bytes": [b"ab", None],
        }
    )
    columns = [Column(name) for name in frame.columns]
    content, _ = Table(frame, columns, Request(None, "/", {}, {}), 2).download("csv")  # type: ignore[arg-type]
    assert pl.read_csv(content, infer_schema=False).rows() == [
        ("1.5, ", '{"a": "=2", "b": [1]}', '[["é"]]', "6162"),
        (None, '{"a": "=2", "b": [1]}', "", None),
    ]


@pytest.mark.parametrize("path", ["/chains?show=rmsepp", "/runs?show=nam", "/files?show=nam"])
def test_a_column_that_a_list_does_not_have_is_left_out_with_a_word(page: Page, path: str) -> None:
    html = page.html(path)
    assert "is not a column of this list" in html
    assert "Did you mean" in html
    assert html.count("<th") > 2
    assert page.html(f"{path}&show=run_id").count("<th") <= page.html(path).count("<th")
    assert page.json(path)["total"] >= 0


def test_each_cell_of_a_pivot_leads_to_its_chains_and_no_others(
    folder: Path, open_page: Callable[..., Page]
) -> None:
    made = load_tecator()
    X, about = made.X[:30, ::10], {"cv": KFold(3), "target_unit": "%"}
    with WorkspaceStore(folder) as store:
        for run, model, target, dataset in (
            ("one", PLSRegression(2), "fat", "a"),
            ("one more", PLSRegression(3), "fat", "a"),
            ("one", make_pipeline(StandardScaler(), PLSRegression(2)), "fat", "a"),
            ("one", Ridge(), "fat", "b"),
            ("two", make_pipeline(StandardScaler(), Ridge()), "water", "a"),
            ("two", PLSRegression(2), "water", "a"),
        ):
            with store.run(run) as begun:
                record_cross_validation(
                    store, model, X, getattr(made, target)[:30], target=target, dataset_name=dataset,
                    run_id=begun.run_id, **about,
                )  # fmt: skip
        chains = store.sql(
            "SELECT c.chain_id, c.preprocessings, split_part(c.model_class, '.', -1) AS model_class, r.name AS run_name, "
            "l.dataset_name, c.target, (SELECT any_value(model_name) FROM predictions q WHERE q.chain_id = c.chain_id) AS "
            "model_name FROM chains c JOIN pipelines l USING (pipeline_id) JOIN runs r USING (run_id)"
        )
    page = open_page(folder)
    for rows, columns, more in (
        ("preprocessings", "model_class", ""),
        ("run_name", "model_class", ""),
        ("model_name", "preprocessings", ""),
        ("target", "model_name", ""),
        ("dataset_name", "run_name", "&target=fat"),
        ("preprocessings", "model_class", "&metric=r2&dataset_name=a"),
    ):
        html = page.html(f"/pivot?rows={rows}&columns={columns}{more}")
        links = [each for each in addresses(html) if each.startswith("/chains?")]
        of = chains.filter(pl.col("target") == "fat") if "target=" in more else chains
        of = of.filter(pl.col("dataset_name") == "a") if "dataset_name=" in more else of
        apart = (
            rows,
            columns,
            *(() if "r2" in more else ("target",)),
            *(() if "run_name" in (rows, columns) else ("dataset_name",)),
        )
        expected = {frozenset(each["chain_id"]) for _, each in of.group_by(list(dict.fromkeys(apart)))}
        found = {frozenset(row["chain_id"] for row in page.json(link)["rows"]) for link in links}
        assert found == expected, (rows, columns, more)


def test_the_leaderboard_is_filtered_by_run(page: Page) -> None:
    html = page.html("/chains")
    run_id = page.json("/runs")["rows"][0]["run_id"]
    assert f'<option value="{run_id}">corn</option>' in html
    assert '<input name="name" value=""' in html
    assert 'value="co*"' in page.html("/chains?name=co*")
    assert page.html(f"/chains?run_id={run_id}&name=co*").count('name="run_id"') == 1
    assert page.json("/chains?name=co*")["total"] == 3
    assert page.json("/chains?name=rye*")["total"] == page.json("/chains?preprocessings=snv")["total"] == 0
    assert page.json("/chains?preprocessings=(none)")["total"] == 3
    assert "Only chains of the model name PLSRegression" in page.html("/chains?model_name=PLSRegression")


@pytest.mark.of_a_folder("it removes files of the folder")
def test_what_is_missing_or_rejected_is_told_on_the_overview(changing: Page) -> None:
    told = changing.html("/findings")
    assert "Damaged" not in told
    files = sorted(each for each in (changing.folder / "artifacts").rglob("*") if each.is_file())
    files[0].unlink()
    files[1].chmod(0o644)
    files[1].write_bytes(b"x")
    rejected = changing.folder / "journal" / "rejected"
    rejected.mkdir(parents=True, exist_ok=True)
    name = "000000000009-01a22be7-5d64-7194-a707-26b0a55659ea.seg"
    (rejected / name).write_bytes(b"junk")
    (rejected / f"{name}.json").write_text(
        '{"reason": "it names no table", "claim": "", "at": "2026-11-30T09:00:00"}', encoding="utf-8"
    )
    told = changing.html("/findings")
    assert "the file is gone" in told
    assert "found 1." in told
    assert "it names no table" in told
    assert 'data-later="/findings"' in changing.html("/")


def test_the_overview_counts_what_the_review_flags(
    page: Page, chain_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [SimpleNamespace(code=code, severity="note", message="Why?") for code in ("R01", "R02")]
    monkeypatch.setattr(WorkspaceStore, "review", lambda *_: SimpleNamespace(findings=found))
    link = f'<a href="/chains/{chain_id}#review"'
    assert f"{link}>–</a>" in page.html("/")
    assert f"{link} data-fills>2</a>" in page.html("/findings")
    assert f"{link}>2</a>" in page.html("/?chain=" + chain_id)


def test_a_list_that_is_cut_says_so_with_the_number_that_there_is(
    serving: Path,
    tmp_path: Path,
    chain_id: str,
    open_page: Callable[..., Page],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(serving, tmp_path / "workspace")
    with WorkspaceStore(tmp_path / "workspace") as store:
        for k, other in enumerate(store.list_chains()["chain_id"].to_list()):
            store.files.put(b"1", f"file {k}", type="model_checkpoint")
            store.files.put(b"2", f"file {k}", type="model_checkpoint")
            store.evaluations.record(f"model {k}", "suite", {"rmse": 1.0})
            if other != chain_id:
                store.lineage.link(("chain", chain_id), ("chain", other), "derived_from")
        counts = {
            "/audit": (records, "_MOST", store.audit.query().height),
            "/evaluations": (records, "_MOST", store.evaluations.list().height),
            "/files": (records, "_MOST", store.files.list().height),
            "/lineage": (records, "_LINKS", store.sql("SELECT count(*) FROM lineage_links").item()),
            "/runs": (runs, "_MOST", store.list_runs().height),
            "/calibrations/protein?version=all": (
                calibrations,
                "_LOGGED",
                store.measurements.list("protein").height,
            ),
        }
    page = open_page(tmp_path / "workspace")
    for path, (screen, most, there) in counts.items():
        assert "rows are listed" not in page.html(path)
        # As many as are read at most are all of them.
        for few, which in ((there, ""), (there - 1, "first" if path == "/files" else "newest")):
            with monkeypatch.context() as patch:
                patch.setattr(screen, most, few)
                html = open_page(tmp_path / "workspace").html(path)
            said = f"Only the {which} {few} of {there} rows are listed" if which else "rows are listed"
            assert (said in html) == bool(which), (path, few, there)
    shown = page.json("/pivot?rows=target&columns=run_name")["table"]
    monkeypatch.setattr(pivot, "_MOST", 1)
    said = f"Only the first 1 rows and columns are shown, of {len(shown)} and {len(shown[0]) - 1};"
    assert said in open_page(tmp_path / "workspace").html("/pivot?rows=target&columns=run_name")


def test_parts_of_a_screen_that_are_cut_say_so(
    serving: Path, chain_id: str, open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkspaceStore(serving, read_only=True, create=False) as store:
        ids = store.list_chains(dataset_name="corn")["chain_id"].to_list()
        n = len(store.lineage.graph(chain_id, max_depth=3).depths)
    compared, related = "/compare?" + "&".join(f"id={each}" for each in ids), f"/lineage?id={chain_id}"
    for path, screen, name, said in (
        (compared, compare, "_PAIRS", "are tested; 2 are not."),
        (compared, compare, "_LINES", "not those of the other 2."),
        (related, records, "BOXES", f"Only 1 of {n} boxes are drawn."),
    ):
        assert said not in open_page(serving).html(path)
        monkeypatch.setattr(screen, name, 1)
        assert said in open_page(serving).html(path)
    monkeypatch.setattr(calibrations, "_ALARMS", 0)
    assert "1 more</a>: see the list" in open_page(serving).html("/alarms")
    found = [SimpleNamespace(code="R01", severity="note", message="Why?")] * 9
    monkeypatch.setattr(WorkspaceStore, "review", lambda *_: SimpleNamespace(findings=found))
    # Three data sets are reviewed, their best chains.
    assert re.search(r"<p>\d+ more, on the pages of these chains", open_page(serving).html("/findings"))


def test_a_chain_shows_figures_scores_and_where_it_comes_from(page: Page, chain_id: str) -> None:
    html = page.html(f"/chains/{chain_id}")
    for words in ("Predicted against measured", "Residuals", "RMSECV against latent variables", "RMSE of each fold", "Loadings",
                  "RMSEP", "Data set hash", "850 to", "scikit-learn"):  # fmt: skip
        assert words in html
    data = page.json(f"/chains/{chain_id}")
    assert data["scores"]["rmsecv"] == pytest.approx(data["scores"]["score"])
    marks = data["figures"][0]["marks"]
    assert [len(each["x"]) for each in marks] == [40, 40, 14]
    assert page.get("/chains/unknown").status_code == 404


def test_a_chain_says_who_recorded_what_with_which_code_and_seeds(changing: Page) -> None:
    made = load_tecator()
    with WorkspaceStore(changing.folder) as store:
        store.datasets.add("meat", made.X[:30, ::5], references={"price $ a $ b": made.fat[:30]})
        with store.run("seeded") as run:
            found = record_cross_validation(
                store, PLSRegression(1), cv=KFold(3, shuffle=True, random_state=7), run_id=run.run_id,
                dataset="meat@v1", target="price $ a $ b",
            )  # fmt: skip
        begun = store.audit.query("begin_run", object_id=run.run_id).row(0, named=True)
        commit = (store.get_run(run.run_id) or {})["environment"].get("git-commit")
    told = changing.json(f"/chains/{found.chain_id}")["provenance"]
    assert told["By"] == f"{begun['user']} at {begun['host']}"
    assert (told["Data set"], told["Seeds"], told["Commit"]) == ("meat@v1", "KFold 7", commit)
    # Names are written as they are, not as another library for figures would need them.
    assert ">Measured price $ a $ b</text>" in changing.html(f"/chains/{found.chain_id}")


def test_what_has_several_lines_is_shown_with_them(changing: Page) -> None:
    with WorkspaceStore(changing.folder) as store:
        run = store.begin_run("several lines", {}, ["corn"])
        pipeline = store.begin_pipeline(run, "two", {"a": {"b": 1}}, [], "corn", "")
        store.fail_pipeline(pipeline, "first line\nsecond \x1bline")
        store.annotate_run(run, "one\ntwo")
    shown = changing.html(f"/pipelines/{pipeline}")
    assert "<pre>first line\nsecond  line</pre>" in shown
    assert re.search(r"\n +&#34;b&#34;: 1\n", shown)
    assert "one\ntwo</p>" in changing.html(f"/runs/{run}")


def test_predictions_are_listed_by_sample(page: Page, chain_id: str) -> None:
    rows = page.json(f"/chains/{chain_id}/predictions?size=1000")["rows"]
    assert {row["sample"] for row in rows} == {f"corn{i}" for i in range(40)}
    assert rows[0]["error"] == pytest.approx(rows[0]["y_pred"] - rows[0]["y_true"])


def test_a_dropped_file_is_predicted_with_intervals_and_flags(
    page: Page, chain_id: str, spectra: Path
) -> None:
    answer = page.post(
        f"/chains/{chain_id}/predict", {"level": "0.5"}, files={"spectra": ("new.csv", spectra.read_bytes())}
    )
    assert answer.status_code == 200
    address = answer.url.path
    assert "RMSEP" in answer.text
    assert "As the model sees them" in answer.text
    rows = page.json(address)["rows"]
    assert [row["sample"] for row in rows] == [f"new{i}" for i in range(5)]
    with WorkspaceStore(page.folder, read_only=True, create=False) as store:
        from nirs_store import read_spectra

        table = read_spectra(spectra)
        told = store.predict(chain_id, table.X, table.wavelengths, level=0.5, on_outlier="ignore")
    assert [row["prediction"] for row in rows] == pytest.approx(told["prediction"].to_list())
    assert [row["lower"] for row in rows] == pytest.approx(told["lower"].to_list())
    assert pl.read_csv(page.get(f"{address}?format=csv").content).height == 5


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"sample,corn\na,1\n", b"PK\x03\x04"])
def test_a_file_that_is_no_spectra_is_refused_in_words(page: Page, chain_id: str, content: bytes) -> None:
    answer = page.post(f"/chains/{chain_id}/predict", files={"spectra": ("../../<x>.csv", content)})
    assert answer.status_code == 400
    assert "<x>" not in answer.text


@pytest.mark.parametrize(
    ("kind", "begins"), [("safe", b"PK"), ("n4a", b"PK"), ("script", b"#!"), ("predictions", b"PAR1")]
)
def test_a_chain_is_taken_along_as_a_file(page: Page, chain_id: str, kind: str, begins: bytes) -> None:
    answer = page.post(f"/chains/{chain_id}/export", {"kind": kind})
    assert answer.content.startswith(begins)
    assert answer.headers["content-disposition"].startswith('attachment; filename="corn_')


def test_the_fitted_model_is_opened_where_it_was_asked_for(page: Page, chain_id: str) -> None:
    told = page.post(f"/chains/{chain_id}/inside").text
    assert "Coefficients" in told
    assert "The calibration spectra are not at hand" in told


def test_spectra_of_a_stored_data_set_are_drawn_by_step_and_distance(
    folder: Path, open_page: Callable[..., Page]
) -> None:
    made = load_tecator()
    with WorkspaceStore(folder) as store:
        store.datasets.add(
            "meat",
            made.X[:40, ::5],
            references={"fat": made.fat[:40]},
            wavelengths=made.wavelengths[::5],
            unit="nm",
        )
        kept = store.datasets.get("meat", target="fat")
        model = make_pipeline(StandardScaler(), PLSRegression(3))
        chain_id = record_cross_validation(store, model, kept, cv=KFold(3)).chain_id
    page = open_page(folder)
    told = page.post(f"/chains/{chain_id}/inside").text
    for words in (
        "Coefficients",
        "Spectra",
        "After StandardScaler",
        "Calibration samples: T² and Q",
        "limit, α",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/runs?q=corn&status=completed", "corn"),
        ("/pivot", "RMSECV, best of each cell"),
        ("/pivot?rows=target&columns=model_name&metric=r2&aggregate=mean", "r2, mean of each cell"),
        ("/sql", "predictions"),
        ("/health", "No damage found"),
        ("/files", "No file was put here yet."),
        ("/evaluations", "No evaluation was recorded yet."),
        ("/champions", "No champion was chosen yet."),
        ("/lineage", "No link was recorded."),
        ("/audit", "begin_run"),
        ("/retention", "keep everything"),
        ("/backups", "No backup was made yet"),
        ("/trash", "The trash is empty."),
    ],
)
def test_the_other_screens_show_what_there_is(page: Page, path: str, words: str) -> None:
    assert words in page.html(path)
    assert page.json(path) is not None


def test_a_run_shows_its_pipelines_and_how_it_was_recorded(page: Page) -> None:
    run_id = page.json("/runs")["rows"][0]["run_id"]
    html = page.html(f"/runs/{run_id}")
    for words in ("completed", "PLS(3)", "scikit-learn", "seed=1", "Scores in the order of recording"):
        assert words in html
    assert len(page.json(f"/runs/{run_id}")["pipelines"]) == 3
    pipeline_id = page.json(f"/runs/{run_id}")["pipelines"][0]["pipeline_id"]
    assert "Log" in page.html(f"/pipelines/{pipeline_id}")


def test_chains_are_compared_on_what_differs_and_on_their_samples(page: Page) -> None:
    ids = [row["chain_id"] for row in page.json("/chains")["rows"]]
    html = page.html(f"/compare?id={ids[0]}&id={ids[2]}")
    assert "n_components" in html
    assert "n = 40" in html
    assert "The same samples" in html
    assert "dataset" not in {row["item"] for row in page.json(f"/compare?id={ids[0]}&id={ids[2]}")["rows"]}
    assert "Tick two to fifty" in page.html(f"/compare?id={ids[0]}")
    assert page.get("/compare?" + "&".join(f"id={i}" for i in range(51))).status_code == 400


def test_a_query_is_asked_and_only_a_query(page: Page) -> None:
    rows = page.json("/sql?query=SELECT+name,+42.5+AS+answer+FROM+runs")["rows"]
    assert rows == [{"name": "corn", "answer": 42.5}]
    for wrong in (
        "DELETE FROM runs",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY runs TO 'x'",
    ):
        answer = page.get("/sql", params={"query": wrong})
        assert answer.status_code == 400, wrong
        assert "root:" not in answer.text


def test_a_query_without_end_is_stopped(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    from nirs_store.ui.screens import sql

    monkeypatch.setattr(sql, "_SECONDS", 0.2)
    monkeypatch.setattr(sql, "_MOST", 5)
    assert (
        "longer than"
        in page.get("/sql", params={"query": "SELECT count(*) FROM range(99999999) a, range(99999) b"}).text
    )
    assert "more than 5 rows" in page.get("/sql", params={"query": "SELECT * FROM range(9)"}).text


def test_csv_files_hold_no_formulas(page: Page) -> None:
    answer = page.get("/sql", params={"query": "SELECT '=1+1' AS a, -1.5 AS b", "format": "csv"})
    assert answer.text.splitlines()[1] == "'=1+1,-1.5"


@pytest.mark.parametrize("query", ["SELECT list(i) FROM range(9000000) t(i)", "SELECT repeat('x', 30000000)"])
def test_one_huge_cell_is_refused_in_words(page: Page, query: str) -> None:
    answer = page.get("/sql", params={"query": query, "format": "json"})
    assert (answer.status_code, "takes more than" in answer.json()["message"]) == (400, True)


@pytest.mark.parametrize(
    ("site", "runs"), [("none", True), ("same-origin", True), ("cross-site", False), ("same-site", False)]
)
def test_a_link_of_another_site_starts_no_query(page: Page, site: str, runs: bool) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    answer = page.get("/sql", params={"query": "SELECT 40 + 2 AS answer"}, headers=headers)
    assert answer.status_code == 200
    assert "SELECT 40 + 2" in answer.text
    assert (">42<" in answer.text, "was not run" in answer.text) == (runs, not runs)


def test_a_query_that_takes_long_keeps_nobody_waiting(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, tables = threading.Semaphore(0), threading.Event(), sql._tables
    held = {"left": app._MOST_ASIDE}

    def slowly(request: Any) -> Any:
        if held["left"]:
            held["left"] -= 1
            begun.release()
            go_on.wait(60)
        return tables(request)

    monkeypatch.setattr(sql, "_tables", slowly)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(page.get, "/sql?query=SELECT 1")]
        assert begun.acquire(timeout=60)
        held["left"] = 0
        assert page.get("/").status_code == page.get("/chains").status_code == 200
        assert page.get("/sql?query=SELECT 40 %2B 2&format=csv").text.split() == ["(40", "+", "2)", "42"]
        assert not waiting[0].done()
        held["left"] = app._MOST_ASIDE - 1
        for _ in range(app._MOST_ASIDE - 1):
            waiting.append(pool.submit(page.get, "/sql?query=SELECT 1"))
            assert begun.acquire(timeout=60)
        full = page.get("/sql?query=SELECT 1")
        assert (full.status_code, "Ask again" in full.text) == (503, True)
        assert page.get("/").status_code == 200
        assert not any(each.done() for each in waiting)
        go_on.set()
        assert {each.result().status_code for each in waiting} == {200}
    assert page.get("/sql?query=SELECT 1").status_code == 200


def test_a_query_takes_no_more_memory_than_the_page_gives(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "SELECT len(list(i)) AS n FROM range(9000000) t(i)"
    monkeypatch.setattr(app, "_MEMORY", "40MB")
    answer = page.get("/sql", params={"query": query, "format": "json"})
    assert (answer.status_code, "more memory" in answer.json()["message"]) == (400, True)
    assert page.desk.store().sql(query)["n"].item() == 9_000_000


@pytest.mark.parametrize("name", ["new.csv.gz", "NEW.CSV.GZ", "oil.2024.csv"])
def test_a_file_keeps_the_endings_of_its_name(page: Page, chain_id: str, spectra: Path, name: str) -> None:
    content = spectra.read_bytes()
    packed = gzip.compress(content) if name.lower().endswith("gz") else content
    answer = page.post(f"/chains/{chain_id}/predict", files={"spectra": (name, packed)})
    assert answer.url.path.startswith("/predicted/"), answer.text


def test_messages_name_a_file_as_its_sender_does(page: Page, chain_id: str) -> None:
    for name, content in (("of monday.abc", b"1,2\n"), ("of monday.csv", b""), ("of monday.spc", bytes(600))):
        answer = page.post(f"/chains/{chain_id}/predict", files={"spectra": (name, content)})
        assert (answer.status_code, name in answer.text) == (400, True)
        assert "nirs_store-page-" not in answer.text


@pytest.mark.parametrize(
    "name", ["../../up.csv", "..", "a/..\\..\\b.csv", "ü" * 300 + ".csv", "\0 ?*.csv", "same.csv"]
)
def test_files_of_any_name_are_kept_apart_and_in_their_folder(tmp_path: Path, name: str) -> None:
    sent = [
        app.UploadFile(io.BytesIO(b"one"), filename=name),
        app.UploadFile(io.BytesIO(b"two"), filename="same.csv"),
    ]
    kept = [app._kept(each, tmp_path, number)[0] for number, each in enumerate(sent)]
    assert [each.path.read_bytes() for each in kept] == [b"one", b"two"]
    assert [each.path.resolve().parent for each in kept] == [tmp_path / "0", tmp_path / "1"]


@pytest.mark.parametrize("value", [1.0, 0.5])
def test_a_small_file_of_many_spectra_is_refused_before_it_is_unpacked(
    page: Page, chain_id: str, value: float
) -> None:
    made = io.BytesIO()
    pl.DataFrame({str(850 + 2 * n): pl.repeat(value, 200_000, eager=True) for n in range(100)}).write_parquet(
        made
    )
    assert len(made.getvalue()) < 1 << 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl, "read_parquet", None)
        answer = page.post(f"/chains/{chain_id}/predict", files={"spectra": ("a.parquet", made.getvalue())})
    assert (answer.status_code, "too much" in answer.text) == (400, True)


@pytest.mark.parametrize("sign", [",", "\t", ";"])
def test_a_file_of_very_many_columns_is_refused_before_they_are_looked_at(
    page: Page, chain_id: str, sign: str
) -> None:
    line = sign.join(["a"] * 100_002)
    answer = page.post(
        f"/chains/{chain_id}/predict", files={"spectra": ("wide.csv", f"{line}\n{line}\n".encode())}
    )
    assert (answer.status_code, "more than 100,000 cells" in answer.text) == (400, True)


def test_what_a_dropped_file_gave_belongs_to_its_page(
    page: Page, recorded: Path, open_page: Callable[..., Page], chain_id: str, spectra: Path
) -> None:
    answer = page.post(f"/chains/{chain_id}/predict", files={"spectra": ("new.csv", spectra.read_bytes())})
    assert answer.url.path.startswith("/predicted/")
    assert page.get(answer.url.path).status_code == 200
    assert open_page(recorded).get(answer.url.path).status_code == 404


# -- With --allow-changes.


def confirmed(page: Page, path: str, asked: Any) -> Any:
    return page.client.post(path, data=fields(asked.text))


def refused(page: Page, path: str, asked: Any) -> None:
    answer = confirmed(page, path, asked)
    assert (answer.status_code, "changed since" in answer.text) == (400, True)


def test_tags_and_notes_are_set(changing: Page) -> None:
    run_id = changing.json("/runs")["rows"][0]["run_id"]
    wanted = {"tags": "frozen, oil", "note": "new lamp"}
    asked = changing.post(f"/runs/{run_id}/tag", wanted)
    for words in (
        "corn&#39; would be removed",
        "frozen&#39; would be added",
        "new lamp&#39;. It is &#39;corn&#39; now",
    ):
        assert words in asked.text
    assert changing.json("/runs")["rows"][0]["note"] == "corn"
    confirmed(changing, f"/runs/{run_id}/tag", asked)
    row = changing.json("/runs")["rows"][0]
    assert (sorted(row["tags"]), row["note"]) == (["frozen", "oil"], "new lamp")
    assert changing.post(f"/runs/{run_id}/tag", wanted).url.path == f"/runs/{run_id}"


def test_tags_that_were_changed_since_are_left_alone(changing: Page) -> None:
    store = changing.desk.store()
    run_id = store.list_runs()["run_id"][0]
    asked = changing.post(f"/runs/{run_id}/tag", {"tags": "frozen", "note": "new lamp"})
    store.annotate_run(run_id, "of a colleague")
    refused(changing, f"/runs/{run_id}/tag", asked)
    assert store.show_run(run_id).note == "of a colleague"


def test_a_deletion_of_something_else_than_was_shown_is_refused(changing: Page) -> None:
    store = changing.desk.store()
    run_id, chains = store.list_runs()["run_id"][0], store.list_chains()["chain_id"].to_list()
    asked = changing.post("/delete", {"kind": "chain", "id": chains[0]})
    store.delete_chain(chains[1])
    other = changing.client.post("/delete", data=fields(asked.text) | {"kind": "run", "id": run_id})
    assert (other.status_code, "changed since" in other.text) == (400, True)
    asked = changing.post("/delete", {"kind": "run", "id": run_id})
    store.delete_chain(chains[2])
    refused(changing, "/delete", asked)
    assert store.list_runs().height == 1


@pytest.mark.parametrize("kind", ["run", "chain"])
def test_a_deletion_is_planned_then_confirmed_then_undone(changing: Page, chain_id: str, kind: str) -> None:
    run_id = changing.json("/runs")["rows"][0]["run_id"]
    identifier = run_id if kind == "run" else chain_id
    asked = changing.post("/delete", {"kind": kind, "id": identifier})
    assert "trash for 30 days" in asked.text
    assert f"<li>{'3 chains' if kind == 'run' else '1 chain'}</li>" in asked.text
    assert changing.json("/chains")["total"] == 3
    assert changing.post("/delete", {"kind": kind, "id": identifier, "sure": "1"}).status_code == 400
    assert changing.json("/chains")["total"] == 3
    assert confirmed(changing, "/delete", asked).url.path == "/trash"
    assert changing.json("/chains")["total"] == (0 if kind == "run" else 2)
    entry = changing.json("/trash")["rows"][0]["trash_id"]
    asked = changing.post("/trash/restore", {"id": entry})
    assert "rows come back" in asked.text
    assert changing.json("/chains")["total"] == (0 if kind == "run" else 2)
    confirmed(changing, "/trash/restore", asked)
    assert changing.json("/chains")["total"] == 3
    assert confirmed(changing, "/trash/restore", asked).status_code == 404


def test_retention_deletes_what_was_shown_and_nothing_else(changing: Page) -> None:
    from nirs_store.history.policy import keep_top_k

    store = changing.desk.store()
    store.retention.set(keep_top_k(1))
    asked = changing.post("/retention/run")
    assert "2 would go" in asked.text
    store.retention.set(keep_top_k(2))
    refused(changing, "/retention/run", asked)
    assert changing.json("/chains")["total"] == 3
    confirmed(changing, "/retention/run", changing.post("/retention/run"))
    assert changing.json("/chains")["total"] == 2


def test_a_clean_up_is_planned_then_confirmed(changing: Page) -> None:
    store = changing.desk.store()
    store.delete_chain(changing.json("/chains")["rows"][2]["chain_id"], now=True, delete_artifacts=False)
    asked = changing.post("/gc")
    assert "unreferenced" in asked.text
    assert changing.post("/gc", {"sure": "1"}).status_code == 400
    store.delete_chain(changing.json("/chains")["rows"][1]["chain_id"], now=True, delete_artifacts=False)
    refused(changing, "/gc", asked)
    assert store.gc_artifacts(dry_run=True).artifacts
    assert confirmed(changing, "/gc", changing.post("/gc")).url.path == "/health"
    assert not store.gc_artifacts(dry_run=True).artifacts


def test_changes_are_refused_where_the_page_only_shows(page: Page, chain_id: str) -> None:
    answer = page.post("/delete", {"kind": "chain", "id": chain_id, "sure": "1"})
    assert answer.status_code == 403
    assert "--allow-changes" in answer.text
    assert page.json("/chains")["total"] == 3


def test_a_damaged_workspace_says_what_is_wrong(
    recorded: Path, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(recorded, folder)
    catalog = folder / "store.duckdb"
    catalog.write_bytes(b"\x00" * 4096 + catalog.read_bytes()[4096:])
    page = open_page(folder)
    for path in ("/", "/chains", "/health"):
        answer = page.get(path)
        assert answer.status_code == 500
        assert "Restore it from a backup" in answer.text


@pytest.mark.of_a_folder("it damages or replaces files of the folder")
def test_a_lost_object_is_found_and_predicting_says_so(
    recorded: Path, tmp_path: Path, open_page: Callable[..., Page], chain_id: str, spectra: Path
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(recorded, folder)
    shutil.rmtree(folder / "artifacts")
    page = open_page(folder)
    assert "Predicted against measured" in page.html(f"/chains/{chain_id}")
    assert "blob_missing" in page.html("/health")
    answer = page.post(f"/chains/{chain_id}/predict", files={"spectra": ("new.csv", spectra.read_bytes())})
    assert answer.status_code == 500
    assert "missing" in answer.text


@pytest.mark.of_a_folder("it damages or replaces files of the folder")
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"junk")])
def test_a_data_set_whose_files_are_damaged_shows_the_rest(
    serving: Path, tmp_path: Path, open_page: Callable[..., Page], damage: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(serving, folder)
    for path in (folder / "artifacts").rglob("*.arrow"):
        damage(path)
    page = open_page(folder)
    shown = page.html("/datasets/protein@v2")
    assert 'class="note error"' in shown
    assert "sample 3 corrected" in shown
    assert page.json("/datasets/protein@v2")["damaged"]


@pytest.mark.of_a_folder("it damages or replaces files of the folder")
def test_an_older_workspace_is_shown_and_left_as_it_is(
    tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    stores = sorted((Path(__file__).parents[1] / "compat" / "stores").glob("*.zip"))
    with zipfile.ZipFile(stores[0]) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "workspace"
    before = (folder / "store.duckdb").read_bytes()
    page = open_page(folder)
    for path in ("/", "/chains", "/runs", "/health"):
        assert page.get(path).status_code == 200, path
    with zipfile.ZipFile(stores[0]) as archive:
        pending = [
            name for name in archive.namelist() if "journal/segments/" in name and not name.endswith("/")
        ]
    assert pending, "commits wait in its journal"
    fresh = open_page(folder)
    assert "commits in its journal or inbox could not be applied" in fresh.html("/")
    page.desk.close()
    assert (folder / "store.duckdb").read_bytes() == before


def test_an_answer_is_kept_until_something_is_recorded(
    tmp_path: Path, recorded: Path, open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(recorded, folder)
    page = open_page(folder)
    first = page.html("/chains")
    asked: list[str] = []
    plain = WorkspaceStore.list_chains
    monkeypatch.setattr(WorkspaceStore, "list_chains", lambda *a, **k: asked.append("") or plain(*a, **k))
    assert page.html("/chains") == first
    assert page.json("/chains")["total"] == 3
    assert page.json("/chains")["total"] == 3
    assert len(asked) == 1
    with WorkspaceStore(folder) as store:
        store.rename_run(store.list_runs()["run_id"][0], "another name")
    assert "another name" in page.html("/chains")
    with WorkspaceStore(folder) as store:
        store.delete_chain(page.json("/chains")["rows"][0]["chain_id"])
    assert page.json("/chains")["total"] == 2
    with WorkspaceStore(folder) as store, store.run("newer", datasets=["corn"]) as run:
        with run.pipeline("p", dataset_name="corn") as pipeline:
            store.save_chain(
                pipeline.pipeline_id,
                [{"step_idx": 1, "operator_class": "m.PLS", "operator_type": "model", "params": {}}],
                1,
                "m.PLS",
                "",
                "shared",
                {},
                {},
            )
            pipeline.complete()
        store.flush()
        assert page.json("/chains")["total"] == 3


def test_what_goes_on_and_what_a_reviewer_would_ask_have_their_own_addresses(page: Page) -> None:
    assert page.json("/now")["counts"]["runs"] == 1
    assert {each["code"] for each in page.json("/findings")["reviewed"]} <= set(CODES)
    assert page.json("/findings")["damaged"] == []
    assert 'id="findings"' in page.html("/findings")


@pytest.mark.of_a_folder("its other processes open the folder")
def test_a_run_whose_writer_was_killed_is_shown_as_interrupted(
    folder: Path, empty: Path, open_page: Callable[..., Page]
) -> None:
    shutil.copytree(empty, folder)
    code = (
        "import sys, nirs_store\n"
        f"store = nirs_store.WorkspaceStore({str(folder)!r})\n"
        "run_id = store.begin_run('killed', {}, [{'name': 'corn'}])\n"
        "store.flush()\nprint(run_id, flush=True)\nsys.stdin.read()"
    )
    page = open_page(folder)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        run_id = child.stdout.readline().strip()
        assert [each["run"]["name"] for each in page.json("/now")["live"]] == ["killed"]
        child.kill()
        child.wait(30)
    assert page.json("/now")["live"] == []
    assert page.json("/runs")["rows"][0]["status"] == "interrupted"
    assert "interrupted" in page.html(f"/runs/{run_id}")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chains of every kind: two targets, classes, repeats, no refit, a stack, and one with nothing but steps."""
    folder = tmp_path_factory.mktemp("kinds") / "workspace"
    made = load_tecator()
    X, y = made.X[:40, ::10], made.fat[:40]
    cv = KFold(3, shuffle=True, random_state=0)
    with WorkspaceStore(folder) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = np.column_stack([y, made.water[:40]])
        record_cross_validation(store, PLSRegression(2), X, both, cv=cv, dataset_name="two")
        classes = np.where(y > 15, "high <b>", "low")
        record_cross_validation(store, LogisticRegression(), X, classes, cv=cv, dataset_name="classes")
        repeated = RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)
        record_cross_validation(store, PLSRegression(2), X, y, cv=repeated, dataset_name="repeats")
        record_cross_validation(store, Ridge(), X, y, cv=cv, dataset_name="folds", refit=False)
        base = record_cross_validation(store, Ridge(), X, y, cv=cv, dataset_name="base")
        record_stacking(store, [base.chain_id], Ridge(), X, y, cv=cv)
        with store.run("bare") as run, run.pipeline("bare", dataset_name="bare") as pipeline:
            identifier = pipeline.pipeline_id
            step = {"step_idx": 1, "operator_class": "m.PLS", "operator_type": "model", "params": {}}
            store.save_chain(identifier, [step], 1, "m.PLS", "", "shared", {}, {})
            store.log_metrics(identifier, "loss", [3.0, float("nan"), 1.0])
            store.log_step(identifier, 1, "m.PLS", "end", 5, "<b>done</b>", {"a": 1}, "warning")
            store.files.put(b"a,b\n", "eval/<x>.csv", type="report")
            pipeline.complete()
    return folder


def test_chains_of_every_kind_are_shown_compared_and_predicted(
    kinds: Path, open_page: Callable[..., Page], spectra: Path
) -> None:
    page = open_page(kinds)
    rows = page.json("/chains?size=50")["rows"]
    assert len(rows) == 7
    told = {}
    for row in rows:
        told[row["dataset_name"]] = page.html(f"/chains/{row['chain_id']}")
        page.html(f"/chains/{row['chain_id']}/review")
        page.html(f"/chains/{row['chain_id']}/predictions")
        page.html(f"/lineage?id={row['chain_id']}")
        page.html(f"/pipelines/{row['pipeline_id']}")
        assert page.post(f"/chains/{row['chain_id']}/inside").status_code == 200
    assert "predicted class" in told["classes"]
    assert "high &lt;b&gt;" in told["classes"]
    assert "RMSECV" in told["repeats"]
    assert "Predicted against measured" in told["folds"]
    assert "No predictions of this chain were recorded" in told["bare"]
    assert page.get("/compare?" + "&".join(f"id={row['chain_id']}" for row in rows)).status_code == 200
    assert "loss" in page.html(
        f"/pipelines/{next(r['pipeline_id'] for r in rows if r['dataset_name'] == 'bare')}"
    )
    assert "eval/&lt;x&gt;.csv" in page.html("/files")
    for path in ("/", "/pivot", "/pivot?task=classification", "/runs", "/chains?sort=f1"):
        page.html(path)
