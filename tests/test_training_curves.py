"""Training curves: recorded one by one or many at once, read whole or thinned, deleted with their pipeline."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId
from nirs_store.plots import training_curves


@pytest.fixture
def store(tmp_path: Path):
    with WorkspaceStore(tmp_path / "w") as opened:
        yield opened


def pipeline(store: WorkspaceStore, name: str = "net") -> str:
    return store.begin_pipeline(store.begin_run("nets", {}, []), name, {}, [], "corn", "")


def test_a_loop_and_a_call_are_read_alike_and_nothing_is_changed(store):
    values = [0.5, math.nan, math.inf, -math.inf, 1e-300, -0.0, 0.1 + 0.2]
    one, many = pipeline(store), pipeline(store)
    for step, value in enumerate(values):
        store.log_metric(one, "val/loss", value, 3 * step)
        if step == 3:
            store.flush()
    store.log_metrics(many, "val/loss", np.array(values), 3 * np.arange(len(values)))
    for each in (one, many):
        found = store.get_metrics(each)
        np.testing.assert_array_equal(found["value"].to_numpy(), values)
        assert found["step"].to_list() == [0, 3, 6, 9, 12, 15, 18]
    rows = store.sql("SELECT count(*) AS n FROM metrics")["n"][0]
    assert rows == 3  # a row for each commit of a curve
    store.complete_pipeline(one, None, None, None, 1)
    store.fail_pipeline(many, "stopped")
    assert store.get_metrics([one, many]).height == 14  # what failed keeps its curve


@pytest.mark.parametrize(
    ("values", "steps", "error"),
    [
        ([1.0, 2.0], [1], ShapeMismatch),
        ([1.0], [1.5], InvalidInput),
        ([1.0], [-1], InvalidInput),
        (["low"], [1], InvalidInput),
        ([[1.0]], [1], ShapeMismatch),
        ([None, object()], [1, 2], InvalidInput),
        ([1j], [0], InvalidInput),
        ([1.0], [2**63], InvalidInput),
        ([1.0], [True], InvalidInput),
    ],
)
def test_what_is_no_curve_is_refused_and_nothing_recorded(store, values, steps, error):
    one = pipeline(store)
    with pytest.raises(error):
        store.log_metrics(one, "loss", values, steps)
    with pytest.raises(InvalidInput):
        store.log_metrics(one, " ", [1.0])
    with pytest.raises(UnknownId):
        store.log_metrics("01890a5d-ac96-774b-bcce-b302099a8057", "loss", [1.0])
    assert store.get_metrics(one).height == 0


def test_thinning_keeps_ends_peaks_and_short_curves(store):
    one = pipeline(store)
    values = np.sin(np.arange(200_000) / 1e4)
    values[123_456], values[77_777] = 9.0, -9.0
    store.log_metrics(one, "loss", values)
    store.log_metrics(one, "short", [3.0, 1.0])
    store.log_metrics(one, "again", [1.0, 2.0], [5, 5])
    thin = store.get_metrics(one, max_points=100)
    loss = thin.filter(name="loss")
    assert loss.height <= 100
    assert {(123_456, 9.0), (77_777, -9.0)} <= set(loss.select("step", "value").rows())
    assert loss["step"].is_sorted()
    assert thin.filter(name="short")["value"].to_list() == [3.0, 1.0]
    assert thin.filter(name="again")["value"].to_list() == [1.0, 2.0]
    whole = store.get_metrics(one, "loss")
    np.testing.assert_array_equal(whole["value"].to_numpy(), values)
    assert store.get_metrics(one, ["short", "none"]).height == 2
    for bad in (1, 0, True, 2.5):
        with pytest.raises(InvalidInput, match="max_points"):
            store.get_metrics(one, max_points=bad)


def test_curves_go_with_their_pipeline_and_travel_in_archives(store, tmp_path):
    one, two = pipeline(store, "a"), pipeline(store, "b")
    for each in (one, two):
        store.log_metrics(each, "loss", [0.3, math.nan])
    store.archive(tmp_path / "all.tar.gz")
    store.delete_pipeline(one)
    assert store.get_metrics([one, two])["pipeline"].unique().to_list() == ["b"]
    assert store.check(read_data=True).findings == ()
    with WorkspaceStore(tmp_path / "other") as other:
        other.restore_archive(tmp_path / "all.tar.gz")
        assert other.get_metrics([one, two], "loss")["step"].to_list() == [0, 1, 0, 1]
        assert math.isnan(other.get_metrics(one)["value"][1])


def test_a_figure_compares_pipelines_and_leaves_gaps(store):
    one, two = pipeline(store), pipeline(store)
    store.log_metrics(one, "loss", [100.0, math.nan, 0.5])
    store.log_metrics(two, "loss", [50.0, 2.0, 0.4])
    axes = training_curves(store.get_metrics([one, two])).axes[0]
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert [label[-8:] for label in labels] == [one[-8:], two[-8:]]
    assert axes.get_yscale() == "log"
    assert np.isnan(axes.lines[0].get_ydata()[1])
    with pytest.raises(InvalidInput, match="curves"):
        training_curves(store.get_metrics([]))
    with pytest.raises(InvalidInput, match="step"):
        training_curves(store.get_metrics(one).drop("step"))
