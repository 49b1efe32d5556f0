"""Know the code that an object depends on: which of it travels by value, what the rest says, whether it changed.

A pickle names classes and functions and does not hold them. What comes with installed packages has a version;
everything else can be edited between a recording and a replay. This module walks an object as pickle does, so it
meets exactly what loading will look up. It stores

- what no other process can import (``__main__``, a file that was loaded by its path) by value, with cloudpickle;
- of every module outside installed packages a hash of its syntax tree, without comments, layout and docstrings,
  and a hash of the functions that were running, for when the file no longer says what runs.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import io
import pickle
import sys
import threading
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from nirs_store.blobs.modules import State, kind_of, running, source_of, state_of, state_of_file, user_modules
from nirs_store.errors import CodeChanged, CodeChangedWarning, ReplayError

#: The entry of a chain's metadata.
CODE = "code"
# Pinned, because the default of a newer Python would give the same model another name.
PROTOCOL = 5

_MAX_TEXT = 64 * 1024
# A package that is developed in place can be large; the modules nearest to the object come first.
_MAX_MODULES = 100
_SHOWN = 5

# Python told to ignore warnings is told so for noise. That a prediction may be another one is not noise; who knows
# can silence this one by its class.
if "ignore" in sys.warnoptions:
    warnings.simplefilter("default", CodeChangedWarning)
_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


# -- Pickling, with what cannot be imported by value.


class _ByValue(Exception):
    """The object holds something that no other process can import."""


class _Named(pickle.Pickler):
    """Pickles by name, notes the names outside installed packages, and stops at what has none."""

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, protocol=PROTOCOL, **options)
        self.met: dict[str, dict[str, None]] = {}

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | types.FunctionType):
            name = value.__module__
            kind = kind_of(name)
            if kind == "value":
                raise _ByValue
            if kind == "user":
                self.met.setdefault(name, {})[value.__qualname__] = None
        return NotImplemented


@functools.cache
def _by_value_pickler() -> Any:
    import cloudpickle  # type: ignore[import-untyped]

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        """Pickles by value what cannot be imported, and notes it; everything else by name."""

        def __init__(self, file: Any, **options: Any) -> None:
            super().__init__(file, protocol=PROTOCOL, **options)
            self.met: dict[str, dict[str, None]] = {}
            self.values: dict[str, Any] = {}

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, types.ModuleType):
                if kind_of(value.__name__) == "user":
                    self.met.setdefault(value.__name__, {})
                return NotImplemented
            if not isinstance(value, type | types.FunctionType):
                return NotImplemented
            with _unimportable_by_value(value.__module__):
                reduced = super().reducer_override(value)
            if reduced is NotImplemented:
                if kind_of(value.__module__) == "user":
                    self.met.setdefault(value.__module__, {})[value.__qualname__] = None
                return reduced
            if kind_of(value.__module__) != "installed":
                self.values.setdefault(f"{value.__module__}.{value.__qualname__}", value)
            return _untracked(reduced) if isinstance(value, type) else reduced

    return ByValue


def _untracked(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take out the random id by which cloudpickle would find the class of this session again.

    Loading would write the stored methods into that class, which may have been changed since, and cut them off
    from the globals of the notebook. Without it the same class also gives the same bytes in every process.
    """
    make, args, *rest = reduced
    if make.__name__ in ("_make_skeleton_class", "_make_skeleton_enum") and isinstance(args[-2], str):
        args = (*args[:-2], None, args[-1])
    return (make, args, *rest)


_registering = threading.RLock()


@contextmanager
def _unimportable_by_value(name: object) -> Iterator[None]:
    """Have cloudpickle treat a module that only this process knows as it treats ``__main__``."""
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or name == "__main__" or kind_of(name) != "value":
        yield
        return
    import cloudpickle

    with _registering:
        before = name in cloudpickle.list_registry_pickle_by_value()
        if not before:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            if not before:
                cloudpickle.unregister_pickle_by_value(module)


def dump(value: Any, buffer: Any, dispatch: Mapping[Any, Any], *, by_value: bool = False) -> None:
    """Pickle an object into a buffer: by name, or by value where something in it cannot be imported."""
    if not by_value:
        named = _Named(buffer)
        named.dispatch_table = {**copyreg.dispatch_table, **dispatch}
        try:
            named.dump(value)
        except _ByValue:
            buffer.seek(0)
            buffer.truncate()
        else:
            return
    pickler = _by_value_pickler()(buffer)
    pickler.dispatch_table = pickler.dispatch_table.new_child(dict(dispatch))
    pickler.dump(value)


# -- What an object relies on.


@dataclass(frozen=True)
class Reliance:
    """The code outside installed packages that an object needs."""

    modules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.modules or self.values)

    @classmethod
    def joined(cls, parts: Iterable[Reliance]) -> Reliance:
        """Join what several objects rely on."""
        modules: dict[str, dict[str, None]] = {}
        values: dict[str, Any] = {}
        for part in parts:
            for name, used in part.modules.items():
                modules.setdefault(name, {}).update(dict.fromkeys(used))
            values |= part.values
        return cls({name: tuple(used) for name, used in modules.items()}, values)


class _Nowhere(io.RawIOBase):
    def write(self, piece: Any, /) -> int:
        return memoryview(piece).nbytes


def reliance(value: Any) -> Reliance:
    """Find what an object relies on, by pickling it into nothing; arrays are not copied."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return Reliance()
    named = _Named(_Nowhere(), buffer_callback=_leave_out)
    try:
        named.dump(value)
        return Reliance({name: tuple(used) for name, used in named.met.items()})
    except Exception:  # noqa: BLE001
        # It needs more than names, or no pickle holds it, but a format of a plug-in does.
        pickler = _by_value_pickler()(_Nowhere(), buffer_callback=_leave_out)
    try:
        pickler.dump(value)
    except Exception:  # noqa: BLE001
        # What it is made of stays unknown from here on; its class is looked up in any case.
        cls = type(value)
        if kind_of(cls.__module__) == "user":
            pickler.met.setdefault(cls.__module__, {})[cls.__qualname__] = None
    return Reliance({name: tuple(used) for name, used in pickler.met.items()}, pickler.values)


def _leave_out(buffer: pickle.PickleBuffer) -> None:
    """Tell the pickler to keep a large array out of the stream."""


def describe_code(found: Reliance) -> dict[str, Any] | None:
    """Put code into JSON: hashes of every module it leads to, and the source as far as there is room."""
    if not found:
        return None
    room = [_MAX_TEXT]
    by_value = {name: {"text": _fitting(room, source_of(value))} for name, value in found.values.items()}
    modules = {}
    for name in _with_imports(found.modules):
        state = state_of(name)
        modules[name] = {
            "source": state.source,
            "running": state.running,
            "names": list(found.modules.get(name, ())),
            "file": Path(state.file).name,
            "text": _fitting(room, state.text),
        }
    return {"python": _PYTHON, "modules": modules, "by_value": by_value}


def digest(value: Any) -> str | None:
    """Hash the code that an object relies on; empty for installed packages alone, None for what travels by value."""
    found = reliance(value)
    if found.values:
        return None
    states = [(name, state_of(name)) for name in _with_imports(found.modules)]
    text = "\n".join(
        f"{name} {state.source or state.running}" for name, state in sorted(states, key=lambda s: s[0])
    )
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def without_text(code: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description without source: a bundle tells its reader what it needs, not how it is written."""
    return {
        **code,
        **{
            part: {
                name: {k: v for k, v in entry.items() if k != "text"} for name, entry in code[part].items()
            }
            for part in ("modules", "by_value")
        },
    }


def _fitting(room: list[int], text: str | None) -> str | None:
    size = len(text.encode()) if text else 0
    if size > room[0]:
        return None
    room[0] -= size
    return text


def _with_imports(names: Iterable[str]) -> list[str]:
    """List modules with all modules of the user's that they import, the nearest first."""
    found = dict.fromkeys(names)
    for name in (queue := list(found)):
        for other in state_of(name).imports:
            if other not in found and len(found) < _MAX_MODULES:
                found[other] = None
                queue.append(other)
    return list(found)


# -- Comparing.


@dataclass(frozen=True)
class Change:
    """A module whose code is another one than was recorded."""

    module: str
    file: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        what = ", ".join(self.names) or "code that it imports"
        return f"{what} of module {self.module!r} ({self.file or 'which is not here'})"


def changes(code: Mapping[str, Any]) -> list[Change]:
    """List the modules whose code differs from a description; nothing is imported for that."""
    found = []
    for name, entry in code.get("modules", {}).items():
        state = state_of(name) if name in sys.modules else state_of_file(name)
        if state is None or not _same(entry, state):
            found.append(Change(name, state.file if state else "", tuple(entry.get("names") or ())))
    return found


def _same(entry: Mapping[str, Any], state: State) -> bool:
    if entry.get("source") and state.source:
        return bool(entry["source"] == state.source)
    return bool(entry.get("running") == state.running)


def refuse_other_python(code: Any, what: str) -> None:
    """Refuse bytecode of another Python before it is loaded: running it could crash the interpreter."""
    known = _read_description(code)
    recorded = str(known.get("python") or "")
    if known.get("by_value") and recorded != _PYTHON:
        raise ReplayError(
            f"{what} holds code that no module has ({', '.join(list(known['by_value'])[:_SHOWN])}), compiled by Python "
            f"{recorded}; this is Python {_PYTHON}. Nothing was loaded. Replay it with Python {recorded}, or put its "
            "source, which is in the chain's metadata under 'code', into a module and record it again."
        )


def check_code(code: Any, what: str, *, strict: bool = False, stacklevel: int = 3) -> None:
    """Warn if code that a chain uses is not what was recorded with it; its objects are loaded already."""
    found = changes(_read_description(code))
    if not found:
        return
    shown = "; ".join(map(str, found[:_SHOWN])) + ("; ..." if len(found) > _SHOWN else "")
    message = (
        f"{what} was recorded with other code than there is now: {shown}. Its predictions may differ from those "
        "recorded. Bring back the code, or record the chain again."
    )
    if strict:
        raise CodeChanged(message)
    warnings.warn(message, CodeChangedWarning, stacklevel=stacklevel + 1)


def _read_description(code: Any) -> dict[str, Any]:
    """Return a description as far as it is one; a bundle from elsewhere may hold anything."""
    parts = code if isinstance(code, Mapping) else {}
    entries = {
        part: {
            name: entry
            for name, entry in islice(dict(parts.get(part) or {}).items(), _MAX_MODULES)
            if isinstance(entry, Mapping)
        }
        for part in ("modules", "by_value")
        if isinstance(parts.get(part) or {}, Mapping)
    }
    return {"python": parts.get("python"), **entries}


class Held:
    """A loaded object in a cache, with what ran in the modules of the user's that it may use."""

    __slots__ = ("_names", "_ran", "value")

    def __init__(self, value: Any, data: bytes) -> None:
        self.value = value
        self._names = named_in(data)
        self._ran = running(self._names)

    @property
    def is_current(self) -> bool:
        """Whether none of these modules was reloaded or changed since."""
        return not self._names or running(self._names) == self._ran


def named_in(data: bytes) -> list[str]:
    """List the user's modules whose names occur in a stored object: those that it needs, and perhaps others."""
    names = user_modules()
    # Packages first: a program has few of them and many modules, and each search reads the whole object.
    packages = {top for top in {name.partition(".")[0] for name in names} if top.encode() in data}
    return [name for name in names if name.partition(".")[0] in packages and name.encode() in data]


def reliance_of(value: Any, data: bytes) -> Reliance:
    """Find what an object relies on that was stored as these bytes; quick where that is installed packages."""
    return reliance(value) if b"cloudpickle" in data or named_in(data) else Reliance()
