"""Scores by two kinds, as a frame, Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from nirs_store.errors import InvalidInput
from nirs_store.records.views import Pivot, make_pivot

NASTY = "<script>alert('x')</script> & a|b_c\\d\ne"


def ranked(*rows: tuple[str | None, str | None, float | None], metric: str = "rmse") -> pl.DataFrame:
    schema = {"preprocessings": pl.String, "model_class": pl.String, "score": pl.Float64}
    return pl.DataFrame(list(rows), schema=schema, orient="row").with_columns(metric=pl.lit(metric))


def pivot(*rows: Any, aggregate: str = "best", metric: str = "rmse") -> Pivot:
    return make_pivot(ranked(*rows, metric=metric), "preprocessings", "model_class", aggregate)


def test_a_row_a_preprocessing_and_a_column_a_model_both_in_order() -> None:
    table = pivot(("SNV", "SVR", 3.0), ("MSC", "PLS", 1.0), ("SNV", "PLS", 2.0))
    assert table.frame.columns == ["preprocessings", "PLS", "SVR"]
    assert table.frame.rows() == [("MSC", 1.0, None), ("SNV", 2.0, 3.0)]
    assert repr(table) == "Pivot('rmse': 2 preprocessings by 2 model_class)"


@pytest.mark.parametrize(
    ("aggregate", "metric", "expected"),
    [
        ("best", "rmse", 1.0),
        ("best", "r2", 6.0),
        ("min", "r2", 1.0),
        ("max", "rmse", 6.0),
        ("mean", "rmse", 3.0),
        ("median", "rmse", 2.0),
    ],
)
def test_chains_of_one_cell_are_aggregated(aggregate: str, metric: str, expected: float) -> None:
    values = (1.0, 2.0, 6.0, float("nan"), None)
    table = pivot(*(("SNV", "PLS", value) for value in values), aggregate=aggregate, metric=metric)
    assert table.frame["PLS"].to_list() == [expected]


def test_the_best_bias_is_the_one_nearest_zero() -> None:
    table = pivot(*(("SNV", "PLS", value) for value in (None, -3.0, 0.5, 2.0)), metric="bias")
    assert table.frame["PLS"].to_list() == [0.5]


def test_names_stand_in_the_order_of_their_numbers() -> None:
    models = ("PLS(10)", "PLS(4)", "Ridge(alpha=0.5)", "PLS", "12", "²")
    table = pivot(*((f"SG(window={n})", model, 1.0) for n in (11, 5) for model in models))
    assert table.frame.columns[1:] == ["12", "PLS", "PLS(4)", "PLS(10)", "Ridge(alpha=0.5)", "²"]
    assert table.frame["preprocessings"].to_list() == ["SG(window=5)", "SG(window=11)"]


def test_a_cell_without_a_score_is_empty() -> None:
    assert pivot(("SNV", "PLS", None)).frame["PLS"].to_list() == [None]
    assert "| SNV |  |" in pivot(("SNV", "PLS", float("nan"))).to_markdown()


def test_nothing_ranked_gives_a_table_without_rows() -> None:
    empty = make_pivot(ranked(), "preprocessings", "model_class", "best", "r2")
    assert (empty.frame.height, empty.frame.columns, empty.metric) == (0, ["preprocessings"], "r2")
    assert empty.to_csv() == "preprocessings\n"
    assert empty.to_markdown() == "| preprocessings |\n| --- |\n"
    assert "<table>" in empty._repr_html_()


def test_csv_has_all_digits_and_markdown_and_latex_are_rounded() -> None:
    table = pivot(("SNV > SG(deriv=1)", "PLS", 2.3456789))
    assert table.to_csv() == "preprocessings,PLS\nSNV > SG(deriv=1),2.3456789\n"
    assert table.to_markdown() == str(table)
    assert "| SNV > SG(deriv=1) | 2.346 |" in table.to_markdown()
    assert "| 2.35 |" in table.to_markdown(digits=3)
    assert table.to_latex(digits=2) == (
        "\\begin{tabular}{lr}\n\\toprule\npreprocessings & PLS \\\\\n\\midrule\n"
        "SNV \\textgreater{} SG(deriv=1) & 2.3 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_no_name_breaks_out_of_its_cell() -> None:
    table = pivot((NASTY, "PLS_&%", 1.0))
    page = table._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; a|b_c" in page
    markdown = table.to_markdown().splitlines()
    assert len(markdown) == 3
    assert markdown[2] == "| &lt;script>alert('x')&lt;/script> & a\\|b_c\\\\d e | 1 |"
    latex = table.to_latex()
    assert "\\& a\\textbar{}b\\_c\\textbackslash{}d e & 1 \\\\" in latex
    assert "PLS\\_\\&\\%" in latex


def test_a_model_may_be_named_like_the_column_of_the_rows() -> None:
    table = pivot(("SNV", "preprocessings", 1.0), (None, None, 2.0))
    assert table.frame.columns == ["preprocessings", "", "preprocessings "]
    assert table.frame.rows() == [("", 2.0, None), ("SNV", None, 1.0)]


@pytest.mark.parametrize(
    ("rows", "columns", "aggregate", "message"),
    [
        ("preprocessing", "model_class", "best", "Did you mean 'preprocessings'"),
        ("preprocessings", "model_clas", "best", "Did you mean 'model_class'"),
        ("model_class", "model_class", "best", "two different columns"),
        ("preprocessings", "model_class", "bst", "Did you mean 'best'"),
    ],
)
def test_what_cannot_be_a_pivot_is_refused(rows: str, columns: str, aggregate: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make_pivot(ranked(), rows, columns, aggregate)
