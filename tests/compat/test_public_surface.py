"""What users import, call and type keeps working: the frozen surface is a part of today's."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.compat.public_surface import surface

FROZEN = [
    json.loads(line) for line in Path(__file__).with_name("public_surface.jsonl").read_text().splitlines()
]


def frozen(part: str) -> dict[str, Any]:
    return dict(row for kind, row in FROZEN if kind == part)


@pytest.fixture(scope="module")
def today() -> dict[str, Any]:
    return surface()


def broken(before: Any, after: Any) -> list[str]:
    """List what a caller of `before` would miss in `after`."""
    if isinstance(before, dict):
        return [
            f"{name}: {why}"
            for name in before
            for why in (broken(before[name], after[name]) if name in after else ["gone"])
        ]
    if before is None or after is None:
        return [] if before == after else ["a method became a property, or the other way round"]
    known = {name: (kind, optional) for name, kind, optional in after}
    # A parameter that has become optional breaks no caller.
    missing = [
        f"parameter {name}"
        for name, kind, optional in before
        if known.get(name, ("", False)) not in {(kind, optional), (kind, True)}
    ]
    order = [name for name, kind, _ in after if kind == "POSITIONAL_OR_KEYWORD"]
    positional = [name for name, kind, _ in before if kind == "POSITIONAL_OR_KEYWORD"]
    if order[: len(positional)] != positional:
        missing.append(f"order {order}")
    return missing + [
        f"new parameter {n} without a default"
        for n, _, optional in after
        if not optional and n not in {b[0] for b in before}
    ]


@pytest.mark.parametrize("part", ["names", "views"])
def test_callers_of_the_frozen_signatures_still_can(today: dict[str, Any], part: str) -> None:
    assert {n: b for n, e in frozen(part).items() if (b := broken({n: e}, today[part]))} == {}


def test_error_classes_codes_and_exit_codes_stay(today: dict[str, Any]) -> None:
    before = frozen("errors")
    assert {name: today["errors"].get(name) for name in before} == before


def test_commands_and_their_options_stay(today: dict[str, Any]) -> None:
    before = frozen("commands")
    assert {
        name: gone
        for name, opts in before.items()
        if (gone := set(opts) - set(today["commands"].get(name, [])))
    } == {}


@pytest.mark.parametrize("shown", [row for part, row in FROZEN if part == "imports"])
def test_an_import_that_the_documents_showed_works(shown: str) -> None:
    module, name = shown.split(":")
    found = import_module(module)
    assert hasattr(found, name) or import_module(f"{module}.{name}")
