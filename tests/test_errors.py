"""Errors cross process boundaries: what a worker raises arrives whole."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context

import pytest

from nirs_store import errors

# How those are made that take more than a message; one of each kind, all attributes set.
_MADE: dict[type[errors.NirsStoreError], Callable[[], errors.NirsStoreError]] = {
    errors.UnknownId: lambda: errors.UnknownId("chain", "c1", "Nothing was recorded."),
    errors.ArtifactMissing: lambda: errors.ArtifactMissing("artifact", "a1", "Save it first."),
    errors.UnknownFile: lambda: errors.UnknownFile("grid.csv", "No stored file is called grid.csv."),
    errors.CalibrationNotFound: lambda: errors.CalibrationNotFound("fat@v9", "There is no version v9."),
    errors.UnknownDataset: lambda: errors.UnknownDataset("corn@v9", "The data set 'corn' has no version 9."),
    errors.StoreBusy: lambda: errors.StoreBusy(
        "The catalog is held.", host="here", pid=7, since=datetime(2026, 1, 1, tzinfo=UTC)
    ),
}
_CLASSES = [getattr(errors, name) for name in errors.__all__]


def _make(cls: type[errors.NirsStoreError]) -> errors.NirsStoreError:
    error = _MADE.get(cls, lambda: cls("Expected this, found that."))()
    if isinstance(error, errors.WriteFailed):
        error.errno = errno.ENOSPC
    error.add_note("said by a worker")
    return error


_WAYS: dict[str, Callable[[BaseException], BaseException]] = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "first pickle protocol": lambda error: pickle.loads(pickle.dumps(error, 0)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("cls", _CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("way", _WAYS)
def test_an_error_arrives_with_its_words_and_attributes(cls: type[errors.NirsStoreError], way: str) -> None:
    error = _make(cls)
    found = _WAYS[way](error)
    assert type(found) is cls
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))
    assert getattr(found, "errno", None) == getattr(error, "errno", None)


def _name_an_artifact_that_is_not_there() -> None:
    raise _make(errors.ArtifactMissing)


def test_a_process_pool_survives_an_artifact_that_is_missing() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(errors.ArtifactMissing, match="a1") as raised:
            pool.submit(_name_an_artifact_that_is_not_there).result()
        assert raised.value.identifier == "a1"
        assert pool.submit(int, "3").result() == 3
