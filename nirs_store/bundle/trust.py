"""What a pickle would call, read from its opcodes without running any of them."""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

_MAX_INFLATED = 64 << 20
_MAX_OPCODES = 500_000
_MAX_NESTED = 20
_ARRAY = "joblib.numpy_pickle.NumpyArrayWrapper"
_DTYPE = re.compile(r"[<>|=]?([a-zA-Z])(\d+)")
_USUAL = re.compile(r"(?:numpy|scipy|sklearn|joblib|chemotools)\.")
_PLUMBING = re.compile(
    r"(?:numpy\.(?:ndarray|dtype|_?core\.multiarray\.(?:scalar|_reconstruct)|_?core\.numeric\._frombuffer)"
    r"|joblib\.numpy_pickle\.NumpyArrayWrapper)"
)


class PickleListing(NamedTuple):
    """What pickles name."""

    classes: tuple[str, ...]
    sklearn_versions: tuple[str, ...]
    complete: bool

    def describe(self, most: int = 12) -> str:
        """Put the names into one line for a message."""
        shown = [name for name in self.classes if not _PLUMBING.fullmatch(name)] or list(self.classes)
        text = ", ".join(shown[:most]) or "nothing that could be read"
        if len(shown) > most:
            text += f" and {len(shown) - most} more"
        return text if self.complete else f"{text}, and perhaps more (not readable to the end)"


def list_pickle(data: bytes) -> PickleListing:
    """List the callables that a pickle or joblib file names, compressed or not; nothing is imported or run."""
    walk = _Walk()
    raw = _inflate(data)
    if raw is None:
        walk.complete = False
    else:
        walk.run(io.BytesIO(raw), len(raw))
    return PickleListing(_sorted(walk.names), tuple(sorted(walk.versions)), walk.complete)


def merge_listings(listings: Iterable[PickleListing]) -> PickleListing:
    """Make one listing of several."""
    every = list(listings)
    return PickleListing(
        _sorted({name for one in every for name in one.classes}),
        tuple(sorted({version for one in every for version in one.sklearn_versions})),
        all(one.complete for one in every),
    )


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (bool(_USUAL.match(name)), name)))


def _inflate(data: bytes) -> bytes | None:
    """Undo joblib's compression, up to a bound; None when it cannot be undone."""
    try:
        if data[:1] == b"\x78":
            return zlib.decompressobj().decompress(data, _MAX_INFLATED)
        if data[:2] == b"\x1f\x8b":
            return zlib.decompressobj(31).decompress(data, _MAX_INFLATED)
        if data[:2] == b"BZ":
            return bz2.BZ2Decompressor().decompress(data, _MAX_INFLATED)
        if data[:2] == b"\x5d\x00" or data[:6] == b"\xfd7zXZ\x00":
            return lzma.LZMADecompressor(memlimit=1 << 28).decompress(data, _MAX_INFLATED)
    except (zlib.error, OSError, EOFError, lzma.LZMAError):
        return None
    return data


class _Made:
    """Stands for whatever calling something would give."""

    def __init__(self, what: object, args: object = None) -> None:
        self.what = what
        self.args = args
        self.state: object = None


class _Cut(Exception):
    """The walk cannot go on."""


_MARK = object()


class _Walk:
    """Follows the opcodes of one file."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.versions: set[str] = set()
        self.complete = True
        self._left = _MAX_OPCODES

    def run(self, file: io.BytesIO, size: int) -> None:
        try:
            self._follow(file, size, 0)
        except (_Cut, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError):
            # Whatever made the walk stop, the names found so far stay, and the listing says that it is not whole.
            self.complete = False

    def _follow(self, file: io.BytesIO, size: int, depth: int) -> None:
        stack: list[Any] = []
        memo: dict[Any, Any] = {}
        for opcode, arg, _ in pickletools.genops(file):
            self._left -= 1
            if self._left < 0:
                raise _Cut
            name = opcode.name
            if name == "STOP":
                return
            if name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if name == "MEMOIZE" else arg] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif name in ("MARK", "DUP"):
                stack.append(_MARK if name == "MARK" else stack[-1])
            else:
                taken = _take(opcode, stack)
                made = self._make(name, arg, taken)
                if opcode.stack_after:
                    stack.append(made)
                if name == "BUILD" and isinstance(made, _Made) and made.what == _ARRAY:
                    self._skip_array(made.state, file, size, depth)
        raise _Cut

    def _make(self, name: str, arg: Any, taken: list[Any]) -> Any:
        """Return what stands for the result of an opcode, made of what it takes from the stack."""
        if name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            full = f"copyreg extension {arg}" if name.startswith("EXT") else str(arg).replace(" ", ".")
            if name == "STACK_GLOBAL":
                full = f"{taken[0]}.{taken[1]}"
            self.names.add(full)
            return _Made(full, tuple(taken)) if name == "INST" else full
        if name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            return _Made(taken[0], taken[1])
        if name == "OBJ":
            return _Made(taken[0], tuple(taken[1:]))
        if "TUPLE" in name:
            return tuple(taken)
        if name in ("DICT", "EMPTY_DICT"):
            return self._set_items({}, taken)
        if name in ("SETITEM", "SETITEMS"):
            return self._set_items(taken[0], taken[1:])
        if name == "BUILD" and isinstance(taken[0], _Made):
            taken[0].state = taken[1]
        if taken:
            return None if name in ("LIST", "FROZENSET", "BINPERSID") else taken[0]
        if name in ("NEWTRUE", "NEWFALSE"):
            return name == "NEWTRUE"
        return None if isinstance(arg, bytes | bytearray) else arg

    def _set_items(self, target: Any, items: list[Any]) -> Any:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if key == "_sklearn_version" and isinstance(value, str):
                self.versions.add(value)
            if isinstance(target, dict) and isinstance(key, str):
                target[key] = value
        return target

    def _skip_array(self, state: Any, file: io.BytesIO, size: int, depth: int) -> None:
        kind, item_bytes, has_objects = _dtype(state["dtype"])
        if kind == "O" or has_objects:
            # The elements are a pickle of their own, written in this place.
            if depth >= _MAX_NESTED:
                raise _Cut
            self._follow(file, size, depth + 1)
            return
        count = item_bytes
        for length in state["shape"]:
            count *= int(length)
        if state.get("numpy_array_alignment_bytes") is not None:
            padding = file.read(1)
            count += padding[0]
        if count < 0 or file.tell() + count > size:
            raise _Cut
        file.seek(count, io.SEEK_CUR)


def _dtype(made: _Made) -> tuple[str, int, bool]:
    """Return the kind, bytes an element and whether there are objects in it, of a pickled numpy dtype."""
    args: Any = made.args
    match = _DTYPE.fullmatch(args[0])
    if match is None:
        raise _Cut
    kind, number = match[1], int(match[2])
    state: Any = made.state
    flags = state[7] if isinstance(state, tuple) and len(state) > 7 else 0
    return kind, number * 4 if kind == "U" else number, bool(int(flags or 0) & 1)


def _take(opcode: pickletools.OpcodeInfo, stack: list[Any]) -> list[Any]:
    """Take from the stack what an opcode does: so many values, and perhaps everything above a mark."""
    before, items = opcode.stack_before, []
    count = len(before)
    if pickletools.markobject in before:
        count = before.index(pickletools.markobject)
        while (item := stack.pop()) is not _MARK:
            items.append(item)
    return [*[stack.pop() for _ in range(count)][::-1], *items[::-1]]
