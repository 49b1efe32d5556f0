from __future__ import annotations

import typing

import pytest

from nirs_store import chains
from nirs_store.chains import folds, plan, replay, spectra, trace


def test_every_public_name_is_found_and_nothing_else() -> None:
    for name in chains.__all__:
        assert getattr(chains, name).__name__ == name
    assert set(chains.__all__) <= set(dir(chains))
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = chains.unknown


@pytest.mark.parametrize("module", [folds, plan, replay, spectra, trace])
def test_annotations_resolve_to_real_objects(module: typing.Any) -> None:
    own = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
    assert own
    for found in own:
        if not callable(found) or found is replay.Load or typing.get_origin(found):
            continue
        typing.get_type_hints(found)
        for member in vars(found).values() if isinstance(found, type) else ():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if callable(function):
                typing.get_type_hints(function)
