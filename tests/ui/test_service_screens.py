"""Data sets and calibrations on the page: what is shown, and what changes with --allow-changes only."""

from __future__ import annotations

import gzip
import html as markup
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from uikit import Page, fields

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.ui.figure import time_ticks
from nirs_store.ui.screens import calibration_changes
from nirs_store.ui.screens.datasets import named_address


@pytest.fixture
def served(serving: Path, open_page: Callable[..., Page]) -> Page:
    return open_page(serving)


@pytest.fixture
def servant(serving: Path, tmp_path: Path, open_page: Callable[..., Page]) -> Page:
    """A page that may change its copy of the workspace."""
    shutil.copytree(serving, tmp_path / "workspace")
    return open_page(tmp_path / "workspace", may_change=True)


# -- Data sets.


def test_data_sets_are_listed_with_their_newest_version(served: Page) -> None:
    rows = served.json("/datasets")["rows"]
    assert [(row["name"], row["version"], row["samples"]) for row in rows] == [("protein", 2, 60)]
    assert 'href="/datasets/protein@v2"' in served.html("/datasets")


def test_a_version_shows_its_spectra_references_differences_and_chains(served: Page) -> None:
    data = served.json("/datasets/protein@v2")
    assert data["diff"]["corrected"] == [
        {"sample": "protein3", "column": "protein", "before": "99.0", "after": "42.7"}
    ]
    assert data["chains"]["total"] == 2
    assert {row["samples"] for row in data["chains"]["rows"]} == {60}
    assert data["samples"]["total"] == 60
    spectra, histogram = data["figures"]
    assert len(spectra["marks"]) == 60
    assert sum(histogram["marks"][0]["y"]) == 60
    page = served.html("/datasets/protein@v2")
    assert "2.90 to 10.60" in page
    assert "sample 3 corrected" in page
    assert served.json("/datasets/protein@v1")["diff"] is None
    assert served.json("/datasets/protein@v1?against=2")["diff"]["before"] == "protein@v2"


def test_spectra_are_colored_by_a_group_and_by_nothing_else(served: Page) -> None:
    assert 'class="line s0 thin"' in served.html("/datasets/protein?color=kind")
    assert served.get("/datasets/protein?color=id").status_code == 400


def test_the_chains_that_have_seen_a_sample_are_listed(served: Page) -> None:
    assert served.json("/datasets/protein?sample=protein7")["chains"]["total"] == 2
    assert served.json("/datasets/protein?sample=unknown")["chains"]["total"] == 0


def test_a_version_is_downloaded_with_its_spectra(served: Page) -> None:
    answer = served.post("/datasets/_/export", {"name": "protein@v1", "kind": "parquet"})
    frame = pl.read_parquet(io.BytesIO(answer.content))
    assert frame.shape == (60, 28)
    assert served.post("/datasets/_/export", {"name": "protein@v1", "kind": "xml"}).status_code == 400


def test_thousands_of_spectra_are_thinned_evenly_over_the_reference(
    tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    values = np.linspace(0, 50, 3000)
    with WorkspaceStore(tmp_path / "many") as store:
        store.datasets.add("many", np.outer(values, np.ones(600)), references={"fat": values})
    page = open_page(tmp_path / "many")
    (spectra, _) = page.json("/datasets/many")["figures"]
    drawn = sorted(mark["y"][0] for mark in spectra["marks"])
    assert 100 <= len(drawn) <= 200
    assert drawn[0] == 0
    assert drawn[-1] == 50
    assert np.diff(drawn).max() < 1
    assert len(page.html("/datasets/many")) < 1_500_000


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"references": {"fat": [float("nan")] * 4}},
        {"references": {"fat": [None, None, 1.0, 1.0], "site": ["a", None, "b", "b"]}},
        {"references": {"row": [1, 2, 3, 4], "flag": [True, False, True, None]}, "ids": list("abcd")},
        {"references": {"fat": [1e-9, 2e-9, 3e-9, 1e9]}, "groups": ["g"] * 4, "wavelengths": [9000.0, 8000.0, 7000.0], "unit": "cm-1"},
    ],
)  # fmt: skip
def test_data_sets_with_little_or_odd_columns_are_shown(
    tmp_path: Path, open_page: Callable[..., Page], columns: dict[str, Any]
) -> None:
    with WorkspaceStore(tmp_path / "odd") as store:
        version = store.datasets.add("odd", np.arange(12.0).reshape(4, 3), **columns)
    page = open_page(tmp_path / "odd")
    assert '<svg class="figure"' in page.html("/datasets/odd")
    for name in version.labels:
        assert page.get(f"/datasets/odd?color={name}").status_code in (200, 400)


@pytest.mark.parametrize("name", ["fat in milk", "a/b", "_", "..", "100 %", "x?y#z&w", "<b>'\"", "Zürich"])
def test_any_name_has_an_address(tmp_path: Path, open_page: Callable[..., Page], name: str) -> None:
    with WorkspaceStore(tmp_path / "names") as store:
        store.datasets.add(name, np.eye(3), ids=["s/1", "s&2", "s#3"])
    page = open_page(tmp_path / "names")
    link = markup.unescape(re.findall(r'<td><a href="([^"]*)"', page.html("/datasets"))[0])
    assert link == named_address("/datasets", name, "@v1")
    assert page.json(link)["version"]["name"] == name
    seen = markup.unescape(re.findall(r'<td><a href="([^"#]*)#chains"', page.html(link))[0])
    assert "sample=s%2F1" in seen
    assert "Chains that have seen s/1" in page.html(seen)
    sort = markup.unescape(re.findall(r'<th[^>]*><a href="([^"]*sort=id[^"]*)"', page.html(link))[0])
    assert page.json(sort)["version"]["name"] == name


# -- Calibrations.


def test_calibrations_are_listed_with_what_the_laboratory_says(served: Page) -> None:
    (row,) = served.json("/calibrations")["rows"]
    assert (row["name"], row["aliases"], row["measurements"], row["state"]) == (
        "protein",
        "production=v2",
        40,
        "out of control",
    )
    assert "bias" in row["verdict"]


def test_the_overview_warns_of_a_calibration_that_is_out_of_control(served: Page, page: Page) -> None:
    assert 'data-later="/alarms"' in served.html("/")
    html = served.html("/alarms")
    assert 'href="/calibrations/protein"' in html.partition("Out of control")[2]
    assert "/alarms" not in page.html("/")
    assert page.json("/alarms") == []


def test_a_calibration_shows_chart_figures_versions_and_history(served: Page) -> None:
    data = served.json("/calibrations/protein")
    assert data["monitoring"]["agreement"]["n"] == 35
    assert data["monitoring"]["alarms"]
    assert [row["version"] for row in data["versions"]["rows"]] == [2, 1]
    assert [(row["previous"], row["version"]) for row in data["history"]["rows"]] == [(1, 2), (None, 1)]
    assert data["measurements"]["total"] == 40
    assert set(data["figures"]) == {"control", "agreement", "intervals"}
    html = served.html("/calibrations/protein")
    for words in ("Out of control", "± 3 SEP", "EWMA", "2026-03", "anna signed v2", "By month", "production"):
        assert words in html


@pytest.mark.parametrize(
    ("query", "total"),
    [("since=2026-05-01", 20), ("until=2026-02-01", 5), ("instrument=bench+1", 20), ("version=1", 0), ("version=all", 40),
     ("flagged=yes", 3), ("flagged=no", 37), ("q=outside", 2)],
)  # fmt: skip
def test_the_log_is_filtered_in_the_address(served: Page, query: str, total: int) -> None:
    assert served.json(f"/calibrations/protein?{query}")["measurements"]["total"] == total
    assert served.get(f"/calibrations/protein?{query}").status_code == 200


@pytest.mark.parametrize(
    "query", ["since=yesterday", "version=9", "version=x", "since=2026-05-01&until=2026-01-01"]
)
def test_a_filter_that_cannot_be_read_is_refused_in_words(served: Page, query: str) -> None:
    answer = served.get(f"/calibrations/protein?{query}")
    assert answer.status_code in (200, 400, 404)
    assert "expected" in answer.text or "no calibration" in answer.text.lower() or "has no" in answer.text


def test_a_calibration_that_was_never_used_is_shown(
    tmp_path: Path, serving: Path, open_page: Callable[..., Page]
) -> None:
    shutil.copytree(serving, tmp_path / "workspace")
    with WorkspaceStore(tmp_path / "workspace") as store:
        store.calibrations.register("new", store.list_chains(limit=1)["chain_id"][0])
    page = open_page(tmp_path / "workspace")
    html = page.html("/calibrations/new")
    assert "no verdict" in html
    assert "Nothing was measured" in html
    assert (
        page.json("/calibrations")["rows"][0]["state"] is None
        or page.json("/calibrations")["rows"][0]["name"] == "new"
    )


def test_the_dossier_and_the_signatures_are_shown_and_saved(served: Page) -> None:
    html = served.html("/calibrations/protein@v2/dossier")
    assert "Figures of merit" in html
    assert "missing" in html
    assert "anna" in served.html("/calibrations/protein@v2/signatures")
    saved = served.post("/calibrations/_/dossier", {"name": "protein@v2", "kind": "json"})
    assert saved.json()["calibration"] == "protein@v2"


def test_an_alias_is_moved_when_its_plan_is_confirmed(servant: Page) -> None:
    asked = {"name": "protein", "alias": "production", "version": "1", "reason": "back"}
    plan = servant.post("/calibrations/_/alias", asked)
    assert "It points to v2 now" in plan.text
    assert servant.desk.store().calibrations.aliases("protein") == {"production": 2}
    servant.desk.store().calibrations.set_alias("protein", "candidate", 1)
    answer = servant.client.post("/calibrations/_/alias", data=fields(plan.text), follow_redirects=False)
    assert answer.headers["location"] == "/calibrations/protein"
    assert servant.desk.store().calibrations.aliases("protein") == {"production": 1, "candidate": 1}
    assert servant.json("/calibrations/protein")["history"]["rows"][0]["reason"] == "back"


def test_an_alias_that_was_moved_since_is_left_alone(servant: Page) -> None:
    plan = servant.post("/calibrations/_/alias", {"name": "protein", "alias": "production", "version": ""})
    servant.desk.store().calibrations.set_alias("protein", "production", 1)
    answer = servant.client.post("/calibrations/_/alias", data=fields(plan.text))
    assert answer.status_code == 400
    assert "changed since" in answer.text
    assert servant.desk.store().calibrations.aliases("protein") == {"production": 1}


def test_an_alias_that_demands_signatures_says_so_and_is_refused(servant: Page) -> None:
    with pytest.warns(UserWarning, match="protein@v2, which lacks"):
        servant.desk.store().calibrations.set_rule("protein", "production", signatures=2)
    plan = servant.post("/calibrations/_/alias", {"name": "protein", "alias": "production", "version": "1"})
    assert "demands 2 signatures" in plan.text
    assert servant.client.post("/calibrations/_/alias", data=fields(plan.text)).status_code == 409
    assert servant.desk.store().calibrations.aliases("protein") == {"production": 2}


@pytest.mark.parametrize(
    "sent",
    [
        b"sample_id,value\nprotein measured 95,12.5\nnobody,3\n",
        b"Sample;protein;lab\nprotein measured 95;12,5;north\nnobody;3;x\n",
    ],
)
def test_references_of_a_file_are_shown_and_then_added_once(servant: Page, sent: bytes) -> None:
    asked = {"name": "protein", "target": "protein", "unit": "%"}
    plan = servant.post("/calibrations/_/references", asked, files={"file": ("lab.csv", sent)})
    assert "2 of 2 values would be added" in plan.text
    assert "never predicted here: 1;" in plan.text
    references = servant.desk.store().references
    assert not references.list("protein measured 95").height
    twice = servant.post("/calibrations/_/references", asked, files={"file": ("lab.csv", sent)})
    for each in (plan, plan, twice):
        servant.client.post("/calibrations/_/references", data=fields(each.text))
        assert references.list("protein measured 95")["value"].to_list() == [12.5]
    again = servant.post("/calibrations/_/references", asked, files={"file": ("lab.csv", sent)})
    assert "Stored already, word for word, and left out: 2." in again.text


@pytest.mark.parametrize("other", ["workspace", "calibration"])
def test_a_plan_is_confirmed_where_it_was_made_and_nowhere_else(
    servant: Page, serving: Path, tmp_path: Path, open_page: Callable[..., Page], other: str
) -> None:
    typed = {"name": "protein", "target": "protein", "sample": "protein measured 97", "value": "12.5"}
    sent = fields(servant.post("/calibrations/_/references", typed).text)
    page = servant
    if other == "workspace":
        shutil.copytree(serving, tmp_path / "second")
        page = open_page(tmp_path / "second", may_change=True)
        sent["form_token"] = page.guard.form_token
    else:
        sent["name"] = "fat"
    before = page.desk.store().references.list().height
    assert page.client.post("/calibrations/_/references", data=sent).status_code in (400, 404)
    assert page.desk.store().references.list().height == before


@pytest.mark.parametrize("action", ["alias", "tag", "delete"])
def test_a_plan_of_one_workspace_is_none_of_its_copy(
    servant: Page, serving: Path, tmp_path: Path, open_page: Callable[..., Page], action: str
) -> None:
    shutil.copytree(serving, tmp_path / "second")
    second = open_page(tmp_path / "second", may_change=True)
    run_id = second.json("/runs")["rows"][0]["run_id"]
    path, asked = {
        "alias": ("/calibrations/_/alias", {"name": "protein", "alias": "trial", "version": "1"}),
        "tag": (f"/runs/{run_id}/tag", {"tags": "frozen", "note": "x"}),
        "delete": ("/delete", {"kind": "chain", "id": spare_chain(second)}),
    }[action]
    plans = [fields(page.post(path, asked).text) for page in (servant, second)]
    wrong = plans[0] | {"form_token": second.guard.form_token}
    before = second.json("/runs")["rows"], second.json("/chains")["total"]
    answer = second.client.post(path, data=wrong)
    assert (answer.status_code, "changed since" in answer.text) == (400, True)
    assert (second.json("/runs")["rows"], second.json("/chains")["total"]) == before
    assert second.client.post(path, data=plans[1]).status_code == 200


def spare_chain(page: Page) -> str:
    """Record a chain that no alias needs, and return its id."""
    for row in page.json("/chains?size=100")["rows"]:
        if page.post("/delete", {"kind": "chain", "id": row["chain_id"]}).status_code == 200:
            return str(row["chain_id"])
    raise AssertionError("every chain is needed")


def test_references_of_a_large_file_are_refused_before_they_are_read(
    servant: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_changes, "_MOST_BYTES", 20_000)
    text = "sample_id,value\n" + "".join(f"s{row},1\n" for row in range(5000))
    for name, content in (("lab.csv", text.encode()), ("lab.csv.gz", gzip.compress(text.encode()))):
        asked = {"name": "protein", "target": "protein"}
        answer = servant.post("/calibrations/_/references", asked, files={"file": (name, content)})
        assert (answer.status_code, "larger than" in answer.text) == (400, True), name


@pytest.mark.parametrize(
    ("value", "right"),
    [("12.5", True), ("12,5", True), ("", False), ("about 12", False), ("inf", False), ("nan", False)],
)
def test_references_that_are_typed(servant: Page, value: str, right: bool) -> None:
    asked = {
        "name": "protein",
        "target": "protein",
        "sample": ["protein measured 96", "protein measured 97"],
        "value": ["", value],
    }
    plan = servant.post("/calibrations/_/references", asked)
    assert (plan.status_code == 200) is right
    if right:
        servant.client.post("/calibrations/_/references", data=fields(plan.text))
        assert servant.desk.store().references.list("protein measured 97")["value"].to_list() == [12.5]
    else:
        assert "Nothing was recorded" in plan.text


def test_a_correction_is_planned_confirmed_applied_and_retired(servant: Page) -> None:
    plan = servant.post(
        "/calibrations/_/correct", {"name": "protein", "version": "2", "kind": "bias", "reason": "drift"}
    )
    assert "before, 0.000 after" in plan.text
    calibrations = servant.desk.store().calibrations
    assert calibrations.corrections("protein") == ()
    servant.client.post("/calibrations/_/correct", data=fields(plan.text))
    (made,) = calibrations.corrections("protein")
    assert (made.version, made.reason) == (2, "drift")
    assert "applied now" in servant.html("/calibrations/protein")
    plan = servant.post("/calibrations/_/retire", {"name": "protein", "version": "2"})
    servant.client.post("/calibrations/_/retire", data=fields(plan.text))
    assert calibrations.corrections("protein")[0].retired_at is not None


def test_a_correction_whose_samples_changed_since_is_left_alone(servant: Page) -> None:
    plan = servant.post("/calibrations/_/correct", {"name": "protein", "version": "2", "kind": "bias"})
    servant.desk.store().references.add("protein measured 95", 30.0, target="protein", unit="%")
    assert servant.client.post("/calibrations/_/correct", data=fields(plan.text)).status_code == 400
    assert servant.desk.store().calibrations.corrections("protein") == ()


def test_without_allow_changes_there_are_no_forms_that_change(served: Page) -> None:
    html = served.html("/calibrations/protein")
    for name in ("alias", "references", "correct", "retire"):
        assert f"/calibrations/_/{name}" not in html
        assert served.post(f"/calibrations/_/{name}", {"name": "protein", "sure": "1"}).status_code == 403


# -- Time axes.


@pytest.mark.parametrize(
    ("days", "first"),
    [
        (0.01, "01-01 00:05"),
        (0.5, "01-01 00:00"),
        (3, "01-01 00:00"),
        (20, "2026-01-0"),
        (400, "2026-01"),
        (9000, "2026-01"),
    ],
)
def test_moments_at_an_axis_are_round_and_few(days: float, first: str) -> None:
    begin = 1767225600.0  # 2026-01-01
    found = time_ticks(begin, begin + days * 86400)
    assert 2 <= len(found) <= 8
    assert all(begin <= each <= begin + days * 86400 for each, _ in found)
    assert found[0][1][: len(first)] <= first or found[0][1].startswith(first[:5]) or days > 1000


def test_addresses_of_names_are_quoted_once() -> None:
    assert quote("a b") in named_address("/x", "a b")


def test_the_audit_trail_leads_to_data_sets_and_calibrations(served: Page) -> None:
    rows = served.json("/audit?size=1000")["rows"]
    for kind, title in (("dataset", "protein@v"), ("calibration", "protein@v")):
        found = [row["object_id"] for row in rows if row["object_kind"] == kind and row["success"]]
        link = f"/{kind}s/{found[0]}"
        assert f'href="{link}"' in served.html("/audit?size=1000")
        assert title in served.html(link).partition("<h1>")[2][:40]


def test_each_of_several_targets_is_monitored(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    meat = load_tecator()
    both, names = pl.DataFrame({"fat": meat.fat[:60], "water": meat.water[:60]}), [f"s{i}" for i in range(40)]
    with WorkspaceStore(tmp_path / "two") as store:
        chain = record_cross_validation(
            store, PLSRegression(4), meat.X[:60, ::4], both, cv=KFold(3), dataset_name="meat"
        ).chain_id
        store.calibrations.register("meat", chain, alias="production")
        store.predict("meat", meat.X[60:100, ::4], sample_ids=names, on_outlier="ignore")
        store.references.add_many({"sample_id": names, "value": meat.fat[60:100]}, target="fat")
        store.references.add_many({"sample_id": names, "value": meat.water[60:100] + 30}, target="water")
    page = open_page(tmp_path / "two")
    (row,) = page.json("/calibrations")["rows"]
    assert row["state"] == "out of control"
    assert "water: bias" in row["verdict"]
    assert "fat: bias" not in row["verdict"]
    assert "water: bias" in page.html("/alarms")
    assert 'name="target"' in page.html("/calibrations/meat")
    assert "Control chart" not in page.html("/calibrations/meat")
    assert page.json("/calibrations/meat?target=water")["monitoring"]["target"] == "water"
