"""Wavelengths as people and instruments write them: the right spectra are read, the wrong ones are refused in words."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sampling import covering
from sklearn.cross_decomposition import PLSRegression

from nirs_store import WorkspaceStore, load_bundle, record_cross_validation
from nirs_store.errors import InvalidInput, RecordingWarning, ShapeMismatch

NM = np.linspace(1100.0, 2490.0, 40)
CM = np.round(1e7 / NM, 2)
X = np.cumsum(np.random.default_rng(0).normal(size=(30, 40)), axis=1)
Y = X[:, 5] - X[:, 30]


def thousands(value: float, point: str, group: str) -> str:
    whole, fraction = f"{value:,.2f}".split(".")
    return whole.replace(",", group) + point + fraction


FORMS: dict[str, Callable[[float], str]] = {
    "decimal comma": lambda w: f"{w:.2f}".replace(".", ","),
    "R": lambda w: f"X{w:.2f}",
    "R with comma": lambda w: f"X{w:.2f}".replace(".", ","),
    "R with unit": lambda w: f"X{w:.2f}.cm.1",
    "unit": lambda w: f"{w:.2f} cm-1",
    "unit in TeX": lambda w: f"{w:.2f} cm^{{-1}}",
    "unit in brackets": lambda w: f"{w:.2f} (cm⁻¹)",
    "German thousands": lambda w: thousands(w, ",", "."),
    "French thousands": lambda w: thousands(w, ",", "\u202f"),
    "English thousands": lambda w: thousands(w, ".", ","),
    "word before": lambda w: f"band_{w:.2f}",
    "words around": lambda w: f"R({w:.2f})",
}
TABLES: dict[str, Callable[[Any, list[str]], Any]] = {
    "polars": lambda X, names: pl.DataFrame(X, schema=names),
    "pandas": lambda X, names: pd.DataFrame(X, columns=names),
    "pandas, two levels": lambda X, names: pd.DataFrame(
        X, columns=pd.MultiIndex.from_product([["NIR"], names])
    ),
    "pyarrow": lambda X, names: pa.table(dict(zip(names, X.T, strict=True))),
}


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Every way to predict with one chain that knows its wavenumbers."""
    folder = tmp_path_factory.mktemp("grids")
    with WorkspaceStore(folder / "ws") as store:
        made = record_cross_validation(
            store, PLSRegression(4), X, Y, cv=3, dataset_name="d", wavelengths=CM, wavelength_unit="1/cm"
        )
        chain = store.get_chain(made.chain_id)
        assert chain is not None
        assert chain["metadata"]["wavelength_unit"] == "cm-1"
        bundle = load_bundle(store.export_chain(made.chain_id, folder / "b.n4a", safe=True))

        def replay(X: Any, wavelengths: Any = None) -> Any:
            return store.replay_chain(made.chain_id, X, wavelengths=wavelengths)

        script = store.export_chain(made.chain_id, folder / "s", format="n4a.py")
        yield [
            replay,
            store.predictor(made.chain_id).predict,
            bundle.predict,
            runpy.run_path(str(script))["predict"],
        ]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("form", FORMS)
def test_headers_are_read_and_never_ignored(form: str, table: str, ways: list[Any]) -> None:
    names = [FORMS[form](each) for each in CM]
    make, shuffled = TABLES[table], np.random.default_rng(1).permutation(40)
    for predict in ways:
        np.testing.assert_array_equal(predict(make(X[:3], names)), predict(X[:3]))
        with pytest.raises(ValueError, match=r"another order\. Reverse the channels"):
            predict(make(X[:3, ::-1], names[::-1]))
        with pytest.raises(ValueError, match=r"another order\. Put the channels in the order"):
            predict(make(X[:3, shuffled], [names[each] for each in shuffled]))
        with pytest.raises(ValueError, match="40 channels"):
            predict(make(X[:3, 1:], names[1:]))
    if not form.startswith("word"):
        texts = np.array(names) if table == "polars" else names
        for predict in ways:
            with pytest.raises(ValueError, match=r"sample"):
                predict(make(np.c_[X[:3, :1], X[:3]], ["sample", *names]))
            np.testing.assert_array_equal(predict(X[:3], texts), predict(X[:3]))


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (NM, r"another unit.*1e7 / wavelengths"),
        (NM[::-1], r"another unit.*1e7 / wavelengths.*reverse"),
        (NM / 1000, r"another unit.*1e4 / wavelengths"),
        (
            [f"{each:.0f} nm" for each in NM],
            r"in nm, those of the calibration are in cm-1.*1e7 / wavelengths",
        ),
        ([f"{each / 1000:.4f} µm" for each in NM], r"in nm, those of the calibration are in cm-1"),
        (CM + 3.0, r"channel \d+ is at [\d.]+, expected [\d.]+\. Resample"),
        (np.r_[CM[:-1], CM[-2]], r"channel 39 is at .*Resample"),
    ],
)
def test_another_unit_is_recognised(grid: Any, words: str, ways: list[Any]) -> None:
    for predict in ways:
        with pytest.raises(ValueError, match=words):
            predict(X[:3], grid)
    if isinstance(grid, list):
        with pytest.raises(ValueError, match=words):
            ways[0](pl.DataFrame(X[:3], schema=grid))


@pytest.mark.parametrize("name", ["scan1_{:.2f}", "band {:.2f} of 40", "{:.2f}|mean"])
def test_names_of_other_words_are_searched_for_wavelengths(name: str, ways: list[Any]) -> None:
    for predict in ways:
        frame = pd.DataFrame(X[:3], columns=[name.format(each) for each in CM])
        np.testing.assert_array_equal(predict(frame), predict(X[:3]))
        with pytest.raises(ValueError, match="Reverse the channels"):
            predict(frame[frame.columns[::-1]])
        with pytest.raises(ValueError, match=r"another unit.*1e7"):
            predict(frame.set_axis([name.format(each) for each in NM], axis=1))
        two = frame.set_axis(pd.MultiIndex.from_product([["nir"], frame.columns[::-1]]), axis=1)
        with pytest.raises(ValueError, match="Reverse the channels"):
            predict(two)
        np.testing.assert_array_equal(
            predict(frame.set_axis([f"ch{k}" for k in range(100, 140)], axis=1)), predict(X[:3])
        )


def test_resampling_does_not_mix_units(ways: list[Any]) -> None:
    with pytest.raises(ValueError, match="1e7 / wavelengths"):
        ways[1](X[:3], NM, resample=True)
    wide = pl.DataFrame(np.ones((2, 9)), schema=[f"{each} nm" for each in range(1000, 10000, 1000)])
    with pytest.raises(ValueError, match="in nm, those of the calibration are in cm-1"):
        ways[1](wide, resample=True)


# -- What is recorded.


def recorded(store: WorkspaceStore, X: Any, **options: Any) -> dict[str, Any]:
    made = record_cross_validation(store, PLSRegression(2), X, Y, cv=3, dataset_name="d", **options)
    chain = store.get_chain(made.chain_id)
    assert chain is not None
    return chain


@pytest.mark.parametrize(("form", "table"), covering(FORMS, TABLES))
def test_a_header_gives_the_grid_the_unit_and_its_names(form: str, table: str, tmp_path: Path) -> None:
    names = [FORMS[form](each) for each in CM]
    with WorkspaceStore(tmp_path / "ws") as store:
        chain = recorded(store, TABLES[table](X, names))
        assert chain["metadata"]["calibration_columns"] == names
        assert store.predictor(chain["chain_id"]).feature_names_in_.tolist() == names
        if form.startswith("word"):
            assert chain["wavelengths"] is None
            return
        np.testing.assert_allclose(chain["wavelengths"], CM)
        assert chain["metadata"].get("wavelength_unit") == ("cm-1" if "unit" in form else None)
        plain = pl.DataFrame(X[:3], schema=[f"{each:.2f}" for each in CM])
        np.testing.assert_array_equal(
            store.replay_chain(chain["chain_id"], plain), store.replay_chain(chain["chain_id"], X[:3])
        )


@pytest.mark.parametrize(
    "names", [[f"x{k}" for k in range(40)], [f"X{k + 90}" for k in range(40)], list("ab" * 20)]
)
def test_names_that_only_count_are_no_wavelengths(names: list[str], tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "ws") as store:
        chain = recorded(store, pd.DataFrame(X, columns=names))
        assert chain["wavelengths"] is None
        assert chain["metadata"]["calibration_columns"] == names
        script = store.export_chain(chain["chain_id"], tmp_path / "s", format="n4a.py")
        for predict in (store.predictor(chain["chain_id"]).predict, runpy.run_path(str(script))["predict"]):
            np.testing.assert_array_equal(
                predict(pd.DataFrame(X, columns=names)), store.replay_chain(chain["chain_id"], X)
            )
            with pytest.raises(
                ValueError, match="another order" if names[0] != "a" else "columns of X are not"
            ):
                predict(pd.DataFrame(X, columns=names[::-1]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wavelength_unit": "THz"}, "wavelength_unit: expected nm, cm-1 or um.*'THz'"),
        ({"wavelengths": [f"{each:.2f} nm" for each in NM], "wavelength_unit": "cm-1"}, "in nm.*1e7"),
        (
            {"wavelengths": [f"{NM[0]:.2f} nm", *(f"{each:.2f} cm-1" for each in CM[1:])]},
            "in nm and others in cm-1",
        ),
        ({"wavelengths": ["a"] * 40}, "wavelengths must hold numbers"),
    ],
)
def test_units_that_contradict_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "ws") as store:
        with pytest.raises(InvalidInput, match=words):
            recorded(store, X, **options)
        assert len(store.list_runs()) == 0


def test_wavelengths_may_be_text_and_micrometres(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "ws") as store:
        chain = recorded(store, X, wavelengths=[f"{each:.2f} cm-1" for each in CM])
        np.testing.assert_allclose(chain["wavelengths"], CM)
        assert chain["metadata"]["wavelength_unit"] == "cm-1"
        chain = recorded(store, X, wavelengths=NM / 1000, wavelength_unit="µm")
        assert chain["metadata"]["wavelength_unit"] == "um"
        frame = pl.DataFrame(X[:3], schema=[f"{each / 1000:.6f} µm" for each in NM])
        np.testing.assert_array_equal(
            store.replay_chain(chain["chain_id"], frame), store.replay_chain(chain["chain_id"], X[:3])
        )
        with pytest.raises(ShapeMismatch, match=r"1000"):
            store.replay_chain(chain["chain_id"], X[:3], wavelengths=NM)
        with pytest.warns(RecordingWarning, match="beyond the near infrared"):
            recorded(store, X, wavelengths=CM, wavelength_unit="nm")
