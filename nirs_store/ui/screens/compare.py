"""Compare chains or runs: only what differs, their errors on the same samples, overlaid figures."""

from __future__ import annotations

import contextlib
from itertools import combinations, islice
from typing import Any

from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import axis_words
from nirs_store.store import WorkspaceStore
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.table import Column, table_of

_MOST, _PAIRS, _LINES = 50, 15, 8


def show(request: Request) -> View:
    """Compare what was ticked."""
    store, ids = request.store, request.texts("id")
    if len(ids) < 2:
        return View("compare.html", "Compare", {"table": None, "ids": ids}, data={"ids": ids})
    if len(ids) > _MOST:
        raise InvalidInput(f"id: at most {_MOST} chains or runs are compared at once, found {len(ids)}.")
    everything = bool(request.text("all"))
    frame = store.compare(ids, only_differences=not everything)
    ids = frame.columns[1:]
    # The scores are what people look for first.
    score = pl.col("item").str.starts_with("score.")
    frame = pl.concat([frame.filter(score), frame.filter(~score)])
    frame = frame.with_columns(pl.col("item").str.strip_prefix("score."))
    chains = [each for each in ids if store.get_chain(each) is not None]
    names = {each: _name(store, each, each in chains) for each in ids}
    columns = [
        Column("item", "", sorts=False),
        *(Column(each, names[each], hint=each, sorts=False) for each in ids),
    ]
    table = table_of(request, frame, columns, size=500, empty="No differences.", name="comparison")
    figures = _errors(store, chains, names), _side_by_side(store, chains, names)
    values: dict[str, Any] = {
        "table": table, "ids": ids, "everything": everything, "tests": _tests(store, chains, names),
        "links": [(f"/{'chains' if each in chains else 'runs'}/{each}", names[each]) for each in ids],
        "untested": max(0, len(chains) * (len(chains) - 1) // 2 - _PAIRS), "undrawn": max(0, len(chains) - _LINES),
        "figures": [each for each in figures if each],
    }  # fmt: skip
    return View("compare.html", f"Compare {len(ids)} {'chains' if chains else 'runs'}", values, table=table)


def _name(store: WorkspaceStore, identifier: str, is_chain: bool) -> str:
    if is_chain:
        return f"{store.show_chain(identifier).name} · {identifier[-8:]}"
    return f"{(store.get_run(identifier) or {}).get('name', '')} · {identifier[-8:]}"


def _tests(store: WorkspaceStore, chains: list[str], names: dict[str, str]) -> list[dict[str, Any]]:
    """Test pairs of chains on the samples that both left out; pairs without any are not listed."""
    found = []
    for first, second in islice(combinations(chains, 2), _PAIRS):
        with contextlib.suppress(InvalidInput):
            tested = store.compare_errors(first, second)
            found.append({"first": names[first], "second": names[second], "tested": tested})
    return found


def _predicted(store: WorkspaceStore, chain_id: str) -> pl.DataFrame:
    """Return measured and predicted by sample, averaged over repeats; nothing where these are not numbers."""
    with contextlib.suppress(NirsStoreError):
        frame = store.chain_predictions(chain_id)
        if {"sample", "y_true", "y_pred"} <= set(frame.columns) and frame["y_pred"].dtype.is_float():
            sample = pl.col("sample").cast(pl.String)
            return frame.drop_nulls("sample").group_by(sample).agg(pl.mean("y_true", "y_pred"))
    return pl.DataFrame(schema={"sample": pl.String, "y_true": pl.Float64, "y_pred": pl.Float64})


def _errors(store: WorkspaceStore, chains: list[str], names: dict[str, str]) -> Figure | None:
    figure = Figure("Residuals out of fold", "Measured", "Predicted − measured")
    for place, chain_id in enumerate(chains[:_LINES]):
        frame, name = _predicted(store, chain_id), names[chain_id]
        samples, error = frame["sample"].to_list(), frame["y_pred"] - frame["y_true"]
        titles = [f"{s}\n{name}\nerror {e:.4g}" for s, e in zip(samples, error, strict=True)]
        if samples:
            figure.points(frame["y_true"], error, f"s{place}", label=name, titles=titles, keys=samples)
    return figure.across(0.0, "line") if figure else None


def _side_by_side(store: WorkspaceStore, chains: list[str], names: dict[str, str]) -> Figure | None:
    """Draw the predictions of the first two chains for the same samples against each other."""
    if len(chains) < 2:
        return None
    first, second = (_predicted(store, each) for each in chains[:2])
    both = first.join(second, on="sample", suffix="_2")
    samples, far = both["sample"].to_list(), (both["y_pred"] - both["y_pred_2"]).abs()
    titles = [f"{s}\ndifference {d:.4g}" for s, d in zip(samples, far, strict=True)]
    figure = Figure(
        "The same samples", *(axis_words("Predicted by", names[each]) for each in chains[:2]), equal=True
    )
    return (
        figure.points(both["y_pred"], both["y_pred_2"], "cv", titles=titles, keys=samples)
        if samples
        else None
    )


SCREENS = (Screen("/compare", show, keeps=True),)
