"""The table of candidates of a screening."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nirs_store.chains.one_target import one_target
from nirs_store.choosing.components import errors_of_run
from nirs_store.choosing.rules import RULES, Rule, select_components
from nirs_store.display import block, cell_text, escape, printable, short, table, with_unit
from nirs_store.errors import InvalidInput, RecordingWarning, UnknownId
from nirs_store.lazy import polars as pl
from nirs_store.protocol import ReadsRuns
from nirs_store.recording.folds import FINAL
from nirs_store.scores import higher_is_better
from nirs_store.values import one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 10
_CURVES = 8


@dataclass(frozen=True)
class Row:
    """One candidate."""

    rank: int
    preprocessing: str
    model: str
    components: int | None
    value: float
    scores: Mapping[str, Any]
    chain_id: str
    about: dict[str, Any]

    @property
    def kept(self) -> bool:
        """Whether its fitted models are stored."""
        return bool(self.about.get("kept"))


class Board:
    """Candidates of a screening, the best first.

    Attributes
    ----------
    run_id : str
        The run of the screening.
    metric : str
        What the candidates are ranked by; ``rmse`` is the RMSE of the pooled out-of-fold predictions, the RMSECV.
    frame : polars.DataFrame
        ``rank, preprocessing, model, components``, the metric (``rmsecv`` for rmse), ``fold_sd`` (its standard
        deviation over the folds), ``se`` (standard error of the out-of-fold errors of one target), ``bias``, ``r2``,
        ``n``, with a test set ``rmsep`` (of the refit of candidates that are kept; ``test_...`` for another metric),
        ``kept``, ``chain_id``. A classification has no ``se``, ``bias`` and ``r2``. Scores of several targets are
        means over them.
    failed : dict
        What could not be fitted, with the message.
    """

    def __init__(
        self,
        store: ReadsRuns,
        run_id: str,
        metric: str,
        task_type: str,
        rule: Rule,
        failed: Mapping[str, str],
        keeper: Callable[[Row], str],
    ) -> None:
        self._store, self._task, self._rule, self._keeper = store, task_type, rule, keeper
        self.run_id, self.metric, self.failed = run_id, metric, dict(failed)
        self._replaced: dict[str, str] = {}
        self._load()

    def _load(self) -> None:
        chains: dict[str, dict[str, Any]] = {}
        for chain in self._store.get_chains_for_run(self.run_id):
            about = (chain.get("metadata") or {}).get("screening")
            if about is None:
                continue
            known = chains.get(about["candidate"])
            # A crash may leave a candidate twice; the one with models counts.
            if known is None or about["kept"] > known["metadata"]["screening"]["kept"]:
                chains[about["candidate"]] = chain
        sign = -1.0 if higher_is_better(self.metric) else 1.0

        def place(row: Row) -> tuple[float, int]:
            return (np.inf if np.isnan(row.value) else sign * row.value), row.components or 0

        ranked = sorted((_row(chain, self.metric) for chain in chains.values()), key=place)
        self.rows = [replace(row, rank=rank) for rank, row in enumerate(ranked, start=1)]
        facts = chains[self.rows[0].about["candidate"]]["metadata"] if ranked else {}
        self._targets = list(facts.get("target_names") or [])
        self.target = str(facts.get("target") or ", ".join(self._targets))
        self.unit = str(facts.get("target_unit") or "")
        rows = self._store.query_predictions(run_id=self.run_id, partition="test")
        #: What the refits score on a test set, by chain.
        self._tested = {
            str(row["chain_id"]): float(row["test_score"])
            for row in rows.iter_rows(named=True)
            if row["fold_id"] == FINAL and row["test_score"] is not None
        }

    @property
    def frame(self) -> pl.DataFrame:
        """Return the table, one row per candidate."""
        names = ["bias", "r2"] if self._task == "regression" else []
        label = "rmsecv" if self.metric == "rmse" else self.metric
        schema: dict[str, Any] = {"rank": pl.Int64, "preprocessing": pl.String, "model": pl.String}
        schema |= {"components": pl.Int64, label: pl.Float64, "fold_sd": pl.Float64}
        one_target = any(row.about.get("se") is not None for row in self.rows)
        schema |= {"se": pl.Float64} if names and one_target else {}
        schema |= {name: pl.Float64 for name in names if name != label}
        tested = {"rmse": "rmsep"}.get(self.metric, f"test_{self.metric}")
        schema |= {"n": pl.Int64} | ({tested: pl.Float64} if self._tested else {})
        schema |= {"kept": pl.Boolean, "chain_id": pl.String}
        records = [
            {
                **row.scores,
                **row.about,
                "rank": row.rank,
                label: row.value,
                tested: self._tested.get(row.chain_id),
                "kept": row.kept,
                "chain_id": row.chain_id,
            }
            for row in self.rows
        ]
        return pl.DataFrame(
            [{name: record.get(name) for name in schema} for record in records], schema=schema
        )

    def best(self, rule: Rule | None = None, *, target: str | int | None = None) -> str:
        """Return the chain of the best candidate with fitted models; keep it first if necessary.

        Parameters
        ----------
        rule : {"one_se", "randomization", "wold", "min"}, optional
            By default that of the screening. The preprocessing and model with the best score is taken, and of its
            numbers of components the one that the rule chooses (see `nirs_store.choosing.select_components`).
            For a model without components, several targets, or a classification the best score decides.
        target : str or int, optional
            Of several targets the one that counts, by name or from 0: the RMSECV of this target ranks the candidates,
            and the rule reads its errors.

        Returns
        -------
        str
            The chain's id.
        """
        return self.keep(self.choose(rule or self._rule, target=target).chain_id)

    def choose(self, rule: Rule, *, target: str | int | None = None) -> Row:
        """Return the candidate that a rule chooses, for one of several targets if named."""
        one_of("rule", rule, RULES, "")
        if target is None:
            return self._choose(self.rows[0], rule)
        view: ReadsRuns = one_target(self._store, target)
        view.get_chain(self.rows[0].chain_id)  # refuses a target that the candidates do not predict
        errors = errors_of_run(view, self.run_id, [row.chain_id for row in self.rows])
        lowest = min(
            (row for row in self.rows if row.chain_id in errors),
            key=lambda row: (np.mean(errors[row.chain_id].errors ** 2), row.components or 0),
        )
        return self._choose(lowest, rule, view)

    def _choose(self, top: Row, rule: Rule, store: ReadsRuns | None = None) -> Row:
        """Return the candidate that a rule chooses among those with the preprocessing and model of `top`."""
        family = sorted(
            (row for row in self.rows if _family(row) == _family(top) and row.components is not None),
            key=lambda row: row.components or 0,
        )
        if rule == "min" or len(family) < 2 or self._task != "regression":
            return top
        errors = errors_of_run(store or self._store, self.run_id, [row.chain_id for row in family])
        if len(errors) < len(family):
            return top  # several targets: there is not one error per sample
        each = [errors[row.chain_id] for row in family]
        matrix = np.column_stack([each[0].of_the_mean(), *(one.errors for one in each)])
        numbers = [0, *(row.components or 0 for row in family)]
        number, _ = select_components(matrix, numbers, rule, samples=each[0].samples)
        if number == 0:
            warnings.warn(
                f"{top.preprocessing}, {top.model}: by {rule}, no number of components is better than the mean of y; "
                "the smallest is taken.",
                RecordingWarning,
                stacklevel=4,
            )
            return family[0]
        return next(row for row in family if row.components == number)

    def keep(self, candidate: str | int) -> str:
        """Fit a candidate again, store its models, and return the id of its chain; do nothing if it is already kept.

        Parameters
        ----------
        candidate : str or int
            Its chain, or its rank.

        Raises
        ------
        UnknownId
            The board has no such candidate.
        """
        wanted = self._replaced.get(candidate, candidate) if isinstance(candidate, str) else candidate
        row = next((row for row in self.rows if wanted in (row.chain_id, row.rank)), None)
        if row is None:
            raise UnknownId("candidate", str(candidate), f"The board has {len(self.rows)} candidates.")
        if row.kept:
            return row.chain_id
        chain_id = self._keeper(row)
        self._replaced[row.chain_id] = chain_id
        self._load()
        return chain_id

    def plot(self, rule: Rule | None = None) -> Figure:
        """Draw RMSECV against the number of components, one curve per preprocessing; a diamond marks the rule's choice.

        Raises
        ------
        InvalidInput
            No candidate has components, or matplotlib is not installed.
        """
        from nirs_store.plots import rmsecv_vs_components

        curves: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            if row.components is not None:
                curves.setdefault(_family(row), []).append(row)
        if not curves or self._task != "regression":
            raise InvalidInput("Nothing to draw: no candidate is a regression with a number of components.")
        several = len({model for _, model in curves}) > 1
        shown = list(curves)[:_CURVES]
        names = {each: f"{each[0]}, {each[1]}" if several else each[0] for each in shown}
        marks = {names[each]: self._choose(curves[each][0], rule or self._rule).components for each in shown}
        title = f"RMSECV: {self.target}" if self.target else "RMSECV"
        if len(curves) > len(shown):
            title += f" (the best {len(shown)} of {len(curves)})"
        drawn = {
            names[each]: (
                [row.components or 0 for row in curves[each]],
                [row.scores["rmse"] for row in curves[each]],
            )
            for each in shown
        }
        chosen = {name: int(n) for name, n in marks.items() if n is not None}
        return rmsecv_vs_components(drawn, target=self.target, unit=self.unit, title=title, marks=chosen)

    def _heading(self) -> str:
        words = f"{len(self.rows)} candidates"
        if self.target:
            words += f" for {with_unit(self.target, self.unit)}"
            words += ", means of the targets" if len(self._targets) > 1 else ""
        words += f", {sum(row.kept for row in self.rows)} kept; run {self.run_id}"
        return words + (f"; {len(self.failed)} failed" if self.failed else "")

    def _shown(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return the first rows, and some that are kept further down."""
        return pl.concat([found.head(_SHOWN), found[_SHOWN:].filter("kept").head(_SHOWN // 2)])

    def __repr__(self) -> str:
        found = self.frame.drop("chain_id")
        lines = [printable(self._heading()), *text_table(found.columns, self._shown(found).rows())]
        if found.height > _SHOWN:
            lines.append(f"... {found.height} in board.frame")
        lines += [printable(f"failed: {label}: {short(error, 100)}") for label, error in self.failed.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        found = self.frame
        more = f"<p>{found.height} in board.frame</p>" if found.height > _SHOWN else ""
        lost = "".join(
            f"<p>failed: {escape(label)}: {escape(error)}</p>" for label, error in self.failed.items()
        )
        return block(self._heading(), table(found.columns, self._shown(found).iter_rows()), more, lost)


def text_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a table for a terminal; numbers are on the right."""
    cells = [[printable(short(cell_text(value), 40)) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    numbers = [
        all(
            value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            for value in column
        )
        for column in zip(*rows, strict=True)
    ] or [False] * len(head)
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in [list(head), *cells]
    ]


def _family(row: Row) -> tuple[str, str]:
    return row.preprocessing, row.model


def _row(chain: Mapping[str, Any], metric: str) -> Row:
    about, scores = chain["metadata"]["screening"], chain["metadata"]["cross_validation"]
    value = float("nan") if scores[metric] is None else float(scores[metric])
    own = (about["preprocessing"], about["model"], about["components"])
    return Row(0, *own, value, scores, str(chain["chain_id"]), about)
