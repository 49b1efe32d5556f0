from __future__ import annotations

import typing

import pytest

from nirs_store import chains
from nirs_store.chains import folds, plan, replay, spectra, trace
from nirs_store.chains import plan as steps
from nirs_store.chains import replay as operators
from nirs_store.chains import trace as builder


def test_every_public_name_is_found_and_nothing_else() -> None:
    for name in chains.__all__:
        assert getattr(chains, name).__name__ == name
    assert set(chains.__all__) <= set(dir(chains))
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = chains.unknown


@pytest.mark.parametrize("module", [builder, folds, operators, plan, replay, spectra, steps, trace])
def test_annotations_resolve_to_real_objects(module: typing.Any) -> None:
    for name in module.__all__:
        found = getattr(module, name)
        if not callable(found) or found is operators.Load or typing.get_origin(found):
            continue
        typing.get_type_hints(found)
        for member in vars(found).values() if isinstance(found, type) else ():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if callable(function):
                typing.get_type_hints(function)
