"""Whatever numpy array goes in comes out with its type, shape and bytes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nirs_store import WorkspaceStore
from nirs_store.db.journal import decode_array, encode_array
from nirs_store.errors import InvalidInput
from tests.model.materials import prediction

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
    hnp.byte_string_dtypes(max_len=8),
    hnp.unicode_string_dtypes(max_len=8),
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=5))
LAYOUTS = st.sampled_from(("as it is", "Fortran", "reversed", "every second", "read-only"))
# A shared fixture is what saves the time here: every example uses ids of its own.
SHARED = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same kind of array, otherwise in memory."""
    if layout == "Fortran":
        return np.asfortranarray(array)
    if layout == "reversed" and array.ndim:
        return array[::-1]
    if layout == "every second" and array.ndim:
        return array[::2]
    if layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
    return array


def same(found: Any, given_: np.ndarray) -> bool:
    return (found.dtype, found.shape, found.tobytes()) == (given_.dtype, given_.shape, given_.tobytes())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path_factory.mktemp("workspace")) as store:
        yield store


@pytest.fixture(scope="module")
def pipeline_id(store: WorkspaceStore) -> str:
    return store.begin_pipeline(store.begin_run("run", {}, []), "pls", {}, [], "corn", "")


@settings(deadline=None, max_examples=150)
@given(ARRAYS, LAYOUTS)
def test_any_array_survives_being_encoded(array: np.ndarray, layout: str) -> None:
    array = laid_out(array, layout)
    row, checked = encode_array(array, "y")
    found = decode_array(*row)
    assert same(found, array)
    assert same(checked, array)
    assert found.flags.writeable


@settings(deadline=None, max_examples=60)
@given(ARRAYS, ARRAYS)
def test_arrays_share_a_row_only_if_they_are_the_same(one: np.ndarray, other: np.ndarray) -> None:
    first, second = encode_array(one, "y")[0], encode_array(other, "y")[0]
    assert (first[0] == second[0]) == same(one, other)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=6), max_size=6))
def test_labels_as_objects_survive_as_text_or_are_refused(labels: list[str]) -> None:
    array = np.array(labels, dtype=object)
    if any(label.endswith("\x00") for label in labels):  # which numpy would take for padding
        with pytest.raises(InvalidInput, match="NUL"):
            encode_array(array, "y")
    else:
        assert decode_array(*encode_array(array, "y")[0]).tolist() == labels


@SHARED
@given(data=st.data())
def test_any_arrays_of_a_prediction_survive_the_store(
    store: WorkspaceStore, pipeline_id: str, data: st.DataObject
) -> None:
    samples = data.draw(st.integers(0, 6))
    rows = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3).map(lambda more: (samples, *more))
    arrays = data.draw(
        st.fixed_dictionaries(
            dict.fromkeys(("y_true", "y_pred"), st.none() | hnp.arrays(DTYPES, rows)),
            optional=dict.fromkeys(
                ("y_proba", "sample_indices", "weights"), st.none() | hnp.arrays(DTYPES, rows)
            ),
        )
    )
    prediction_id = store.save_prediction(**prediction(pipeline_id, None, n_samples=samples))
    store.save_prediction_arrays(prediction_id, **arrays)
    found = store.get_prediction(prediction_id, load_arrays=True)
    assert found is not None
    for name in ("y_true", "y_pred", "y_proba", "sample_indices", "weights"):
        wanted = arrays.get(name)
        assert (found[name] is None) == (wanted is None)
        assert wanted is None or same(found[name], wanted)


@SHARED
@given(
    grid=hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats(allow_nan=False, allow_infinity=False))
)
def test_any_finite_grid_of_a_chain_survives_the_store(
    store: WorkspaceStore, pipeline_id: str, grid: np.ndarray
) -> None:
    artifact_id = store.save_artifact([1.0], "builtins.list", "model")
    steps = [{"step_idx": 1, "operator_class": "builtins.list", "operator_type": "model"}]
    chain_id = store.save_chain(
        pipeline_id, steps, 1, "list", "", "per_fold", {"fold_0": artifact_id}, {}, wavelengths=grid
    )
    chain = store.get_chain(chain_id)
    assert chain is not None
    assert same(chain["wavelengths"], grid)


def test_arrays_that_numpy_can_only_hold_as_objects_are_refused() -> None:
    for value in ([1, "a", None], [{"a": 1}], [b"a", object()]):
        with pytest.raises(ValueError, match="objects of type"):
            encode_array(np.array(value, dtype=object), "y")


def test_equal_bytes_of_other_types_and_shapes_are_other_arrays() -> None:
    zeros = np.zeros(6)
    kinds = (zeros, zeros.reshape(2, 3), zeros.reshape(3, 2), zeros.view(np.int64), zeros.view(">f8"))
    hashes = {encode_array(array, "y")[0][0] for array in kinds}
    assert len(hashes) == len(kinds)
    assert all(len(a) == len(b) == 32 for a, b in itertools.pairwise(sorted(hashes)))
