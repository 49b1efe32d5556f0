"""What notebooks show: every text escaped, whatever somebody called things."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import (
    CrossValidationResult,
    WorkspaceStore,
    load_bundle,
    load_tecator,
    record_cross_validation,
)
from nirs_store.db.layout import Layout
from nirs_store.db.lock import CatalogLock
from nirs_store.display import block, byte_text, cell_text, escape, field_table, short, table

NASTY = '<script>alert(\'1\')</script>"><img src=x onerror="alert(2)">&amp;'
ALLOWED = {"div", "p", "b", "pre", "table", "caption", "thead", "tbody", "tr", "th", "td"}


class Reader(HTMLParser):
    """Reads a piece of HTML and refuses what our helpers do not write."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        for name, value in attrs:
            assert (name, value) in {
                ("style", "text-align:right"),
                ("style", "text-align:left"),
                ("style", "line-height:1.2"),
            }
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> str:
    """Check a piece of HTML and give its text as a person reads it."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return " | ".join(reader.text)


# -- the pieces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        escape(NASTY),
        table([NASTY], [[NASTY]], caption=NASTY),
        field_table({NASTY: NASTY}),
        block(NASTY, field_table({"a": [NASTY]})),
        field_table({"a": {NASTY: NASTY}}),
    ],
)
def test_no_piece_lets_a_tag_through(page: str) -> None:
    assert NASTY[:40] in read(page)


def test_values_are_put_as_people_read_them() -> None:
    assert cell_text(1234567.0) == "1.235e+06"
    assert cell_text(float("nan")) == "nan"
    assert cell_text(12345678) == "12345678"
    assert cell_text(0.123456, digits=2) == "0.12"
    assert cell_text(datetime(2026, 5, 1, 12, 30, tzinfo=UTC)) == "2026-05-01 12:30:00 UTC"
    assert cell_text({"deriv": 1, "seed": None, "copy": True}) == "deriv=1, seed=None, copy=True"
    assert len(cell_text("x" * 1000)) == 200
    assert len(cell_text(["x" * 1000])) == 200
    assert short("abc", 3) == "abc"
    assert byte_text(1_500_000_000_000_000) == "1500.0 TB"


def test_numbers_stand_to_the_right_and_nothing_is_an_empty_cell() -> None:
    page = table(["a", "b"], [[1.5, None], ["x", True]])
    assert '<td style="text-align:right">1.5</td><td></td>' in page
    assert "<td>x</td><td>yes</td>" in page


def test_a_field_without_a_value_is_left_out_but_zero_is_a_value() -> None:
    assert read(field_table({"runs": 0, "note": "", "error": None})) == "runs | 0"


# -- everything that shows itself ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[WorkspaceStore, CrossValidationResult, Path]]:
    """A store in which everything that takes a text got a nasty one."""
    meat = load_tecator()
    folder = tmp_path_factory.mktemp("workspace")
    with WorkspaceStore(folder / "salt & 'pepper'") as store:
        result = record_cross_validation(
            store, make_pipeline(StandardScaler(), PLSRegression(3)), meat.X[:60], meat.fat[:60],
            cv=KFold(3), dataset_name=NASTY, name=NASTY, wavelengths=meat.wavelengths, target=NASTY,
            target_unit=NASTY, wavelength_unit="nm", sample_ids=[NASTY] * 60,
        )  # fmt: skip
        store.annotate_run(result.run_id, NASTY)
        store.tag_run(result.run_id, NASTY)
        yield store, result, store.export_chain(result.chain_id, folder / "salt & 'pepper'.n4a")


@pytest.mark.of_a_folder("it shows the name of the folder")
def test_a_store_shows_what_it_holds(hostile: tuple[WorkspaceStore, CrossValidationResult, Path]) -> None:
    store, _, _ = hostile
    text = read(store._repr_html_())
    assert "salt & 'pepper'" in text
    assert "runs | 1 | pipelines | 1 | chains | 1 | predictions | 7" in text
    assert "artifacts | 10 | size of artifacts" in text
    assert repr(store) == f"WorkspaceStore({str(store.workspace_path)!r})"


def test_a_run_shows_itself(hostile: tuple[WorkspaceStore, CrossValidationResult, Path]) -> None:
    store, result, _ = hostile
    view = store.show_run(result.run_id)
    text = read(view._repr_html_())
    assert text.startswith(NASTY)
    for part in (f"tags | {NASTY}", f"note | {NASTY}", "status | completed", "python=", result.run_id):
        assert part in text
    assert repr(view).startswith(f"<Run {short(NASTY, 80)!r}: completed, 1 pipeline on ")


def test_a_chain_shows_its_steps_scores_and_artifacts(
    hostile: tuple[WorkspaceStore, CrossValidationResult, Path],
) -> None:
    store, result, _ = hostile
    view = store.show_chain(result.chain_id)
    text = read(view._repr_html_())
    assert text.startswith("StandardScaler > PLS(3)")
    assert "sklearn.cross_decomposition.PLSRegression | copy=True, max_iter=500, n_components=3" in text
    assert f"rmsecv | {result.rmsecv:.4g}" in text
    assert f"{NASTY} ({NASTY})" in text
    assert "fold_0, fold_1, fold_2, final" in text
    assert "transformer | sklearn.preprocessing.StandardScaler" in text
    assert f"RMSECV {result.rmsecv:.4g} (SD over folds {result.fold_sd:.4g}), 4 models" in repr(view)
    assert view.chain_id in repr(view)


def test_a_cross_validation_shows_its_scores(
    hostile: tuple[WorkspaceStore, CrossValidationResult, Path],
) -> None:
    _, result, _ = hostile
    text = read(result._repr_html_())
    assert text.startswith(NASTY)
    assert f"RMSECV | {result.rmsecv:.4g}" in text
    assert f"pooled | val | 60 | {result.rmsecv:.4g}" in text
    assert "fold_0 | train" not in text
    assert "final | train" in text


def test_a_pivot_and_a_bundle_show_themselves(
    hostile: tuple[WorkspaceStore, CrossValidationResult, Path],
) -> None:
    store, _, path = hostile
    assert NASTY in read(store.pivot(columns="dataset_name")._repr_html_())
    bundle = load_bundle(path, allow_pickle=True)
    text = read(bundle._repr_html_())
    assert "salt & 'pepper'.n4a" in text
    assert f"{NASTY} ({NASTY})" in text
    assert "sklearn.preprocessing.StandardScaler" in text
    assert "100, 850 to 1050" in text
    assert f"<Bundle {path.name!r}: PLSRegression" in repr(bundle)


def test_a_run_that_is_being_recorded_shows_how_far_it_is(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        with store.run(NASTY) as run, run.pipeline(NASTY) as pipeline:
            assert "status | running" in read(run._repr_html_())
            pipeline.complete(best_val=0.5, metric=NASTY)
            assert f"metric | {NASTY} | best val | 0.5" in read(pipeline._repr_html_())
        run.summary["best"] = NASTY
        assert f"completed | completed pipelines | 1 | summary | best={NASTY[:20]}" in read(run._repr_html_())
        assert repr(run) == f"<Run {NASTY!r}: completed, 1 pipeline completed; run_id={run.run_id!r}>"
        with pytest.raises(ZeroDivisionError), store.run(NASTY) as failed:
            raise ZeroDivisionError(NASTY)
        assert repr(failed).startswith(f"<Run {NASTY!r}: failed; run_id=")
        view = store.show_run(failed.run_id)
        assert f"error | ZeroDivisionError: {NASTY}" in read(view._repr_html_())


def test_a_closed_store_and_a_read_only_one_say_so(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        pass
    assert "state | closed" in read(store._repr_html_())
    assert repr(store).endswith("(closed)")
    with WorkspaceStore(tmp_path, read_only=True) as reader:
        assert "state | read-only | runs | 0" in read(reader._repr_html_())


@pytest.mark.of_a_folder("it locks the folder")
def test_a_store_that_others_use_shows_itself_without_waiting_for_them(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        pass
    with WorkspaceStore(tmp_path, lock_timeout=0.2) as store:
        other = CatalogLock(Layout(tmp_path), writable=True)
        other.acquire(exclusive=True, timeout=5)
        try:
            assert "another process is using the catalog" in read(store._repr_html_())
        finally:
            other.release()


def test_parameters_of_any_kind_can_be_shown(tmp_path: Path) -> None:
    step: dict[str, Any] = {"step_idx": 0, "operator_class": NASTY, "params": {NASTY: [NASTY, None, 1.5]}}
    with WorkspaceStore(tmp_path) as store, store.run("r") as run, run.pipeline("p") as p:
        chain_id = store.save_chain(
            p.pipeline_id, [step | {"stateless": True}], 0, NASTY, NASTY, "per_fold", {}, {},
            metadata={"target": NASTY}, wavelengths=np.array([1.0]),
        )  # fmt: skip
        view = store.show_chain(chain_id)
        text = read(view._repr_html_())
        assert text.startswith(NASTY)
        assert "channels | 1, 1 to 1" in text
        assert view.scores == {}
        assert "0 models" in repr(view)
