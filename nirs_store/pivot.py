"""A score by two kinds: preprocessings down, models across, say."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from nirs_store.catalog.prediction_queries import unknown_column
from nirs_store.display import table
from nirs_store.errors import InvalidInput
from nirs_store.lazily import polars as pl
from nirs_store.scores import higher_is_better

__all__ = ["AGGREGATES", "PIVOT_COLUMNS", "Pivot", "check_kinds", "make_pivot"]

PIVOT_COLUMNS = ("preprocessings", "model_class", "model_name", "dataset_name", "run_id", "run_name")
AGGREGATES = ("best", "min", "max", "mean", "median")


@dataclass(frozen=True, eq=False, repr=False)
class Pivot:
    """A table of one score.

    Attributes
    ----------
    frame : polars.DataFrame
        First column: the kinds of `rows`; one column for each kind of `columns`.
    rows, columns, metric : str
        What stands where.

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

    def to_csv(self) -> str:
        """The table as CSV, with all digits."""
        return self.frame.write_csv()

    def to_markdown(self, digits: int = 4) -> str:
        """The table as a Markdown table, with so many significant digits."""
        head, *body = self._cells(digits, _markdown)
        rule = ["---", *["---:"] * (len(head) - 1)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body)) + "\n"

    def to_latex(self, digits: int = 4) -> str:
        """The table as a LaTeX ``tabular`` (needs the package booktabs)."""
        head, *body = self._cells(digits, _latex)
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
        return table(self.frame.columns, self.frame.iter_rows(), caption=self.metric)

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        n_rows, n_columns = self.frame.height, self.frame.width - 1
        return f"Pivot({self.metric!r}: {n_rows} {self.rows} by {n_columns} {self.columns})"

    def _cells(self, digits: int, escape: Callable[[str], str]) -> list[list[str]]:
        body = [
            [
                escape("" if row[0] is None else str(row[0])),
                *("" if v is None else f"{v:.{digits}g}" for v in row[1:]),
            ]
            for row in self.frame.iter_rows()
        ]
        return [[escape(name) for name in self.frame.columns], *body]


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


def _markdown(text: str) -> str:
    return text.translate(_MARKDOWN)


def _latex(text: str) -> str:
    return text.translate(_LATEX)


def check_kinds(rows: str, columns: str, aggregate: str) -> None:
    """Refuse what cannot be a pivot, before anything is asked.

    Raises
    ------
    InvalidInput
        An unknown column or aggregate (the nearest is suggested), or twice the same column.
    """
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
    """Turn ranked chains into a table of their score, a row and a column a kind.

    Parameters
    ----------
    ranked : polars.DataFrame
        As `top_chains` gives it: the kinds, ``metric`` and ``score``.
    rows, columns, aggregate : str
        See `WorkspaceStore.pivot`. Chains without a score count for no aggregate.
    metric : str, optional
        What the score is called when no chain says it.

    Raises
    ------
    InvalidInput
        An unknown column or aggregate; the nearest is suggested.
    """
    check_kinds(rows, columns, aggregate)
    named = str(ranked["metric"][0]) if ranked.height else metric or "score"
    scored = ranked.select(pl.col(rows, columns).fill_null(""), pl.col("score").fill_nan(None))
    # A model may be called like the column of the rows; a frame has each name once.
    scored = scored.with_columns(pl.col(columns).replace({rows: f"{rows} "}))
    cells = scored.group_by(rows, columns).agg(_aggregated(aggregate, named).alias("score"))
    wide = cells.pivot(on=columns, index=rows, values="score", aggregate_function="first")
    order = sorted(range(wide.height), key=lambda i: _natural(wide[rows][i]))
    wide = wide.select(rows, *sorted((name for name in wide.columns if name != rows), key=_natural))[order]
    return Pivot(wide, rows, columns, named)


def _natural(text: str) -> list[tuple[int, str]]:
    """Order of names with numbers in them: PLS(4) stands before PLS(10)."""
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
