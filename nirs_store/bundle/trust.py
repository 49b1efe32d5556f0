"""What a skops payload is made of, found out without importing or constructing anything of it.

skops' own audit answers which types a payload names. It reads the payload with few limits, though, and knows
kinds of nodes that call what the payload names. Here the payload is an archive of stored members, its schema is
strict JSON of bounded depth, each array's header fits its length, and only kinds of nodes are known that fitted
estimators are made of.
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import pickletools
import re
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nirs_store.blobs.serializers import always_trusted, configuration_file, is_plain_estimator
from nirs_store.bundle.container import DEFAULT_LIMITS, Limits, check_archive, parse_object, read_npy
from nirs_store.errors import BundleInvalid, UntrustedBundle

__all__ = [
    "Audit",
    "PickleListing",
    "audit_payload",
    "list_pickle",
    "load_payload",
    "merge_listings",
    "refuse_untrusted",
    "untrusted",
]


# -- What a pickle would call, read from its opcodes without running any of them.


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
    """What pickles name.

    Attributes
    ----------
    classes : tuple of str
        Fully qualified names, those outside the usual scientific packages first.
    sklearn_versions : tuple of str
        Versions of scikit-learn that its estimators were pickled with.
    complete : bool
        False when the opcodes could not be followed to the end; there may be more names then.
    """

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
    """List the callables that a pickle or joblib file names, compressed or not; nothing is imported or run.

    Parameters
    ----------
    data : bytes
        The whole file.

    Examples
    --------
    >>> import pickle
    >>> from fractions import Fraction
    >>> list_pickle(pickle.dumps(Fraction(1, 3))).classes
    ('fractions.Fraction',)
    """
    walk = _Walk_pickles()
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


class _Name(str):
    """Stands for a callable, by its full name."""


class _Cut(Exception):
    """The walk cannot go on."""


_MARK = object()


class _Walk_pickles:
    """Follows the opcodes of one file."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.versions: set[str] = set()
        self.complete = True
        self._left = _MAX_OPCODES

    def run(self, file: io.BytesIO, size: int, depth: int = 0) -> None:
        try:
            self._follow(file, size, depth)
        except (_Cut, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError):
            # Whatever made the walk stop, the names found so far stand, and the listing says that it is not
            # whole.
            self.complete = False

    def _follow(self, file: io.BytesIO, size: int, depth: int) -> None:
        stack: list[Any] = []
        memo: dict[int, Any] = {}
        for opcode, arg, _ in pickletools.genops(file):
            self._left -= 1
            if self._left < 0:
                raise _Cut
            name = opcode.name
            if name == "STOP":
                return
            if name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if name == "MEMOIZE" else _number(arg)] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[_number(arg)])
            elif name == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], _Made):
                    stack[-1].state = state
                    if stack[-1].what == _ARRAY:
                        self._skip_array(state, file, size, depth)
            else:
                self._step(name, arg, stack)
        raise _Cut

    def _step(self, name: str, arg: Any, stack: list[Any]) -> None:
        if name in ("PROTO", "FRAME", "READONLY_BUFFER"):
            return
        if name == "MARK":
            stack.append(_MARK)
        elif name in ("GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            stack.append(self._name(name, arg, stack))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if name == "NEWOBJ_EX":
                stack.pop()
            args = stack.pop()
            stack.append(_Made(stack.pop(), args))
        elif name in ("INST", "OBJ"):
            args = _to_mark(stack)
            stack.append(_Made(self._name("GLOBAL", arg, stack) if name == "INST" else args[0], tuple(args)))
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _to_mark(stack)
            self._set_items(stack[-1], items)
        elif name in ("DICT", "LIST", "TUPLE", "FROZENSET"):
            items = _to_mark(stack)
            stack.append(tuple(items) if name == "TUPLE" else {} if name == "DICT" else [])
            if name == "DICT":
                self._set_items(stack[-1], items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPENDS", "ADDITEMS", "POP_MARK"):
            _to_mark(stack)
        elif name in ("APPEND", "POP"):
            stack.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "BINPERSID":
            stack[-1] = None
        else:
            stack.append(_constant(name, arg))

    def _name(self, opcode: str, arg: Any, stack: list[Any]) -> _Name:
        if opcode == "STACK_GLOBAL":
            attribute = stack.pop()
            full = f"{stack.pop()}.{attribute}"
        elif opcode == "GLOBAL":
            full = str(arg).replace(" ", ".")
        else:
            full = f"copyreg extension {arg}"
        self.names.add(full)
        return _Name(full)

    def _set_items(self, target: object, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if key == "_sklearn_version" and isinstance(value, str):
                self.versions.add(value)
            if isinstance(target, dict) and isinstance(key, str):
                target[key] = value

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
    """Give the kind, bytes an element and whether there are objects in it, of a pickled numpy dtype."""
    args: Any = made.args
    match = _DTYPE.fullmatch(args[0])
    if match is None:
        raise _Cut
    kind, number = match[1], int(match[2])
    state: Any = made.state
    flags = state[7] if isinstance(state, tuple) and len(state) > 7 else 0
    return kind, number * 4 if kind == "U" else number, bool(int(flags or 0) & 1)


def _constant(name: str, arg: Any) -> Any:
    if name.startswith("EMPTY_"):
        return {"EMPTY_DICT": {}, "EMPTY_TUPLE": ()}.get(name, [])
    if name in ("NEWTRUE", "NEWFALSE"):
        return name == "NEWTRUE"
    return None if isinstance(arg, bytes | bytearray) else arg


def _number(arg: Any) -> int:
    return int(arg)


def _to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


_SCHEMA = "schema.json"
_FILE = re.compile(r"\d{6}\.(?:npy|bin)")
_NAME = re.compile(r"[A-Za-z_]\w{0,199}(?:\.[A-Za-z_]\w{0,199}){0,20}", re.ASCII)
_DEPTH = 300
_TEXT = 1 << 20
_MOST_JOBS = 64
_READS_FILES = {"NdArrayNode": "npy", "BytesNode": "bin", "BytearrayNode": "bin"}
# Containers and values whose constructor can only be one.
_FIXED = {
    "ListNode": {"builtins.list"},
    "TupleNode": {"builtins.tuple"},
    "SetNode": {"builtins.set"},
    "SliceNode": {"builtins.slice"},
    "BytesNode": {"builtins.bytes"},
    "BytearrayNode": {"builtins.bytearray"},
}
# Each of these names what it makes in __module__ and __class__.
_NAMING = {
    "DictNode",
    "FunctionNode",
    "LossNode",
    "NdArrayNode",
    "ObjectNode",
    "RandomGeneratorNode",
    "RandomStateNode",
    "TreeNode",
    "TypeNode",
}
# Types without behaviour of their own, or only with the one that the node gives them.
_VALUES = {"builtins.dict", "collections.OrderedDict", "numpy.ndarray"}


@dataclass
class Audit:
    """What was found in a payload.

    Attributes
    ----------
    types : set of str
        Fully qualified names of everything that loading would make, but for plain containers.
    refused : set of str
        Kinds of contents that no bundle may hold, with the names they carry.
    """

    types: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


def audit_payload(data: bytes, where: str, limits: Limits = DEFAULT_LIMITS) -> Audit:
    """Read a payload as far as its structure goes.

    Parameters
    ----------
    data : bytes
        The whole payload.
    where : str
        What to call it in messages.
    limits : Limits
        Bounds for the archive that it is.

    Raises
    ------
    BundleInvalid
        It is no skops payload, or one that is damaged or contradicts itself.
    """
    if not data.startswith(b"PK"):
        what = "a pickle" if data[:1] == b"\x80" else "something else"
        raise _invalid(where, f"it is {what} in place of a skops payload")
    members = check_archive(io.BytesIO(data), Path(where), limits, stored_only=True)
    names = set(members.names)
    if _SCHEMA not in names:
        raise _invalid(where, f"it has no {_SCHEMA}")
    schema = parse_object(
        members.read(_SCHEMA, limits.json_bytes * 16), f"{_SCHEMA} of {where}", max_depth=_DEPTH
    )
    _check_protocol(schema, where)
    walk = _Walk(where)
    walk.node(schema)
    if walk.audit.refused:
        return walk.audit  # whoever asked refuses it, whatever else it holds
    if walk.files != names - {_SCHEMA}:
        odd = sorted(walk.files ^ (names - {_SCHEMA}))[0]
        raise _invalid(where, f"its schema and its members do not agree about {odd[:80]!r}")
    for name in sorted(walk.files):
        content = members.read(name)
        if name.endswith(".npy"):
            try:
                read_npy(content)
            except ValueError as exc:
                raise _invalid(where, f"its array {name} cannot be read: {str(exc)[:200]}") from exc
    return walk.audit


def untrusted(types: Iterable[str], trusted: Collection[str] = ()) -> list[str]:
    """List those of some types that need to be trusted by name."""
    from skops.io import _trusted_types as known

    plain = {*known.PRIMITIVE_TYPE_NAMES, *known.CONTAINER_TYPE_NAMES, *known.NUMPY_DTYPE_TYPE_NAMES}
    plain |= {*known.NUMPY_UFUNC_TYPE_NAMES, *known.SCIPY_UFUNC_TYPE_NAMES, *_VALUES}
    estimators = {name for name in known.SKLEARN_ESTIMATOR_TYPE_NAMES if is_plain_estimator(name)}
    rest = set(types) - plain - estimators - set(trusted)
    # Asking what packages are installed takes longest, so it comes last.
    return sorted(rest - always_trusted()) if rest else []


def refuse_untrusted(unknown: Collection[str], where: object) -> None:
    """Raise if there are types that nobody trusts.

    Raises
    ------
    UntrustedBundle
        The message names them and says how one trusts them.
    """
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UntrustedBundle(
            f"{where} holds types that need your trust: {names}. Nothing was loaded. They are not among the "
            "estimators that only do array arithmetic: their contents reach compiled code that does not check "
            "them, or their code is not known here. If you trust who wrote the bundle, pass "
            f"trusted_types={sorted(unknown)!r}, or write them into {configuration_file()}, one a line."
        )


def load_payload(data: bytes, accepted: Collection[str]) -> Any:
    """Load a payload that was audited; `accepted` are the types that it may hold, beyond those skops trusts."""
    import skops.io

    unknown = set(skops.io.get_untrusted_types(data=data))
    # A second opinion: what skops finds must be among what was accepted.
    refuse_untrusted(unknown - set(accepted), "The payload")
    return skops.io.loads(data, trusted=sorted(unknown))


def _check_protocol(schema: dict[str, Any], where: str) -> None:
    from skops.io._protocol import PROTOCOL

    found = schema.get("protocol")
    # An older number would choose older readers, a newer one is not known.
    if isinstance(found, bool) or found != PROTOCOL:
        raise _invalid(
            where, f"it has the skops protocol {str(found)[:40]!r}, read is {PROTOCOL}; install another skops"
        )


class _Walk:
    """Visits every node of a schema once."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._weights: dict[int, int] = {}
        self.audit = Audit()
        self.files: set[str] = set()

    def node(self, node: Any) -> int:
        """Visit a node; give how many nodes it has."""
        if not isinstance(node, dict):
            raise self._bad("a node is not an object")
        loader, name = node.get("__loader__"), self._name(node)
        if not isinstance(loader, str):
            raise self._bad("a node does not say what reads it")
        weight = 1
        if loader == "JsonNode":
            self._json(node)
        elif loader in _FIXED:
            if name not in _FIXED[loader]:
                raise self._bad(f"a {loader} makes a {name}")
            weight += self._file_or_children(node, loader)
        elif loader in _NAMING:
            self.audit.types.add(name)
            weight += self._file_or_children(node, loader)
        else:
            # Methods, partial functions, sparse matrices (archives of their own), and what is not known.
            self.audit.refused.add(f"{name} ({loader[:60]})")
        self._remember(node, weight)
        return weight

    def _remember(self, node: dict[str, Any], weight: int) -> None:
        identity = node.get("__id__")
        if identity is None:
            return
        if isinstance(identity, bool) or not isinstance(identity, int):
            raise self._bad("a node has an id that is no number")
        # skops takes the first node of an id wherever it stands again, so the others must be equal to it: short
        # references to large nodes would make its own audit endless.
        if self._weights.setdefault(identity, weight) != weight:
            raise self._bad("two different nodes have one id")

    def _file_or_children(self, node: dict[str, Any], loader: str) -> int:
        if loader == "SliceNode":
            content = node.get("content")
            if not isinstance(content, dict) or not all(
                value is None or type(value) is int for value in content.values()
            ):
                raise self._bad("a slice is not made of whole numbers")
            return 0
        if loader in _READS_FILES and (loader != "NdArrayNode" or node.get("type") == "numpy"):
            file = node.get("file")
            if (
                not isinstance(file, str)
                or not _FILE.fullmatch(file)
                or not file.endswith(_READS_FILES[loader])
            ):
                raise self._bad(f"it reads from a member called {str(file)[:80]!r}")
            self.files.add(file)
            return 0
        if loader == "DictNode":
            content = node.get("content")
            if not isinstance(content, dict):
                raise self._bad("a dict has no content")
            return self._children(node.get("key_types")) + sum(self.node(child) for child in content.values())
        if loader == "ObjectNode":
            self._attributes(node)
        places = [node.get(key) for key in ("content", "shape")]
        if isinstance(reduced := node.get("__reduce__"), dict):
            places.append(reduced.get("args"))
        return sum(self._children(place) for place in places)

    def _children(self, place: Any) -> int:
        if place is None:
            return 0
        if isinstance(place, list):
            return sum(self.node(child) for child in place)
        if isinstance(place, dict) and "__loader__" not in place:
            return sum(self.node(child) for child in place.values())
        if isinstance(place, dict):
            return self.node(place)
        raise self._bad("a node holds a bare value")

    def _attributes(self, node: dict[str, Any]) -> None:
        """Look at the attributes that reach beyond arithmetic."""
        content = node.get("content")
        held = content.get("content") if isinstance(content, dict) else None
        for key, value in held.items() if isinstance(held, dict) else ():
            if key in ("memory", "n_jobs") and isinstance(value, dict):
                text = value.get("content") if value.get("__loader__") == "JsonNode" else "?"
                small = (
                    isinstance(text, str)
                    and re.fullmatch(r"-?\d{1,3}", text)
                    and abs(int(text)) <= _MOST_JOBS
                )
                if text != "null" and not (key == "n_jobs" and small):
                    raise self._bad(
                        f"it sets {key} to {str(text)[:60]}: a model that travels caches in no folder and starts at "
                        f"most {_MOST_JOBS} processes"
                    )

    def _json(self, node: dict[str, Any]) -> None:
        text = node.get("content")
        if not isinstance(text, str) or len(text) > _TEXT or text[:1] in "[{":
            raise self._bad("a value is not plain")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise self._bad("a value is not JSON") from exc
        if isinstance(value, (list, dict)):
            raise self._bad("a value is not plain")

    def _name(self, node: dict[str, Any]) -> str:
        name = f"{node.get('__module__')}.{node.get('__class__')}"
        if not _NAME.fullmatch(name):
            raise self._bad(f"a type is called {name[:80]!r}")
        return name

    def _bad(self, what: str) -> BundleInvalid:
        return _invalid(self._where, what)


def _invalid(where: str, what: str) -> BundleInvalid:
    return BundleInvalid(
        f"{where} is no acceptable skops payload: {what}. Nothing was loaded; ask for a new export."
    )
