"""A run and a chain as a person looks at them: values that print themselves, in a notebook as tables."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.folds import (
    chain_artifact_ids,
    fold_number,
    normalise_folds,
    shared_ids,
    source_map,
    step_fold_ids,
    step_ids,
)
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.display import (
    block,
    byte_text,
    cell_text,
    escape,
    field_table,
    printable,
    short,
    table,
    with_unit,
)
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.lazy import polars as pl
from nirs_store.reading.tables import frame_csv
from nirs_store.records import queries
from nirs_store.records.lookup import whole_ids_of
from nirs_store.records.predictions import WITH_UNIT, load_arrays, unknown_column
from nirs_store.records.ranking import chain_kinds, top_chains
from nirs_store.records.runs import versions_only
from nirs_store.scores import SCORE_COLUMNS, higher_is_better, score_label

# -- Runs or chains side by side: configuration, environment and scores.

_SCORES = tuple(name for names in SCORE_COLUMNS.values() for name in names)
_COMPARED = ("score", "score_sd", "refit_score", "test_score", *_SCORES)


def compare(engine: Engine, ids: Sequence[str], *, only_differences: bool) -> pl.DataFrame:
    """Put runs or chains side by side; see `WorkspaceStore.compare`."""
    if isinstance(ids, (list, tuple)):
        ids = whole_ids_of(engine, ("chain", "run"), ids)
    if isinstance(ids, str) or len(ids) < 2 or not all(isinstance(each, str) for each in ids):
        raise InvalidInput("run_or_chain_ids: expected at least two ids of runs or chains, each a text.")
    if len(set(ids)) < len(ids):
        raise InvalidInput("run_or_chain_ids: an id is named twice.")
    facts = [_facts(engine, identifier) for identifier in ids]
    items = list(dict.fromkeys(item for fact in facts for item in fact))
    rows = []
    for item in items:
        values = [None if fact.get(item) is None else _text(fact[item]) for fact in facts]
        if only_differences and all(value == values[0] for value in values):
            continue
        rows.append([item, *values])
    return pl.DataFrame(rows, schema={"item": pl.String, **dict.fromkeys(ids, pl.String)}, orient="row")


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """Nested plain data as dotted names: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    if isinstance(value, Mapping) and value:
        parts = [flatten(item, f"{prefix}.{key}") for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and value:
        parts = [flatten(item, f"{prefix}.{index}") for index, item in enumerate(value)]
    else:
        return {prefix: value}
    return {name: item for part in parts for name, item in part.items()}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _facts(engine: Engine, identifier: str) -> dict[str, Any]:
    Row = dict[str, Any] | None

    def ask(con: Connection) -> tuple[Row, Row, Row]:
        alive = engine.living_sessions()
        run = queries.get_run(con, identifier, alive)
        chain = None if run is not None else queries.get_chain(con, identifier)
        pipeline = None if chain is None else queries.get_pipeline(con, chain["pipeline_id"], alive)
        if pipeline is not None:
            run = queries.get_run(con, pipeline["run_id"], alive)
        return run, chain, pipeline

    run, chain, pipeline = engine.query(ask)
    environment = flatten((run or {}).get("environment"), "environment")
    if chain is not None and pipeline is not None:
        steps: dict[str, Any] = {}
        for step in chain["steps"]:
            where = f"step.{step.get('step_idx')}"
            steps[where] = step.get("operator_class")
            steps |= flatten(step["params"], f"{where}.params") if step.get("params") else {}
        facts = {
            "kind": "chain",
            "name": pipeline["name"],
            "status": pipeline["status"],
            "datasets": pipeline["dataset_name"],
            "dataset_hash": pipeline["dataset_hash"],
            **{name: chain[name] for name in ("preprocessings", "model_class", "fold_strategy")},
            **steps,
            **environment,
        }
        return facts | _best(engine, chain_id=chain["chain_id"])
    if run is None:
        raise UnknownId("run or chain", identifier)
    facts = {
        "kind": "run",
        "name": run["name"],
        "status": run["status"],
        "datasets": ", ".join(_names_of_datasets(run)),
        **flatten(run["config"], "config"),
        **environment,
        **flatten(run["summary"], "summary"),
    }
    return facts | _best(engine, run_id=run["run_id"])


def _names_of_datasets(run: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(d.get("name") if isinstance(d, dict) else d) for d in run["datasets"] or [])


def _best(engine: Engine, **filters: Any) -> dict[str, Any]:
    """Scores of the only chain, or of a run's best one."""
    try:
        best = top_chains(engine, 1, None, None, None, **filters)
    except InvalidInput:
        return {}  # a run of regressions and classifications has no best chain
    if not best.height:
        return {}
    row = best.row(0, named=True)
    facts = {"best chain": row["pipeline"], "metric": row["metric"], "n_folds": row["n_folds"]}
    return facts | {f"score.{name}": row[name] for name in _COMPARED if row.get(name) is not None}


# -- A score by two kinds: preprocessings down, models across, say.

PIVOT_COLUMNS = (
    "preprocessings", "model_class", "model_name", "dataset_name", "run_id", "run_name", "target",
)  # fmt: skip
AGGREGATES = ("best", "min", "max", "mean", "median")


@dataclass(frozen=True, eq=False, repr=False)
class Pivot:
    """A table of one score.

    Attributes
    ----------
    frame : polars.DataFrame
        First column: the kinds of `rows`; one column for each kind of `columns`.
    rows, columns, metric, aggregate : str
        The rows, the columns, the score, and which score of the chains that share a cell is shown.

    Examples
    --------
    >>> ranked = pl.DataFrame({
    ...     "preprocessings": ["SNV", "SNV", "MSC"], "model_class": ["PLS", "SVR", "PLS"],
    ...     "metric": ["rmse"] * 3, "score": [2.25, 2.5, 3.0],
    ... })
    >>> print(make_pivot(ranked, "preprocessings", "model_class", "best"))
    | preprocessings | PLS | SVR |
    | --- | ---: | ---: |
    | MSC | 3 |  |
    | SNV | 2.25 | 2.5 |
    <BLANKLINE>
    """

    frame: pl.DataFrame
    rows: str
    columns: str
    metric: str
    aggregate: str = "best"

    def to_csv(self) -> str:
        """Return the table as CSV, with all digits."""
        return frame_csv(self.frame)

    def to_markdown(self, digits: int = 4) -> str:
        """Return the table as a Markdown table, with so many significant digits."""
        head, *body = self._cells(digits, _MARKDOWN)
        rule = ["---", *["---:"] * (len(head) - 1)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body)) + "\n"

    def to_latex(self, digits: int = 4) -> str:
        """Return the table as a LaTeX ``tabular`` (needs the package booktabs)."""
        head, *body = self._cells(digits, _LATEX)
        lines = [
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "\\toprule",
            " & ".join(head) + " \\\\",
            "\\midrule",
            *(" & ".join(row) + " \\\\" for row in body),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        return table(self.frame.columns, self.frame.iter_rows(), caption=f"{self.aggregate} {self.metric}")

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        n_rows, n_columns = self.frame.height, self.frame.width - 1
        return f"Pivot({self.metric!r}: {n_rows} {self.rows} by {n_columns} {self.columns})"

    def _cells(self, digits: int, escaped: Mapping[int, str]) -> list[list[str]]:
        head = [name.translate(escaped) for name in self.frame.columns]
        return [head] + [
            [str(kind or "").translate(escaped), *("" if v is None else f"{v:.{digits}g}" for v in values)]
            for kind, *values in self.frame.iter_rows()
        ]


_MARKDOWN = str.maketrans({"|": "\\|", "\\": "\\\\", "<": "&lt;", "\n": " ", "\r": " "})
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        ">": "\\textgreater{}",
        "<": "\\textless{}",
        "|": "\\textbar{}",
        "\n": " ",
        "\r": " ",
    }
)


def pivot(
    engine: Engine,
    rows: str,
    columns: str,
    metric: str | None,
    aggregate: str,
    task_type: str | None,
    **filters: str | None,
) -> Pivot:
    """Lay the scores of chains out by two kinds; see `WorkspaceStore.pivot`."""
    check_kinds(rows, columns, aggregate)
    scored, named = chain_kinds(engine, metric, task_type, **filters)
    return make_pivot(scored.with_columns(metric=pl.lit(named)), rows, columns, aggregate, metric)


def check_kinds(rows: str, columns: str, aggregate: str) -> None:
    """Refuse what cannot be a pivot, before anything is asked."""
    for name, value in (("rows", rows), ("columns", columns)):
        if value not in PIVOT_COLUMNS:
            raise unknown_column(name, value, PIVOT_COLUMNS)
    if rows == columns:
        raise InvalidInput(f"rows and columns are both {rows!r}; name two different columns.")
    if aggregate not in AGGREGATES:
        raise unknown_column("aggregate", aggregate, AGGREGATES)


def make_pivot(
    ranked: pl.DataFrame, rows: str, columns: str, aggregate: str, metric: str | None = None
) -> Pivot:
    """Turn ranked chains into a table of their score, one row and one column per kind."""
    check_kinds(rows, columns, aggregate)
    named = str(ranked["metric"][0]) if ranked.height else metric or "score"
    ranked = _told_apart(ranked, rows, columns, named)
    scored = ranked.select(pl.col(rows, columns).fill_null(""), pl.col("score").fill_nan(None))
    # A model may be called like the column of the rows; a frame has each name once.
    scored = scored.with_columns(pl.col(columns).replace({rows: f"{rows} "}))
    cells = scored.group_by(rows, columns).agg(_aggregated(aggregate, named).alias("score"))
    wide = cells.pivot(on=columns, index=rows, values="score", aggregate_function="first")
    order = sorted(range(wide.height), key=lambda i: _natural(wide[rows][i]))
    wide = wide.select(rows, *sorted((name for name in wide.columns if name != rows), key=_natural))[order]
    return Pivot(wide, rows, columns, named, aggregate)


def _told_apart(ranked: pl.DataFrame, rows: str, columns: str, metric: str) -> pl.DataFrame:
    """Name in the rows what scores may not be joined over: the data set, the target and its unit."""
    # A warning says where a cell joins chains of other samples or splits.
    unit = (
        pl.when(pl.col("target_unit").is_null()).then(pl.lit("")).otherwise(pl.format(" ({})", "target_unit"))
    )
    if "target" in ranked.columns and metric in WITH_UNIT:
        ranked = ranked.with_columns(about=pl.concat_str(pl.col("target").fill_null("no target"), unit))
    for name, shown in (("about", "target"), ("dataset_name", "dataset_name")):
        if name not in ranked.columns or ranked[name].n_unique() < 2:
            continue
        if shown in (rows, columns):
            ranked = ranked.with_columns(pl.col(name).alias(shown))
        elif shown == "target" or not {"run_id", "run_name"} & {rows, columns}:
            label = pl.when(pl.col(rows).fill_null("") == "").then(pl.lit("raw")).otherwise(pl.col(rows))
            ranked = ranked.with_columns(pl.concat_str(label, pl.lit(" · "), pl.col(name)).alias(rows))
    if {"dataset_hash", "splitter"} <= set(ranked.columns):
        kinds = ranked.group_by(rows, columns).agg(
            pl.col("dataset_hash").n_unique().alias("samples"), pl.col("splitter").n_unique().alias("splits")
        )
        for name, words in (("samples", "samples"), ("splits", "cross-validations")):
            mixed = kinds.filter(pl.col(name) > 1).height
            if mixed:
                warnings.warn(
                    f"{mixed} cells of this pivot join scores of different {words}, which do not compare. Name a data "
                    "set or a run.",
                    UserWarning,
                    stacklevel=3,
                )
    return ranked


def _natural(text: str) -> list[tuple[int, str]]:
    """Order of names with numbers in them: PLS(4) comes before PLS(10)."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _aggregated(aggregate: str, metric: str) -> pl.Expr:
    score = pl.col("score")
    if aggregate == "best":
        if metric == "bias":
            return score.sort_by(score.abs(), nulls_last=True).first()  # near zero is best, on either side
        return score.max() if metric != "score" and higher_is_better(metric) else score.min()
    found: pl.Expr = getattr(score, aggregate)()
    return found


# -- A chain as a tree: its steps, branches, sources, folds and artifacts, in text and in HTML.

_DIGITS = 8


@dataclass
class Node:
    """One line of a tree and what hangs below it."""

    text: str
    below: list[Node] = field(default_factory=list)


def chain_tree(chain: Mapping[str, Any], title: str = "") -> Node:
    r"""Draw a chain, as `get_chain` gives it."""
    root = Node(title or f"chain {chain.get('chain_id') or ''}".strip())
    shared, sources = shared_ids(chain.get("shared_artifacts")), source_map(chain.get("shared_artifacts"))
    models = normalise_folds(chain.get("fold_artifacts"), "fold_artifacts")
    steps = sorted(enumerate(chain["steps"]), key=lambda item: (int(item[1]["step_idx"]), item[0]))
    branches: dict[tuple[int, ...], Node] = {(): root}
    for position, step in steps:
        index = int(step["step_idx"])
        path = tuple(step.get("branch_path") or ())
        node = _step(step, f"steps[{position}]", shared.get(index, ()), sources.get(index))
        if index == int(chain["model_step_idx"]):
            path = path or tuple(chain.get("branch_path") or ())
            node.below += _folds({fold: [_first(ids)] for fold, ids in models.items()})
        _branch(branches, path).below.append(node)
    return root


def _branch(branches: dict[tuple[int, ...], Node], path: tuple[int, ...]) -> Node:
    if path not in branches:
        branches[path] = Node(f"branch {'.'.join(map(str, path))}")
        _branch(branches, path[:-1]).below.append(branches[path])
    return branches[path]


def _step(
    step: Mapping[str, Any],
    where: str,
    shared: Sequence[str],
    sources: Mapping[int, Sequence[str]] | None,
) -> Node:
    kind = str(step.get("operator_type") or "transform")
    name = str(step.get("operator_class") or "").rpartition(".")[2] or kind
    words = [f"{step['step_idx']} {name}"]
    if params := {key: value for key, value in (step.get("params") or {}).items() if value is not None}:
        words[0] += f"({cell_text(params)})"
    if kind not in ("transform", name):
        words.append(f"({kind.replace('_', ' ')})")
    node = Node("")
    by_fold = step_fold_ids(step, where)
    if sources is not None:
        node.below = [Node(f"source {source}{_short(ids)}") for source, ids in sources.items()]
    elif by_fold:
        node.below = _folds(by_fold)
    else:
        words += [_short(step_ids(step, where) or shared).strip()]
    for source in step.get("sources") or ():
        node.below.append(chain_tree(source["chain"], f"{source.get('feature') or 'base'}:"))
    node.text = "  ".join(word for word in words if word)
    return node


def _folds(by_fold: Mapping[str, Sequence[str]]) -> list[Node]:
    found = []
    for fold, ids in by_fold.items():
        number = fold_number(fold)
        found.append(Node(f"{'final' if number is None else f'fold {number}'}{_short(ids)}"))
    return found


def _first(ids: Any) -> str:
    return str(ids[0] if isinstance(ids, list | tuple) else ids)


def _short(ids: Sequence[str]) -> str:
    return "".join(f"  {artifact_id[:_DIGITS]}" for artifact_id in ids)


def tree_lines(node: Node) -> Iterator[str]:
    """Write a tree, one line per node."""
    # These words come from the user who recorded the chain; no control character of theirs may reach a terminal.
    yield printable(node.text)
    for place, child in enumerate(node.below):
        last = place == len(node.below) - 1
        for number, line in enumerate(tree_lines(child)):
            lead = ("└── " if last else "├── ") if number == 0 else ("    " if last else "│   ")
            yield lead + line


def tree_html(node: Node) -> str:
    """Write a tree for a notebook; every text in it is escaped."""
    lines = "\n".join(escape(line) for line in tree_lines(node))
    return f'<pre style="line-height:1.2">{lines}</pre>'


# What `capture_environment` adds to the versions that every run has.
_CAPTURED = ("git-dirty", "seeds", "container", "parameters", "command")
_PARTITIONS = ("train", "val", "test")


@dataclass(frozen=True, eq=False, repr=False)
class ChainView:
    r"""A chain: what it does, how good it is, and what it is made of."""

    chain_id: str
    pipeline_id: str
    run_id: str
    name: str
    run_name: str
    dataset_name: str
    metadata: dict[str, Any]
    wavelengths: NDArray[np.float64] | None
    steps: tuple[dict[str, Any], ...]
    folds: tuple[str, ...]
    artifacts: pl.DataFrame
    metric: str
    scores: dict[str, float]
    n_samples: int
    created_at: datetime
    tree: Node | None = None

    def __repr__(self) -> str:
        label = score_label(self.metric)
        value = self.scores.get("score")
        spread = self.scores.get("score_sd")
        parts = [] if value is None else [f"{label} {value:.4g}"]
        if parts and spread is not None:
            parts[0] += f" (SD over folds {spread:.4g})"
        searched = search_facts(self.metadata)
        if not parts and searched:
            parts.append(f"score of the search {searched['search']}")
        parts += [f"{len(self.folds)} models", f"dataset {self.dataset_name!r}"]
        return f"<Chain {short(self.name, 80)!r}: {', '.join(parts)}; chain_id={self.chain_id!r}>"

    def _repr_html_(self) -> str:
        unit = str(self.metadata.get("target_unit") or "")
        grid = self.wavelengths
        channels = None
        if grid is not None and grid.size:
            text = f"{grid.size}, {grid[0]:g} to {grid[-1]:g} {self.metadata.get('wavelength_unit') or ''}"
            channels = text.strip()
        facts = {
            "chain": self.chain_id,
            "run": self.run_name,
            "dataset": self.dataset_name,
            "target": with_unit(target_words(self.metadata), unit),
            "channels": channels,
            **search_facts(self.metadata),
            "models": ", ".join(self.folds) or "none stored",
            "out-of-fold predictions": self.n_samples or None,
            "recorded": self.created_at,
        }
        names = ("step_idx", "operator_type", "operator_class", "params")
        steps = [[({"operator_type": "transform"} | step).get(name) for name in names] for step in self.steps]
        scores = [(name, self.scores[name]) for name in _SCORES if name in self.scores]
        of_artifacts = self.artifacts.select("artifact_type", "operator_class", "size_bytes", "artifact_id")
        artifacts = [(kind, name, byte_text(n), key[:12]) for kind, name, n, key in of_artifacts.iter_rows()]
        return block(
            self.name,
            field_table(facts),
            table(("step", "type", "operator", "parameters"), steps),
            tree_html(self.tree) if self.tree is not None else "",
            table(("score", "value"), scores) if scores else "",
            table(("artifact", "operator", "size", "id"), artifacts) if artifacts else "",
        )


def target_words(metadata: Mapping[str, Any]) -> str:
    """Return the target of a chain, or the names of several; empty where nothing names it."""
    return str(metadata.get("target") or ", ".join(map(str, metadata.get("target_names") or [])))


def search_facts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Describe what a recorded search says of a chain: its rank, its score and those of the splits."""
    about = metadata.get("search")
    if not isinstance(about, Mapping) or about.get("score") is None:
        return {}
    spread = about.get("score_sd")
    words = f"{about['score']:.4g}" + (f" (SD {spread:.4g})" if spread is not None else "")
    facts = {
        "search": f"{words}, {about.get('scorer')}" + (f"; rank {about['rank']}" if about.get("rank") else "")
    }
    splits = [each for each in about.get("split_scores") or [] if each is not None]
    if splits:
        facts["splits"] = ", ".join(f"{each:.4g}" for each in splits)
    return facts


@dataclass(frozen=True, eq=False, repr=False)
class RunView:
    """A run with its pipelines."""

    run_id: str
    name: str
    status: str
    datasets: tuple[str, ...]
    note: str
    tags: tuple[str, ...]
    environment: dict[str, Any]
    config: Any
    summary: Any
    error: str | None
    created_at: datetime
    completed_at: datetime | None
    pipelines: pl.DataFrame

    def __repr__(self) -> str:
        data = f" on {', '.join(self.datasets)}" if self.datasets else ""
        count = f"{self.pipelines.height} pipeline{'' if self.pipelines.height == 1 else 's'}"
        return f"<Run {short(self.name, 80)!r}: {self.status}, {count}{short(data)}; run_id={self.run_id!r}>"

    def _repr_html_(self) -> str:
        facts = {
            "run": self.run_id,
            "status": self.status,
            "data": ", ".join(self.datasets),
            "tags": ", ".join(self.tags),
            "note": self.note,
            "begun": self.created_at,
            "completed": self.completed_at,
            "summary": self.summary or None,
            "error": self.error.strip().rpartition("\n")[2] if self.error else None,
            "environment": versions_only(self.environment) or None,
            **{name: self.environment.get(name) for name in _CAPTURED},
        }
        columns = ("name", "dataset_name", "status", "metric", "best_val", "best_test", "duration_ms")
        head = ("pipeline", "dataset", "status", "metric", "best val", "best test", "ms")
        rows = self.pipelines.select(columns).iter_rows()
        return block(self.name, field_table(facts), table(head, rows) if self.pipelines.height else "")


def store_html(engine: Engine) -> str:
    """Show a store in a notebook, without waiting."""
    facts: dict[str, object] = {"address" if engine.settings.shared else "folder": engine.place}
    if engine.closed:
        return block("WorkspaceStore", field_table(facts | {"state": "closed"}))
    answered, found = engine.look_up(queries.counts)
    facts["state"] = None if engine.writable else "read-only"
    if answered and found is not None:
        size = byte_text(found.pop("artifact_bytes"))
        facts |= found | {"size of artifacts": size}
    else:
        facts["contents"] = "another process is using the catalog at this moment"
    return block("WorkspaceStore", field_table(facts))


def view_chain(engine: Engine, chain_id: str) -> ChainView:
    """Look at a chain; see `WorkspaceStore.show_chain`."""

    def ask(con: Connection) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], pl.DataFrame]:
        chain = queries.get_chain(con, chain_id)
        if chain is None:
            raise UnknownId("chain", chain_id)
        pipeline = queries.get_pipeline(con, chain["pipeline_id"], []) or {}
        run = queries.get_run(con, pipeline.get("run_id", ""), []) or {}
        ids = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
        return chain, pipeline, run, queries.artifacts_of(con, ids)

    chain, pipeline, run, artifacts = engine.query(ask)
    ranked = top_chains(engine, 1, None, None, None, chain_id=chain_id)
    best = ranked.row(0, named=True) if ranked.height else {}
    model = str(chain["model_class"]).rpartition(".")[2]
    fallback = " > ".join(part for part in (chain["preprocessings"], model) if part)
    return ChainView(
        chain_id=chain_id,
        pipeline_id=chain["pipeline_id"],
        run_id=str(pipeline.get("run_id", "")),
        name=best.get("pipeline") or fallback,
        run_name=str(run.get("name", "")),
        dataset_name=str(pipeline.get("dataset_name", "")),
        metadata=dict(chain["metadata"]),
        wavelengths=chain["wavelengths"],
        steps=tuple(chain["steps"]),
        folds=tuple(str(fold) for fold in chain["fold_artifacts"] or {}),
        artifacts=artifacts,
        metric=best.get("metric", ""),
        scores={name: best[name] for name in _COMPARED if best.get(name) is not None},
        n_samples=best.get("n_samples", 0),
        created_at=chain["created_at"],
        tree=chain_tree(chain, best.get("pipeline") or fallback),
    )


def view_run(engine: Engine, run_id: str) -> RunView:
    """Look at a run; see `WorkspaceStore.show_run`."""

    def ask(con: Connection) -> tuple[dict[str, Any], pl.DataFrame]:
        alive = engine.living_sessions()
        run = queries.get_run(con, run_id, alive)
        if run is None:
            raise UnknownId("run", run_id)
        return run, queries.list_pipelines(con, alive, run_id, None)

    run, pipelines = engine.query(ask)
    same = ("name", "status", "config", "summary", "error", "created_at", "completed_at")
    return RunView(
        run_id=run_id,
        datasets=_names_of_datasets(run),
        note=run["note"] or "",
        tags=tuple(run["tags"]),
        environment=run["environment"] or {},
        pipelines=pipelines,
        **{name: run[name] for name in same},
    )


def chain_predictions(engine: Engine, chain_id: str, partition: str) -> pl.DataFrame:
    """Predictions of one chain per sample a row; see `WorkspaceStore.chain_predictions`."""

    def ask(con: Connection) -> tuple[pl.DataFrame, Any, Any]:
        rows = queries.prediction_rows(con, chain_id, partition)
        chain = queries.get_chain(con, chain_id) if rows.height else None
        arrays = load_arrays(con, rows["prediction_id"].to_list())
        return rows, arrays, (chain or {}).get("metadata", {}).get("classes")

    rows, arrays, classes = engine.query(ask)
    if not rows.height and partition not in _PARTITIONS:
        raise queries.unknown("partition", partition, _PARTITIONS)
    parts = [_table_of(fold, arrays[key], classes) for key, fold in rows.iter_rows() if key in arrays]
    if not parts:
        return pl.DataFrame(
            schema={"sample": pl.Int64, "fold_id": pl.String, "y_true": pl.Float64, "y_pred": pl.Float64}
        )
    if len({part["sample"].dtype for part in parts}) > 1:
        parts = [part.with_columns(pl.col("sample").cast(pl.String)) for part in parts]
    return pl.concat(parts, how="diagonal_relaxed")


def _table_of(fold: str, arrays: dict[str, np.ndarray | None], classes: Any) -> pl.DataFrame:
    columns: dict[str, Any] = {}
    for name in ("y_true", "y_pred", "y_proba"):
        values = arrays[name]
        if values is None:
            continue
        if values.ndim > 1 and (name == "y_proba" or values.shape[1] > 1):
            labels = range(values.shape[1])
            if name == "y_proba" and classes is not None and len(classes) == values.shape[1]:
                labels = classes
            for place, label in enumerate(labels):
                columns[f"{name}_{label}"] = values[:, place]
        else:
            columns[name] = values.reshape(len(values))
    n = len(next(iter(columns.values()), ()))
    samples = arrays["sample_indices"]
    head = {"sample": pl.Series([None] * n, dtype=pl.Int64) if samples is None else samples}
    return pl.DataFrame(head | {"fold_id": pl.Series([fold] * n, dtype=pl.String)} | columns)
