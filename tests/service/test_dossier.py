"""The dossier: what a validation asks for, its holes, and a page that runs nothing and loads nothing."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from servicekit import MEAT, Recorded, X, Y, record
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from nirs_store import WorkspaceStore, record_cross_validation
from nirs_store.errors import CalibrationNotFound, InvalidInput

FACTS = {
    "purpose": "fat of minced meat", "responsible": "Ada", "acceptance": "SEP < 3 %", "reference_method": "ISO 1443",
    "reference_error": "0.2 %", "reference_lab": "our own", "instrument": "Infratec", "measurement": "cup, 16 scans",
    "sampling": "every 10th batch", "sample_preparation": "minced", "repeatability": "0.1 %", "specificity": "see domain",
    "robustness": "two operators",
}  # fmt: skip


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_what_is_not_known_is_marked_and_what_is_given_is_printed(
    store: WorkspaceStore, recorded: Recorded
) -> None:
    store.calibrations.register("fat", recorded.first)
    bare = store.calibrations.dossier("fat@v1", figures=False)
    for hole in (
        "Reference method: method",
        "Scope: matrix",
        "Signatures: approval",
        "Samples: how samples were drawn",
    ):
        assert hole in bare.missing
    assert bare.to_html().count('class="missing"') == len(bare.missing) + 1
    scope = {"matrix": "meat", "range": (0, 60), "instruments": "Infratec", "wavelengths": (850, 1050)}
    store.calibrations.register(
        "fat", recorded.second, scope=scope, metadata=FACTS | {"lamp": "second"}, note="clean"
    )
    for meaning in ("authorship", "review", "approval"):
        store.calibrations.sign("fat@v2", meaning=meaning, signer=f"{meaning} signer")  # type: ignore[arg-type]
    whole = store.calibrations.dossier("fat@v2", figures=False)
    assert not {each for each in whole.missing if not each.startswith("Recipe: commit")}
    text = " ".join(Page(whole.to_html()).text)
    known = store.calibrations.get("fat@v2")
    for words in (*FACTS.values(), "850 to 1050", "second", known.chain_id, known.content_hash, "review signer", "KFold",
                  "not a statement", f"{known.figures['sep']:.5g}", "Out-of-fold errors", "30 calibration samples"):  # fmt: skip
        assert words in text
    # Of the version before: other components, another SEP.
    changes = next(part for part in whole.parts if part.title.startswith("Changes"))
    rows = {row[0]: row[1:] for table in changes.tables for row in table.rows}
    assert rows["p"] == (2, 4)
    assert rows["scope: matrix"] == (None, "meat")
    assert json.loads(json.dumps(whole.to_dict(), default=str))["missing"] == list(whole.missing)


def test_the_page_runs_nothing_and_loads_nothing(
    store: WorkspaceStore, recorded: Recorded, tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script><img src=http://evil.example onerror=x>\" ' </td>"
    store.calibrations.register(
        "<b>fat</b>", recorded.first, note=evil, author="<i>Ada", metadata={evil: evil, "reference_method": evil},
        scope={"matrix": [evil], "note": evil},
    )  # fmt: skip
    store.calibrations.sign("<b>fat</b>@v1", meaning="review", signer=evil[:90], note=evil)
    written = store.calibrations.dossier("<b>fat</b>@v1").save(tmp_path / "sub" / "fat.html")
    page = Page(written.read_text())
    assert {tag for tag, _ in page.tags} <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "span",
        "figure",
        "img",
        "figcaption",
    }
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) >= 2
    assert all(each and each.startswith("data:image/svg+xml;base64,") for each in images)
    assert not any(
        name.startswith("on") or name == "href" for _, attributes in page.tags for name in attributes
    )
    assert evil in " ".join(page.text)


def test_classifiers_several_targets_and_deleted_chains_have_dossiers(
    store: WorkspaceStore, recorded: Recorded
) -> None:
    both = pl.DataFrame({"fat": Y, "rest": 100 - Y + np.sin(np.arange(len(Y)))})
    store.calibrations.register("both", record(store, 3, both, target=None))
    two = store.calibrations.dossier("both@v1", figures=False)
    captions = [table.caption for part in two.parts for table in part.tables]
    assert {"fat at registration", "rest at registration"} <= set(captions)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5)
    labels = np.where(Y > 15, "fat", "lean")
    folds = KFold(3, shuffle=True, random_state=0)
    chain = record_cross_validation(store, model, X, labels, cv=folds, dataset_name="m").chain_id
    store.calibrations.register("kind", chain)
    assert "balanced_accuracy" in store.calibrations.dossier("kind@v1", figures=False).to_html()
    store.calibrations.register("gone", recorded.first)
    store.delete_chain(recorded.first)
    assert "Recipe: steps" in store.calibrations.dossier("gone@v1").missing
    with pytest.raises(CalibrationNotFound):
        store.calibrations.dossier("gone@v2")


def test_it_is_written_as_what_the_suffix_says(
    store: WorkspaceStore, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.calibrations.register("fat", recorded.first)
    found = store.calibrations.dossier("fat@v1", figures=False)
    assert json.loads(found.save(tmp_path / "a.json").read_text())["calibration"] == "fat@v1"
    with pytest.raises(InvalidInput, match=r"\.html, \.pdf or \.json"):
        found.save(tmp_path / "a.docx")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("nirs_store.service.dossier._PLACES", ())
    with pytest.raises(InvalidInput, match=r"Write \.html"):
        found.save(tmp_path / "a.pdf")
    assert sorted(path.name for path in tmp_path.glob("a.*")) == ["a.json"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser that prints")
def test_a_browser_prints_it(store: WorkspaceStore, recorded: Recorded, tmp_path: Path) -> None:
    store.calibrations.register("fat", recorded.first)
    data = store.calibrations.dossier("fat@v1").save(tmp_path / "a.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert len(data) > 20_000


@pytest.mark.parametrize("value", [[{"a": 1}, {"b": 2}], [[1, 2], [3, 4]], [1, None], [True, "x"]])
def test_pairs_that_are_no_interval_are_printed(
    store: WorkspaceStore, recorded: Recorded, value: object
) -> None:
    store.calibrations.register("fat", recorded.first, metadata={"lims": value})
    assert "lims" in store.calibrations.dossier("fat@v1", figures=False).to_html()


def test_an_update_and_a_transfer_are_told(store: WorkspaceStore, recorded: Recorded) -> None:
    store.calibrations.register("fat", recorded.second)
    known = {row.tobytes() for row in X}
    rows = [row for row in range(120, 160) if MEAT.X[row, ::4].tobytes() not in known]
    found = store.calibrations.update("fat@v1", (MEAT.X[rows, ::4], MEAT.fat[rows]), old_samples=(X, Y))
    page = Page(store.calibrations.dossier("fat@v2", figures=False).to_html()).text
    assert "Update of v1" in page
    assert f"{found.comparison['rmse_after'][0]:.5g}" in page
    moved = store.derive_chain("fat@v2", StandardScaler().fit(X))
    store.calibrations.register("bench 2", moved.chain_id)
    page = Page(store.calibrations.dossier("bench 2@v1", figures=False).to_html()).text
    assert f"fat@v2, chain {found.after.chain_id}" in page
    assert "sklearn.preprocessing._data.StandardScaler" in page
