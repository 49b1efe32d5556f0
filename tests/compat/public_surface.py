"""Print the public surface, one JSON row per entry: signatures, documented imports, error codes, commands and their options.

`python tests/compat/public_surface.py > tests/compat/public_surface.jsonl` freezes a new state; do so only to add names.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import click

CHECKOUT = Path(__file__).parents[2]
COMMAND_LINE = "nirs_store.cli._app"
_IMPORT = re.compile(r"^(?:>>> |\.\.\. )?from (nirs_store[\w.]*) import ([\w, ]+)$", re.M)


def parameters(function: Any) -> list[list[Any]]:
    """List a function's parameters as name, kind and whether it may be left out."""
    return [
        [p.name, p.kind.name, p.default is not p.empty or p.kind.name.startswith("VAR_")]
        for p in inspect.signature(function).parameters.values()
    ]


def members(cls: type) -> dict[str, Any]:
    """Map the public attributes of a class to their parameters, or to None for a property."""
    found: dict[str, Any] = {}
    for name in dir(cls):
        if name.startswith("_"):
            continue
        value = inspect.getattr_static(cls, name)
        value = getattr(value, "__func__", value)
        found[name] = parameters(value) if inspect.isfunction(value) else None
    return found


def documented_imports() -> list[str]:
    """List `module:name` of every import that the README and the pages of docs/ show."""
    pages = [
        CHECKOUT / "README.md",
        *sorted((CHECKOUT / "docs").rglob("*.md")),
        *sorted((CHECKOUT / "docs").rglob("*.ipynb")),
    ]
    shown = set()
    for page in pages:
        text = page.read_text(encoding="utf-8").replace('\\n",', "").replace('    "', "")
        for module, names in _IMPORT.findall(text):
            shown |= {f"{module}:{name.strip()}" for name in names.split(",")}
    return sorted(shown)


def commands(command: click.Command, path: str = "") -> dict[str, list[str]]:
    """Map each command to its options and arguments."""
    found = {
        path.strip(): sorted(
            o
            for p in command.params
            for o in ([*p.opts, *p.secondary_opts] if p.param_type_name == "option" else [p.name or ""])
        )
    }
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                found |= commands(child, f"{path} {name}")
    return found


def surface() -> dict[str, Any]:
    """Collect the public surface of the installed package."""
    import nirs_store
    from nirs_store import errors

    names = {}
    for name in nirs_store.__all__:
        value = getattr(nirs_store, name)
        if inspect.isclass(value):
            names[name] = members(value)
        elif callable(value):
            names[name] = parameters(value)
    views = {}
    with tempfile.TemporaryDirectory() as folder, nirs_store.WorkspaceStore(Path(folder) / "ws") as store:
        for name in dir(store):
            if not name.startswith("_") and type(getattr(store, name)).__module__.startswith("nirs_store"):
                views[name] = members(type(getattr(store, name)))
    codes = {
        name: [
            cls.code,
            cls.exit_code,
            sorted(base.__name__ for base in cls.__mro__ if base.__module__ == "builtins"),
        ]
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, errors.NirsStoreError)
    }
    command = import_module(COMMAND_LINE).app
    return {
        "names": names,
        "views": views,
        "errors": codes,
        "imports": documented_imports(),
        "commands": commands(command),
    }


if __name__ == "__main__":
    for part, entries in surface().items():
        rows = (
            entries
            if isinstance(entries, list)
            else [[name, entry] for name, entry in sorted(entries.items())]
        )
        for row in rows:
            print(json.dumps([part, row]))
