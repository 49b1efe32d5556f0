"""All chains: sorted, filtered and cut into pages by the catalog, so that length does not matter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from nirs_store.choosing.review import CODES
from nirs_store.errors import InvalidInput, NirsStoreError, did_you_mean, quoted
from nirs_store.lazy import polars as pl
from nirs_store.scores import CLASSIFICATION_SCORES, METRICS, REGRESSION_SCORES
from nirs_store.store import WorkspaceStore
from nirs_store.ui.frame import Request, Screen, View, stamp
from nirs_store.ui.table import PAGE, Column, Table, to

#: What an address says for chains without a target, a preprocessing and the like: an empty value means all.
NONE = "(none)"
#: Filters that other screens lead to; a sentence names them.
_LED = ("model_name", "run_name", "target_unit")
_FILTERS = {"dataset_name": "Data", "target": "Target", "model_class": "Model", "preprocessings": "Preprocessing",
            "tag": "Tag"}  # fmt: skip
#: Codes are computed, not stored, at about 50 ms a chain: so many are reviewed, the first ones of the order.
_REVIEWED = 100
#: So many runs, the newest, can be chosen from a list; others by their name.
_RUNS = 200


to_chain = to("/chains", "chain_id")


def _score_column(name: str, *, hidden: bool = False) -> Column:
    each = METRICS[name]
    if each.in_units:
        return Column(name, each.label, "number", like="score", hint=each.formula or each.help, hidden=hidden)
    return Column(
        name, each.label, "number", places=each.decimals + 1, hint=each.formula or each.help, hidden=hidden
    )


#: Shown of a regression; its other scores are hidden at first.
_SHOWN_SCORES = ("bias", "r2", "rpd")
_BY_TASK = {
    "regression": (
        Column("rmsep", "RMSEP", "number", like="score", hint="RMSE on test samples"),
        *(_score_column(name) for name in _SHOWN_SCORES),
    ),
    "classification": tuple(_score_column(name) for name in CLASSIFICATION_SCORES),
}
_LAST = (
    Column("n_samples", "n", "whole", hint="Out-of-fold predictions"), Column("dataset_name", "Data", longest=24),
    Column("target", "Target", longest=24), Column("target_unit", "Unit", longest=12, sorts=False),
    Column("run_name", "Run", longest=28, link=to("/runs", "run_id")), Column("created_at", "Recorded", "time"),
    Column("chain_id", "Id", "id", link=to_chain, sorts=False),
    Column("metric", "Metric", sorts=False, hidden=True), Column("n_folds", "Folds", "whole", hidden=True),
    Column("preprocessings", "Preprocessing", hidden=True), Column("model_name", "Model", hidden=True),
    Column("tags", "Tags", sorts=False, hidden=True),
)  # fmt: skip
_HIDDEN_SCORES = tuple(
    _score_column(name, hidden=True) for name in REGRESSION_SCORES if name not in ("rmse", *_SHOWN_SCORES)
)


def chain_columns(frame: pl.DataFrame) -> list[Column]:
    """Return the columns of a list of chains, which depend on what these predict: numbers, classes, or both."""
    tasks = set(frame["task"].drop_nulls().to_list()) or {"regression"}
    regression, both = "regression" in tasks, len(tasks) > 1
    of_classes = () if not both and regression else _BY_TASK["classification"]
    words, hint = "Score", "The metric that the chain was recorded with"
    if regression:
        words, hint = "Score" if both else "RMSECV", "RMSE of the pooled out-of-fold predictions"
    return [
        Column("pipeline", "Chain", link=to_chain), Column("components", "LVs", "whole", hint="Latent variables"),
        Column("score", words, "number", hint=hint),
        Column("score_sd", "± SD", "number", like="score", hint="SD of the score over the folds"),
        *(_BY_TASK["regression"] if regression else ()), *(replace(each, hidden=both) for each in of_classes),
        *_LAST, *(_HIDDEN_SCORES if regression else ()),
    ]  # fmt: skip


def shown_columns(frame: pl.DataFrame, *without: str) -> list[Column]:
    """Return the columns of a short list of chains, without those named."""
    left_out = ("created_at", "chain_id", *without)
    return [each for each in chain_columns(frame) if not each.hidden and each.name not in left_out]


#: The findings of the chains that were reviewed, None for those that cannot be; of the catalog as it is now.
_known: WeakKeyDictionary[WorkspaceStore, tuple[str, dict[str, tuple[Any, ...] | None]]] = WeakKeyDictionary()


def _of_now(store: WorkspaceStore) -> dict[str, tuple[Any, ...] | None]:
    now = stamp(store)
    if store not in _known or _known[store][0] != now:
        _known[store] = (now, {})
    return _known[store][1]


def findings_of(store: WorkspaceStore, chain_ids: Iterable[str]) -> list[tuple[Any, ...] | None]:
    """Review chains, each once until something is recorded; None where one cannot be reviewed."""
    known = _of_now(store)
    chain_ids = list(chain_ids)
    for chain_id in chain_ids:
        if chain_id not in known:
            try:
                known[chain_id] = tuple(store.review(chain_id).findings)
            except NirsStoreError:
                known[chain_id] = None
    return [known[chain_id] for chain_id in chain_ids]


def flags_of(store: WorkspaceStore, chain_ids: Iterable[str]) -> list[str]:
    """Return how many findings the review of each chain has; a dash where it was not reviewed yet."""
    known = _of_now(store)
    return ["–" if known.get(each) is None else str(len(known[each] or ())) for each in chain_ids]


def _reviewed(store: WorkspaceStore, frame: pl.DataFrame) -> pl.DataFrame:
    """Add the review codes of each chain; null where it cannot be reviewed."""
    reviews = findings_of(store, frame["chain_id"])
    found = [None if each is None else sorted({f.code for f in each}) for each in reviews]
    return frame.with_columns(review=pl.Series(found, dtype=pl.List(pl.String)))


def _code(request: Request) -> str:
    """Return the review code that is asked for, or nothing."""
    asked = request.text("review").strip().upper()
    if asked and asked not in CODES:
        known = list(CODES)
        raise InvalidInput(f"review: expected one of the codes {known[0]} to {known[-1]}, "
                           f"found {quoted(request.text('review'))}.{did_you_mean(asked, known)}")  # fmt: skip
    return asked


def show(request: Request) -> View:
    """List chains."""
    store, code = request.store, _code(request)
    asked: dict[str, Any] = {
        name: request.text(name) or None for name in (*_FILTERS, *_LED, "run_id", "name")
    }
    filters: dict[str, Any] = {name: "" if value == NONE else value for name, value in asked.items()}
    sort, down, words = request.text("sort"), bool(request.text("down")), request.text("q")
    size, page = request.number("size", PAGE, 1, 500), request.number("page", 1, 1, 10_000_000)
    listed = partial(store.list_chains, sort or "score", descending=down if sort else None, text=words or None,
                     **filters)  # fmt: skip
    counts: dict[str, Any] = {}
    if code:
        best = _reviewed(store, listed(limit=_REVIEWED))
        matching = int(best["total"][0]) if best.height else 0
        counts = {"reviewed": best["review"].count(), "looked_at": best.height, "matching": matching}
        found = best.filter(pl.col("review").list.contains(code)).with_columns(total=pl.len().cast(pl.Int64))
        page = min(page, max(1, -(-found.height // size)))
        frame = found.slice((page - 1) * size, size)
    else:
        frame = listed(limit=size, offset=(page - 1) * size)
        if page > 1 and not frame.height:
            page, frame = 1, listed(limit=size)
    reviewed = [Column("review", "Review", "list", sorts=False)] if code else []
    table = Table(
        frame.drop("total"),
        [*chain_columns(frame), *reviewed],
        request,
        int(frame["total"][0]) if frame.height else 0,
        first=(page - 1) * size,
        size=size,
        sort=sort or "score",
        descending=down,
        ticks="chain_id",
        ranks=True,
        empty="No chain matches." if code or words or any(asked.values()) else "No chain was recorded yet.",
        everything=lambda: (found if code else listed(limit=None, scores=False)).drop("total"),
        chosen=request.texts("show"),
        name="chains",
    )
    known = store.chain_values(*_FILTERS)
    is_score = not sort or sort in (*REGRESSION_SCORES, *CLASSIFICATION_SCORES, "score")
    values = {
        "table": table,
        # Each filter that has values: its name, label, values, and the one chosen.
        "filters": [(name, label, [value or NONE for value in known[name]], asked[name] or "")
                    for name, label in _FILTERS.items() if any(known[name])],
        "led": {name.replace("_", " "): asked[name] for name in _LED if asked[name]},
        "shows_all": request.here(page="", **dict.fromkeys(_LED, "")),
        "name": asked["name"] or "",
        "runs": dict(store.list_runs(limit=_RUNS).select("run_id", "name").iter_rows()),
        "code": code,
        "codes": {each.code: f"{each.code} {each.title}" for each in CODES.values()},
        "review": counts,
        "ordered": bool(sort),
        "run": store.get_run(filters["run_id"]) if filters["run_id"] else None,
        "mixed": is_score and frame.select("target", "target_unit", "metric").n_unique() > 1,
    }  # fmt: skip
    return View("leaderboard.html", "Leaderboard", values, data=table.data() | counts, table=table)


SCREENS = (Screen("/chains", show, "Leaderboard", keeps=True),)
