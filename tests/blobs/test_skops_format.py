"""skops payloads are the same bytes for the same object, and load only what is trusted."""

from __future__ import annotations

import io
import zipfile
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import scipy.sparse
import skops.io
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import RandomForestRegressor, StackingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import SplineTransformer
from sklearn.svm import SVR

from nirs_store.blobs import trusted
from nirs_store.blobs.serializers import dumps_skops, loads_skops, normalise_skops, untrusted_types
from nirs_store.blobs.trusted import TRUSTED_GROUP, configuration_file
from nirs_store.errors import SerializationError

SPLINE = "scipy.interpolate._bsplines.BSpline"
SPLINES = ["scipy._lib.array_api_compat.numpy._aliases.asarray", SPLINE]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 12))
    return X, X[:, 0] + rng.normal(size=40)


@pytest.mark.parametrize("model", [PLSRegression(3), Ridge(), SVR()], ids=lambda model: type(model).__name__)
def test_two_fits_on_the_same_data_give_the_same_bytes(model, data):
    from sklearn.base import clone

    first, second = clone(model).fit(*data), clone(model).fit(*data)

    assert dumps_skops(first) == dumps_skops(second)
    assert np.array_equal(loads_skops(dumps_skops(first)).predict(data[0]), first.predict(data[0]))


def test_fits_on_other_data_give_other_bytes(data):
    X, y = data

    assert dumps_skops(Ridge().fit(X, y)) != dumps_skops(Ridge().fit(X, y + 1e-12))


def test_classifiers_and_nested_models_come_back(data):
    X, y = data
    classifier = LogisticRegression().fit(X, np.where(y > 0, "high", "low"))
    stack = StackingRegressor([("pls", PLSRegression(2)), ("ridge", Ridge())]).fit(X, y)
    trusted = ["sklearn.utils._bunch.Bunch"]

    assert list(loads_skops(dumps_skops(classifier)).predict(X)) == list(classifier.predict(X))
    assert np.array_equal(loads_skops(dumps_skops(stack, trusted), trusted).predict(X), stack.predict(X))


def test_whether_equal_texts_are_one_object_in_memory_does_not_matter():
    def fresh():
        return "".join(["wave", "length"])

    one = fresh()

    assert dumps_skops([one, one, 1000, 0.5]) == dumps_skops([fresh(), fresh(), int("1000"), float("0.5")])


def test_an_array_that_is_shared_stays_shared_and_two_equal_ones_stay_two():
    shared = np.arange(3.0)
    first, second = (
        loads_skops(dumps_skops([shared, shared])),
        loads_skops(dumps_skops([shared, shared.copy()])),
    )

    assert first[0] is first[1]
    assert second[0] is not second[1]
    assert np.array_equal(second[0], second[1])


def test_sets_give_the_same_bytes_in_any_order_of_insertion():
    numbers = [8, 16, 24, 32, 40]  # these collide, so that the order of a set is that of insertion

    assert list({*numbers}) != list({*reversed(numbers)})
    assert dumps_skops({*numbers}) == dumps_skops({*reversed(numbers)})
    assert loads_skops(dumps_skops({*numbers, "a"})) == {*numbers, "a"}


def test_sets_of_compound_values_give_the_same_bytes_too():
    values = [(number, b"x" * number, (None, "é")) for number in range(6)]

    assert dumps_skops({*values}) == dumps_skops({*reversed(values)})
    assert loads_skops(dumps_skops({*values})) == {*values}


@pytest.mark.parametrize(
    "value",
    [
        {"__id__": 1, "file": "x.npy", "__loader__": "JsonNode", "content": "y"},
        {"a": (1, None, True, 1.5, "é"), 3: [b"bytes", bytearray(b"more")]},
        [],
        "text",
    ],
)
def test_values_that_look_like_the_schema_come_back(value):
    assert loads_skops(dumps_skops(value)) == value
    assert dumps_skops(value) == dumps_skops(value)


def test_sparse_matrices_and_object_arrays_come_back():
    sparse = scipy.sparse.csr_matrix(np.eye(3))
    labels = np.array(["a", None, 3], dtype=object)
    trusted = ["scipy.sparse._csr.csr_matrix"]

    assert (loads_skops(dumps_skops(sparse, trusted), trusted) != sparse).nnz == 0
    assert dumps_skops(sparse, trusted) == dumps_skops(sparse.copy(), trusted)
    assert list(loads_skops(dumps_skops(labels))) == ["a", None, 3]


def test_normalising_again_changes_nothing(data):
    payload = dumps_skops(Ridge().fit(*data))

    assert normalise_skops(payload) == payload


def test_the_payload_shows_neither_time_nor_address(data):
    with zipfile.ZipFile(io.BytesIO(dumps_skops(Ridge().fit(*data)))) as archive:
        members = archive.infolist()

    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
    assert [member.filename for member in members][:2] == ["000001.npy", "000002.npy"]
    assert members[-1].filename == "schema.json"


def test_a_type_that_is_not_trusted_is_neither_stored_nor_loaded(data):
    spline = SplineTransformer(3).fit(data[0])
    payload = dumps_skops(spline, SPLINES)

    assert untrusted_types(payload) == SPLINES
    with pytest.raises(SerializationError, match="could not be loaded"):
        dumps_skops(spline)
    with pytest.raises(SerializationError, match="Nothing of it was loaded"):
        loads_skops(payload)
    assert np.array_equal(loads_skops(payload, SPLINES).transform(data[0]), spline.transform(data[0]))


def test_a_workspace_keeps_forests_in_this_format(data):
    forest = RandomForestRegressor(2, random_state=0).fit(*data)

    assert np.array_equal(loads_skops(dumps_skops(forest)).predict(data[0]), forest.predict(data[0]))


def test_a_payload_written_by_skops_itself_loads_too(data):
    model = Ridge().fit(*data)

    assert np.array_equal(loads_skops(skops.io.dumps(model)).coef_, model.coef_)


@pytest.mark.parametrize("value", [f"{__name__}:SPLINE", f"{__name__}:SPLINES"])
def test_an_installed_package_can_declare_trust(data, monkeypatch, value):
    points = [EntryPoint("mine", value, TRUSTED_GROUP)]
    monkeypatch.setattr(
        trusted, "entry_points", lambda group: points if group == "nirs_store.trusted_types" else []
    )
    payload = dumps_skops(SplineTransformer(3).fit(data[0]), SPLINES)

    assert SPLINE not in untrusted_types(payload)


def test_a_user_can_declare_trust_in_a_file_of_their_own(data, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("APPDATA", str(tmp_path))
    monkeypatch.setattr(trusted.Path, "home", lambda: tmp_path)
    payload = dumps_skops(SplineTransformer(3).fit(data[0]), SPLINES)
    assert untrusted_types(payload) == SPLINES
    file = configuration_file()
    file.parent.mkdir(parents=True)
    file.write_text("# read on a Monday\n" + "\n".join(SPLINES) + "  # both\n", encoding="utf-8")

    assert untrusted_types(payload) == []
