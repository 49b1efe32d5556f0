from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nirs_store.errors import InvalidInput
from nirs_store.recording.steps import preprocessing_text
from nirs_store.screening.preprocessing import NAMES, named_preprocessings, transformers_of


@pytest.mark.parametrize("name", NAMES)
def test_each_name_transforms_spectra(name, spectra):
    X = spectra[0]
    for step in transformers_of(name):
        X = step.fit_transform(X)
    assert X.shape == spectra[0].shape
    assert np.isfinite(X).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("SNV + SG1(11,3)", "SNV > SG(window_length=11, polyorder=3, deriv=1)"),
        ("raw+center", "StandardScaler(with_std=False)"),
        (["msc", StandardScaler()], "MSC > StandardScaler"),
        (make_pipeline(StandardScaler(), "passthrough"), "StandardScaler"),
        (None, ""),
    ],
)
def test_names_transformers_and_pipelines_mix(given, words):
    assert preprocessing_text(tuple(transformers_of(given))) == words


def test_items_are_named_by_what_they_do_or_by_the_key():
    found = named_preprocessings(["raw", "SNV+sg2", StandardScaler()])
    assert list(found) == ["raw", "snv+sg2", "StandardScaler"]
    assert list(named_preprocessings({"mine": "snv"})) == ["mine"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("svn", "Did you mean 'snv'"),
        ("emcs+sg1", "Did you mean 'emsc'"),
        ("sg1(14,2)", "odd window"),
        ("sg2(15,1)", "at least the derivative"),
        ("sg3", "unknown name 'sg3'"),
        (["raw", "RAW"], "given twice"),
        ([], "at least one"),
        (StandardScaler, "transformers"),
        (3, "transformers"),
    ],
)
def test_what_is_not_known_is_refused(given, words):
    with pytest.raises(InvalidInput, match=words.replace("(", r"\(")):
        named_preprocessings(given)


def test_without_chemotools_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "chemotools.scatter", None)
    with pytest.raises(InvalidInput, match="pip install 'chemotools"):
        transformers_of("snv")
    assert transformers_of("autoscale")
    assert transformers_of(FunctionTransformer())
