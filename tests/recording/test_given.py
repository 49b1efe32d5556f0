"""Names for the columns of y, and for the data set: alike for every way to record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sampling import covering
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold

from nirs_store import read_spectra, record_cross_validation, record_search, record_stacking
from nirs_store.datasets import Tecator
from nirs_store.errors import InvalidInput, NirsStoreError, ShapeMismatch

FOLDS = KFold(3)


def cross_validated(store: Any, X: Any, y: Any, **options: Any) -> str:
    return record_cross_validation(store, PLSRegression(3), X, y, cv=FOLDS, **options).chain_id


def screened(store: Any, X: Any, y: Any, **options: Any) -> str:
    return str(store.screen(X, y, components=[2, 3], cv=FOLDS, **options).best())


def searched(store: Any, X: Any, y: Any, **options: Any) -> str:
    search = GridSearchCV(PLSRegression(), {"n_components": [2, 3]}, cv=FOLDS)
    return record_search(store, search, X, y, **options).chain_id


Recorded = Callable[..., str]
RECORDERS = (cross_validated, screened, searched)
WAYS = pytest.mark.parametrize("way", RECORDERS)
MADE = {
    "array": lambda y: y,
    "list": lambda y: y.tolist(),
    "polars": pl.DataFrame,
    "pandas": lambda y: pd.DataFrame(y, columns=["fat", "water"]),
}
NAMED: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "polars": pl.Series,
    "pandas": pd.Index,
}


@pytest.fixture
def two(tecator: Tecator) -> Any:
    return np.column_stack([tecator.fat, tecator.water])[:60]


@pytest.mark.parametrize(
    ("way", "given"),
    covering(RECORDERS, [*((made, "list") for made in MADE), *(("array", n) for n in NAMED)]),
)
def test_each_column_of_y_has_the_name_that_was_given(
    way: Recorded, given: tuple[str, str], workspace: Any, tecator: Tecator, two: Any
) -> None:
    made, named = given
    X, names = tecator.X[:60], NAMED[named](["fat", "water"])
    chain = way(workspace, X, MADE[made](two), dataset_name="meat", target=names, target_unit="%")
    metadata = workspace.get_chain(chain)["metadata"]
    assert metadata["target_names"] == ["fat", "water"]
    assert "target" not in metadata
    predicted = workspace.predict(chain, X[:2], on_outlier="ignore")
    assert predicted["target"].to_list() == ["fat", "water"] * 2


@WAYS
@pytest.mark.parametrize("column", [lambda y: y[:, 0], lambda y: y[:, :1]], ids=["flat", "column"])
def test_one_name_in_a_list_is_the_name(
    way: Recorded, column: Any, workspace: Any, tecator: Tecator, two: Any
) -> None:
    chain = workspace.get_chain(
        way(workspace, tecator.X[:60], column(two), dataset_name="meat", target=["fat"])
    )
    assert chain["metadata"]["target"] == "fat"


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_a_stack_and_readers_take_names_in_every_kind_of_list(
    named: Callable[[list[str]], Any], workspace: Any, tecator: Tecator, two: Any, tmp_path: Any
) -> None:
    X, fat = tecator.X[:60], two[:, 0]
    bases = [cross_validated(workspace, X, fat, dataset_name="meat", target=named(["fat"])) for _ in range(2)]
    stack = record_stacking(workspace, bases, Ridge(), X, fat, target=named(["fat"]))
    assert workspace.get_chain(stack.chain_id)["metadata"]["target"] == "fat"
    runs = workspace.list_runs().height
    with pytest.raises(ShapeMismatch, match="one name per column of y, 1; found 2"):
        record_stacking(workspace, bases, Ridge(), X, fat, target=named(["fat", "water"]))
    assert workspace.list_runs().height == runs
    path = tmp_path / "meat.csv"
    labels = {"id": [f"m{k}" for k in range(60)], "fat": fat, "water": two[:, 1]}
    pl.DataFrame(labels | {f"{900 + k}": X[:, k] for k in range(20)}).write_csv(path)
    read = read_spectra(path, target=named(["fat", "water"]))
    stored = workspace.datasets.add("meat", read) and workspace.datasets.get(
        "meat", target=named(["fat", "water"])
    )
    for each in (read, stored):
        assert each.target == ("fat", "water")
        assert np.array_equal(each.y, two)


MISFITS: tuple[tuple[Any, type[NirsStoreError], str], ...] = (
    (["fat"], ShapeMismatch, "one name per column of y, 2; found 1"),
    (["fat", "water", "protein"], ShapeMismatch, "one name per column of y, 2; found 3"),
    (["fat", "fat"], InvalidInput, "each once"),
    (["fat", " "], InvalidInput, "not empty"),
    (["fat", 2], InvalidInput, "names of columns in a list"),
    (7, InvalidInput, "names of columns in a list"),
    (np.array("fat"), InvalidInput, "names of columns in a list"),
    (np.array([["fat", "water"]]), InvalidInput, "names of columns in a list"),
    ([], InvalidInput, "each once"),
    (["water", "fat"], InvalidInput, "another order"),
)


@pytest.mark.parametrize(("way", "misfit"), covering(RECORDERS, MISFITS))
def test_names_that_do_not_fit_are_refused_and_nothing_is_recorded(
    way: Recorded, misfit: tuple[Any, type[NirsStoreError], str], workspace: Any, tecator: Tecator, two: Any
) -> None:
    target, error, words = misfit
    with pytest.raises(error, match=words):
        way(workspace, tecator.X[:60], MADE["pandas"](two), dataset_name="meat", target=target)
    assert workspace.list_runs().is_empty()


def test_other_names_of_the_columns_are_another_screening(workspace: Any, tecator: Tecator, two: Any) -> None:
    for names in (["fat", "water"], ["oil", "moisture"]):
        chain = screened(workspace, tecator.X[:60], two, dataset_name="meat", target=names)
        assert workspace.get_chain(chain)["metadata"]["target_names"] == names


@WAYS
@pytest.mark.parametrize("name", [None, " ", 5])
def test_arrays_without_the_name_of_a_data_set_are_refused_with_what_to_do(
    way: Recorded, name: Any, workspace: Any, tecator: Tecator
) -> None:
    with pytest.raises(InvalidInput, match="such as dataset_name='corn'"):
        way(workspace, tecator.X[:60], tecator.fat[:60], dataset_name=name)
    assert workspace.list_runs().is_empty()


@WAYS
def test_spectra_and_stored_data_sets_name_their_columns_themselves(
    way: Recorded, workspace: Any, tecator: Tecator, two: Any, tmp_path: Any
) -> None:
    grid = {f"{w:.1f}": tecator.X[:60, k] for k, w in enumerate(tecator.wavelengths[:20])}
    path = tmp_path / "meat.csv"
    pl.DataFrame({"id": [f"m{k}" for k in range(60)], "fat": two[:, 0], "water": two[:, 1]} | grid).write_csv(
        path
    )
    read = read_spectra(path, target=["fat", "water"])
    workspace.datasets.add("meat", read)
    for X, target in ((read, ["fat", "water"]), (read, None), ("meat", ["fat", "water"])):
        metadata = workspace.get_chain(way(workspace, X, None, target=target))["metadata"]
        assert metadata["target_names"] == ["fat", "water"]
    assert (
        workspace.get_chain(way(workspace, "meat", None, target=["water"]))["metadata"]["target"] == "water"
    )
    runs = workspace.list_runs().height
    with pytest.raises(InvalidInput, match=r"were read with \['fat', 'water'\]"):
        way(workspace, read, None, target=["water", "fat"])
    assert workspace.list_runs().height == runs
