"""Formats: what they store, what they refuse, and that the same object gives the same bytes everywhere."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
from importlib.metadata import EntryPoint
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nirs_store.blobs import serializers
from nirs_store.blobs.serializers import (
    Format,
    Serializer,
    available_formats,
    get_serializer,
    register_serializer,
)
from nirs_store.errors import InvalidInput, SerializationError, UnknownFormat

BUILTIN = ["bytes", "cloudpickle", "joblib", "pickle", "skops"]
ROOT = Path(__file__).parents[2]

# What another process does to fit the same pipeline on the same spectra, and to name its blobs.
HASHES = """
import hashlib
import sys
import numpy as np
from sklearn.cross_decomposition import PLSRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from nirs_store.blobs import get_serializer

table = np.loadtxt("nirs_store/data/tecator.csv", delimiter=",", skiprows=1, usecols=range(2, 104))
fitted = make_pipeline(StandardScaler(), PLSRegression(5)).fit(table[:, 2:], table[:, 0])
for name in sys.argv[1:]:
    print(name, hashlib.sha256(get_serializer(name).dumps(fitted)).hexdigest())
"""


@pytest.fixture(scope="module")
def spectra():
    table = np.loadtxt(
        ROOT / "nirs_store" / "data" / "tecator.csv", delimiter=",", skiprows=1, usecols=range(2, 104)
    )
    return table[:, 2:], table[:, 0]


@pytest.fixture(scope="module")
def pipeline(spectra):
    return make_pipeline(StandardScaler(), PLSRegression(5)).fit(*spectra)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(serializers, "_registry", dict(serializers._registry))


class Shouting:
    """A format of somebody else."""

    name = "shouting"
    suffix = "txt"

    def dumps(self, obj):
        return str(obj).upper().encode()

    def loads(self, data):
        return data.decode()


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("this model holds a connection")


def test_all_formats_are_listed():
    assert set(BUILTIN) <= set(available_formats())


@pytest.mark.parametrize("name", ["cloudpickle", "joblib", "pickle", "skops"])
def test_a_fitted_pipeline_comes_back_and_predicts_bitwise_the_same(name, pipeline, spectra):
    fmt = get_serializer(name)
    loaded = fmt.loads(fmt.dumps(pipeline))

    assert np.array_equal(loaded.predict(spectra[0]), pipeline.predict(spectra[0]))


def test_joblib_itself_opens_a_joblib_blob(tmp_path, pipeline, spectra):
    (tmp_path / "x.joblib").write_bytes(get_serializer("joblib").dumps(pipeline))

    loaded = joblib.load(tmp_path / "x.joblib")

    assert np.array_equal(loaded.predict(spectra[0]), pipeline.predict(spectra[0]))


def test_joblib_maps_the_large_arrays_of_a_joblib_blob(tmp_path):
    model = {"large": np.arange(1 << 19, dtype=np.float64), "small": np.ones(3)}
    (tmp_path / "x.joblib").write_bytes(get_serializer("joblib").dumps(model))

    mapped = joblib.load(tmp_path / "x.joblib", mmap_mode="r")
    loaded = get_serializer("joblib").loads((tmp_path / "x.joblib").read_bytes())

    assert isinstance(mapped["large"], np.memmap)
    assert np.array_equal(mapped["large"], model["large"])
    assert np.array_equal(loaded["large"], model["large"])


@pytest.mark.parametrize("compress", [0, 3])
def test_what_joblib_wrote_is_loaded(pipeline, spectra, compress):
    buffer = io.BytesIO()
    joblib.dump(pipeline, buffer, compress=compress)

    loaded = get_serializer("joblib").loads(buffer.getvalue())

    assert np.array_equal(loaded.predict(spectra[0]), pipeline.predict(spectra[0]))


def test_an_array_that_a_file_backs_is_stored_as_an_array(tmp_path):
    backed = np.memmap(tmp_path / "array", dtype=np.float64, mode="w+", shape=(4, 6))
    backed[:] = np.arange(24).reshape(4, 6)
    fmt = get_serializer("joblib")

    loaded = fmt.loads(fmt.dumps({"whole": backed, "part": backed[::2, 1:]}))

    assert type(loaded["whole"]) is type(loaded["part"]) is np.ndarray
    assert np.array_equal(loaded["whole"], backed)
    assert np.array_equal(loaded["part"], backed[::2, 1:])


def test_the_same_fit_gives_the_same_bytes_in_another_process_with_another_hash_seed(pipeline):
    names = ["joblib", "pickle", "cloudpickle", "skops"]
    answer = subprocess.run(
        [sys.executable, "-c", HASHES, *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
    )

    here = [f"{name} {hashlib.sha256(get_serializer(name).dumps(pipeline)).hexdigest()}" for name in names]

    assert answer.stdout.splitlines() == here


def test_lambdas_are_for_cloudpickle(spectra):
    step = FunctionTransformer(lambda values: values * 2)

    with pytest.raises(SerializationError, match="cloudpickle"):
        get_serializer("pickle").dumps(step)
    fmt = get_serializer("cloudpickle")
    assert np.array_equal(fmt.loads(fmt.dumps(step)).transform(spectra[0]), spectra[0] * 2)


@pytest.mark.parametrize("payload", ["é", "é".encode(), bytearray("é".encode()), memoryview("é".encode())])
def test_a_payload_is_stored_as_it_is(payload):
    fmt = get_serializer("bytes")

    assert fmt.dumps(payload) == "é".encode()
    assert fmt.loads("é".encode()) == "é".encode()


def test_only_payloads_are_stored_as_payloads():
    with pytest.raises(SerializationError, match=r"'bytes'.*class int.*joblib"):
        get_serializer("bytes").dumps(3)


@pytest.mark.parametrize("name", ["cloudpickle", "joblib", "pickle"])
@pytest.mark.parametrize("make", [threading.Lock, Unpicklable])
def test_what_cannot_be_stored_is_named_with_its_class_and_format(name, make):
    obj = make()
    with pytest.raises(SerializationError) as caught:
        get_serializer(name).dumps(obj)

    assert repr(name) in str(caught.value)
    assert type(obj).__qualname__ in str(caught.value)
    assert caught.value.__cause__ is not None


def test_bytes_that_are_no_object_are_refused_by_name():
    with pytest.raises(SerializationError, match="5 bytes of format 'joblib'"):
        get_serializer("joblib").loads(b"hello")


@pytest.mark.parametrize("guess", ["joblb", "Joblib", "jobli"])
def test_an_unknown_format_names_the_nearest_and_all(guess):
    with pytest.raises(UnknownFormat, match=r"Did you mean 'joblib'\? Available: bytes, cloudpickle, joblib"):
        get_serializer(guess)


def test_an_unknown_format_without_a_neighbour_guesses_nothing():
    with pytest.raises(UnknownFormat) as caught:
        get_serializer("")

    assert "Did you mean" not in str(caught.value)


@pytest.mark.usefixtures("registry")
def test_a_format_can_be_registered_once_and_replaced_on_demand():
    register_serializer(Shouting())

    assert get_serializer("shouting").dumps("spectra") == b"SPECTRA"
    assert "shouting" in available_formats()
    assert isinstance(get_serializer("shouting"), Serializer)
    with pytest.raises(InvalidInput, match="replace=True"):
        register_serializer(Shouting())
    register_serializer(Format("shouting", "txt", lambda obj: b"other", bytes.decode), replace=True)
    assert get_serializer("shouting").dumps("spectra") == b"other"


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("suffix", ["", "../x", "a.b", "A", "a/b"])
def test_a_format_whose_ending_is_no_file_name_is_refused(suffix):
    with pytest.raises(InvalidInput, match="suffix"):
        register_serializer(Format("mine", suffix, bytes, bytes))


@pytest.mark.usefixtures("registry")
def test_what_is_no_serializer_is_refused():
    with pytest.raises(InvalidInput, match="is not a serializer"):
        register_serializer(object())
    with pytest.raises(InvalidInput, match="name"):
        register_serializer(Format("", "x", bytes, bytes))


def test_a_serializer_that_gives_no_bytes_is_reported():
    with pytest.raises(SerializationError, match="bytes were expected"):
        Format("mine", "x", lambda obj: "text", bytes).dumps(1)


def test_running_out_of_memory_is_not_called_a_matter_of_format():
    def encode(obj):
        raise MemoryError

    with pytest.raises(MemoryError):
        Format("mine", "x", encode, bytes).dumps(1)


@pytest.mark.usefixtures("registry")
def test_an_installed_package_can_bring_a_format(monkeypatch):
    points = [EntryPoint("shouting", f"{__name__}:Shouting", serializers.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(
        serializers, "entry_points", lambda group: points if group == "nirs_store.serializers" else []
    )
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Shouting.__module__])

    assert "shouting" in available_formats()
    assert get_serializer("shouting").dumps("spectra") == b"SPECTRA"


@pytest.mark.usefixtures("registry")
def test_a_broken_plug_in_is_named_and_does_not_disturb_the_others(monkeypatch):
    points = [EntryPoint("broken", "no_such_module_at_all:thing", serializers.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(
        serializers, "entry_points", lambda group: points if group == "nirs_store.serializers" else []
    )

    assert get_serializer("joblib").name == "joblib"
    with pytest.raises(UnknownFormat, match="no_such_module_at_all"):
        get_serializer("broken")


def test_importing_the_blobs_loads_no_heavy_library():
    code = (
        "import sys, nirs_store.blobs; "
        "print([m for m in ('joblib','cloudpickle','skops','sklearn','numpy') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert answer.stdout.strip() == "[]"


class _Own:
    """A class that skops knows nothing of."""


def test_a_forest_may_be_kept_without_pickle_and_an_unknown_class_may_not(spectra):
    X, y = spectra
    forest = RandomForestRegressor(2, max_depth=2, random_state=0).fit(X, y)
    skops = get_serializer("skops")

    np.testing.assert_array_equal(skops.loads(skops.dumps(forest)).predict(X), forest.predict(X))
    forest.note = _Own()
    with pytest.raises(SerializationError, match=r"RandomForestRegressor.*_Own.*joblib"):
        skops.dumps(forest)
