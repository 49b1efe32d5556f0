"""All chains: sorted, filtered and cut into pages by the catalog, so that length does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from nirs_store.choosing.review import CODES
from nirs_store.errors import InvalidInput, NirsStoreError, did_you_mean, quoted
from nirs_store.lazy import polars as pl
from nirs_store.scores import CLASSIFICATION_SCORES, REGRESSION_SCORES
from nirs_store.store import WorkspaceStore
from nirs_store.ui.frame import Request, Screen, View, stamp
from nirs_store.ui.table import PAGE, Column, Table

__all__ = ["NONE", "SCREENS", "chain_columns", "chain_link", "findings_of", "flags_of"]

#: What an address says for chains without a target, a preprocessing and the like: an empty value means all.
NONE = "(none)"
#: Filters that other screens lead to; a sentence names them.
_LED = ("model_name", "run_name", "target_unit")
_FILTERS = ("dataset_name", "target", "model_class", "preprocessings", "tag")
#: Codes are computed, not stored, at about 50 ms a chain: so many are reviewed, the first ones of the order.
_REVIEWED = 100
#: So many runs, the newest, can be chosen from a list; others by their name.
_RUNS = 200
_LABELS = dict(zip(_FILTERS, ("Data", "Target", "Model", "Preprocessing", "Tag"), strict=True))


def chain_link(row: Mapping[str, Any]) -> str:
    """Return the address of a row's chain."""
    return f"/chains/{row['chain_id']}"


def chain_columns(tasks: set[str]) -> list[Column]:
    """Return the columns of a list of chains of these tasks."""
    regression, both = "regression" in tasks or not tasks, len(tasks) > 1
    hints = {
        "rmsecv": "RMSE of the pooled out-of-fold predictions",
        "rmsep": "RMSE on test samples",
        "rpd": "SD of the measured values / SEP",
        "rpiq": "Interquartile range of the measured values / SEP",
        "bias": "Mean of predicted - measured",
    }
    columns = [
        Column("pipeline", "Chain", link=chain_link),
        Column("components", "LVs", "whole", hint="Latent variables"),
    ]
    if regression:
        columns.append(Column("score", "RMSECV" if not both else "Score", "number", hint=hints["rmsecv"]))
    else:
        columns.append(Column("score", "Score", "number", hint="The metric that the chain was recorded with"))
    columns.append(Column("score_sd", "± SD", "number", like="score", hint="SD of the score over the folds"))
    if regression:
        columns += [
            Column("rmsep", "RMSEP", "number", like="score", hint=hints["rmsep"]),
            Column("bias", "Bias", "number", like="score", hint=hints["bias"]),
            Column("r2", "R²", "number", places=4),
            Column("rpd", "RPD", "number", places=2, hint=hints["rpd"]),
        ]
    if not regression or both:
        columns += [
            Column(name, name.replace("_", " "), "number", hidden=both) for name in CLASSIFICATION_SCORES
        ]
    columns += [
        Column("n_samples", "n", "whole", hint="Out-of-fold predictions"),
        Column("dataset_name", "Data", longest=24),
        Column("target", "Target", longest=24),
        Column("target_unit", "Unit", longest=12, sorts=False),
        Column("run_name", "Run", longest=28, link=lambda row: f"/runs/{row['run_id']}"),
        Column("created_at", "Recorded", "time"),
        Column("chain_id", "Id", "id", link=chain_link, sorts=False),
        Column("metric", "Metric", sorts=False, hidden=True),
        Column("n_folds", "Folds", "whole", hidden=True),
        Column("preprocessings", "Preprocessing", hidden=True),
        Column("model_name", "Model", hidden=True),
        Column("tags", "Tags", sorts=False, hidden=True),
    ]
    columns += [
        Column(name, name.upper(), "number", hidden=True) for name in ("mae", "sep", "rpiq") if regression
    ]
    return columns


def _choices(
    known: Mapping[str, list[str]], chosen: Mapping[str, Any]
) -> list[tuple[str, str, list[str], str]]:
    """Return each filter that has values: its name, label, values, and the one chosen."""
    return [
        (name, _LABELS[name], [value or NONE for value in known[name]], chosen[name] or "")
        for name in _FILTERS
        if any(known[name])
    ]


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
    asked = {name: request.text(name) or None for name in (*_FILTERS, *_LED, "run_id", "name")}
    filters = {name: "" if value == NONE else value for name, value in asked.items()}
    sort, down = request.text("sort", "score"), request.text("down")
    descending = None if not request.text("sort") else bool(down)
    options: dict[str, Any] = {"descending": descending, "text": request.text("q") or None, **filters}
    size = request.number("size", PAGE, 1, 500)
    page = request.number("page", 1, 1, 10_000_000)
    chosen = request.texts("show")
    told: dict[str, Any] = {}
    if code:
        best = store.list_chains(sort, limit=_REVIEWED, **options)
        seen = _reviewed(store, best)
        matching = int(best["total"][0]) if best.height else 0
        told = {"reviewed": seen["review"].count(), "looked_at": best.height, "matching": matching}
        found = seen.filter(pl.col("review").list.contains(code)).with_columns(total=pl.len().cast(pl.Int64))
        page = min(page, max(1, -(-found.height // size)))
        frame = found.slice((page - 1) * size, size)
    else:
        frame = store.list_chains(sort, limit=size, offset=(page - 1) * size, **options)
        if page > 1 and not frame.height:
            page, frame = 1, store.list_chains(sort, limit=size, **options)
    tasks = set(frame["task"].drop_nulls().to_list())
    table = Table(
        frame.drop("total"),
        [*chain_columns(tasks), *([Column("review", "Review", "list", sorts=False)] if code else [])],
        request,
        int(frame["total"][0]) if frame.height else 0,
        first=(page - 1) * size,
        size=size,
        sort=sort,
        descending=bool(down),
        ticks="chain_id",
        ranks=True,
        empty="No chain matches."
        if code or any(asked.values()) or options["text"]
        else "No chain was recorded yet.",
        everything=lambda: (
            found if code else store.list_chains(sort, limit=None, scores=False, **options)
        ).drop("total"),
        chosen=chosen,
        name="chains",
    )
    kinds = frame.select("target", "target_unit", "metric").unique().height if frame.height else 0
    known = store.chain_values(*_FILTERS)
    return View(
        "leaderboard.html",
        "Leaderboard",
        {
            "table": table,
            "filters": _choices(known, asked),
            "led": {name.replace("_", " "): asked[name] for name in _LED if asked[name]},
            "shows_all": request.here(page="", **dict.fromkeys(_LED, "")),
            "name": asked["name"] or "",
            "runs": dict(store.list_runs(limit=_RUNS).select("run_id", "name").iter_rows()),
            "code": code,
            "codes": {each.code: f"{each.code} {each.title}" for each in CODES.values()},
            "review": told,
            "ordered": bool(request.text("sort")),
            "run": store.get_run(filters["run_id"]) if filters["run_id"] else None,
            "mixed": kinds > 1 and sort in ("score", *REGRESSION_SCORES, *CLASSIFICATION_SCORES),
        },
        data=table.data() | told,
        table=table,
    )


SCREENS = (Screen("/chains", show, "Leaderboard", keeps=True),)
