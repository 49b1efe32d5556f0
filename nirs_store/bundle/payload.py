"""What a skops payload is made of, found out without importing or constructing anything of it.

skops' own audit answers which types a payload names. It reads the payload with few limits, though, knows kinds of
nodes that call what the payload names, and does not look at what is where. Here the payload is an archive of stored
members, its schema is strict JSON of bounded depth, each array's header fits its length, only kinds of nodes are known
that fitted estimators are made of, and each attribute holds what the list of `positions` says.
"""

from __future__ import annotations

import copy
import io
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.blobs.serializers import normalise_skops
from nirs_store.blobs.trusted import always_trusted, configuration_file, is_plain_estimator
from nirs_store.bundle.container import DEFAULT_LIMITS, Limits, check_archive, parse_object, read_npy
from nirs_store.bundle.positions import (
    FUNCTIONS,
    LOSSES,
    MOST_JOBS,
    RANDOM_STATES,
    SCALARS,
    SCORES,
    TRIPLET,
    TYPES,
    Arrays,
    contradiction,
    fits,
    is_accepted,
    is_part,
    kinds_of,
    name_of,
)
from nirs_store.errors import BundleInvalid, SerializationError, UntrustedBundle
from nirs_store.ids import sha256_hex

_SCHEMA = "schema.json"
_FILE = re.compile(r"\d{6}\.(?:npy|bin)")
_NAME = re.compile(r"[A-Za-z_]\w{0,199}(?:\.[A-Za-z_]\w{0,199}){0,20}", re.ASCII)
_DEPTH = 300
_TEXT = 1 << 20
_BUNCH = "sklearn.utils._bunch.Bunch"
_TREE = "sklearn.tree._tree.Tree"
_GENERATOR = "numpy.random._generator.Generator"
# Kinds of nodes that can make one thing only, and what that is.
_FIXED: dict[str, frozenset[str]] = {
    "JsonNode": frozenset({"builtins.str"}),
    "ListNode": frozenset({"builtins.list"}),
    "TupleNode": frozenset({"builtins.tuple", TRIPLET}),
    "SetNode": frozenset({"builtins.set"}),
    "SliceNode": frozenset({"builtins.slice"}),
    "BytesNode": frozenset({"builtins.bytes"}),
    "BytearrayNode": frozenset({"builtins.bytearray"}),
    "DictNode": frozenset({"builtins.dict", "collections.OrderedDict", _BUNCH}),
    "DTypeNode": frozenset({"numpy.dtype"}),
    "NdArrayNode": SCALARS | {"numpy.ndarray", "numpy.str_"},
    "RandomStateNode": RANDOM_STATES,
    "LossNode": LOSSES,
}
# What of these needs no word; everything else that they name does.
_KNOWN: dict[str, frozenset[str]] = {
    "FunctionNode": FUNCTIONS | SCORES,
    "TypeNode": TYPES | {"builtins.str", "builtins.bool", "numpy.str_"},
    "TreeNode": frozenset(),
    "RandomGeneratorNode": frozenset(),
    "ObjectNode": frozenset(),
}
_FILES = {"BytesNode": ".bin", "BytearrayNode": ".bin"}
# Compiled code reads what these hold, wherever they stand.
_STRICT = {"RandomStateNode": "random", "LossNode": "loss", "DTypeNode": "dtype"}
_KEYS = frozenset({"builtins.str", "builtins.int", "builtins.float", "builtins.bool", "numpy.str_"}) | SCALARS


@dataclass
class Audit:
    """The findings about a payload."""

    types: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


def audit_payload(data: bytes, where: str, limits: Limits = DEFAULT_LIMITS) -> Audit:
    """Read a payload as far as its structure goes."""
    if not data.startswith(b"PK"):
        what = "a pickle" if data[:1] == b"\x80" else "something else"
        raise _invalid(where, f"it is {what} in place of a skops payload")
    members = check_archive(io.BytesIO(data), Path(where), limits, stored_only=True)
    names = set(members.names)
    if _SCHEMA not in names:
        raise _invalid(where, f"it has no {_SCHEMA}")
    schema = parse_object(
        members.read(_SCHEMA, limits.schema_bytes), f"{_SCHEMA} of {where}", max_depth=_DEPTH
    )
    _check_protocol(schema, where)
    held = {name: members.read(name) for name in sorted(names - {_SCHEMA})}
    walk = _Walk(where, {name: sha256_hex(content) for name, content in held.items()})
    try:
        walk.visit(schema)
        if not walk.audit.refused:  # else the caller refuses it, whatever else it holds
            walk.check_positions(schema, _arrays(held, walk.files, where))
    except RecursionError:
        raise _invalid(where, "its nodes are nested too deeply") from None
    return walk.audit


def _arrays(held: Mapping[str, bytes], files: set[str], where: str) -> Arrays:
    """Read the arrays that a schema names; there may be no others."""
    if odd := sorted(files ^ held.keys()):
        raise _invalid(where, f"its schema and its members do not agree about {odd[0][:80]!r}")
    arrays: dict[str, tuple[str, tuple[int, ...], Any]] = {}
    for name, content in held.items():
        if name.endswith(".npy"):
            try:
                array = read_npy(content)
            except ValueError as exc:
                raise _invalid(where, f"its array {name} cannot be read: {str(exc)[:200]}") from exc
            arrays[name] = array.dtype.kind, array.shape, array
    return arrays


def untrusted(names: Iterable[str], trusted: Collection[str] = ()) -> list[str]:
    """List those of some names that need the caller's word."""
    rest = {
        name for name in names if not (is_plain_estimator(name) and is_accepted(name)) and not is_part(name)
    }
    if rest:
        # Asking what packages are installed takes longest, so it comes last.
        known = {*trusted, *always_trusted()} if rest - set(trusted) else {*trusted}
        rest = {name for name in rest if name not in known and name.rpartition(".")[0] not in trusted}
    return sorted(rest)


def refuse_untrusted(unknown: Collection[str], where: object) -> None:
    """Raise if there are types that are not trusted."""
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UntrustedBundle(
            f"{where} holds contents that need your trust: {names}. Nothing was loaded. They are types beyond the "
            "estimators that only do array arithmetic, or attributes that hold other values than those on the list of "
            "accepted ones: their contents reach code that does not check them, or code that is not known here. If you "
            f"trust who wrote the bundle, pass trusted_types={sorted(unknown)!r}, or write them into "
            f"{configuration_file()}, one a line."
        )


def load_payload(data: bytes, accepted: Collection[str]) -> Any:
    """Load a payload that was audited; `accepted` are the types that it may hold, beyond those skops trusts."""
    import skops.io

    unknown = set(skops.io.get_untrusted_types(data=data))
    # A second opinion: what skops finds must be among what was accepted.
    refuse_untrusted(unknown - set(accepted), "The payload")
    return skops.io.loads(data, trusted=sorted(unknown))


# -- Fitted objects made into payloads.


def without_searches(value: Any) -> tuple[Any, list[str]]:
    """Put in place of every fitted search the estimator that it found and predicts with."""
    module = sys.modules.get("sklearn.model_selection._search")
    if module is None:  # it cannot have been fitted
        return value, []
    names: list[str] = []
    while found := list(_searches(value, module.BaseSearchCV)):
        memo: dict[int, Any] = {}
        # Those inside others come last, and are replaced first.
        for search in reversed(found):
            names.append(type(search).__name__)
            memo[id(search)] = copy.deepcopy(getattr(search, "best_estimator_", search.estimator), memo)
        value = copy.deepcopy(value, memo)
    return value, names


def _searches(value: Any, base: type[Any]) -> Iterator[Any]:
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str | bytes | int | float | type) or id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, base):
            yield item
        if isinstance(item, np.ndarray):
            waiting += item.ravel().tolist() if item.dtype.hasobject else ()
        elif isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple | set):
            waiting += item
        else:
            waiting += getattr(item, "__dict__", {}).values()


def skops_payload(value: Any, where: str, notes: list[str] | None = None) -> bytes:
    """Turn a fitted object into a skops payload that can be loaded again."""
    import skops.io

    cls = type(value)

    def refusal(reason: str) -> SerializationError:
        return SerializationError(
            f"{where} is an object of class {cls.__module__}.{cls.__qualname__}, which a safe bundle cannot carry: "
            f"{reason.rstrip('.')}. Nothing was written. Export a joblib bundle (safe=False) for people who trust you."
        )

    value, searches = without_searches(value)
    if searches and notes is not None:
        notes.append(
            f"{where}: of {' and '.join(sorted(set(searches)))} the estimator travels that it found and predicts with, "
            "not the search and its results."
        )
    try:
        data = normalise_skops(skops.io.dumps(value))
        audit = audit_payload(data, where)
    except MemoryError:
        raise
    except BundleInvalid as exc:
        reason = str(exc).partition(" payload: ")[2].partition(". Nothing was loaded")[0]
        raise refusal(reason or str(exc)) from exc
    except Exception as exc:
        raise refusal(f"{type(exc).__name__}: {exc}") from exc
    if audit.refused:
        raise refusal(f"it holds {', '.join(sorted(audit.refused))}")
    if own := sorted(name for name in audit.types if name.startswith("__main__.")):
        raise refusal(f"it holds {', '.join(own)}, which only this script or notebook defines")
    try:
        load_payload(data, audit.types)
    except MemoryError:
        raise
    except Exception as exc:
        # A lambda or a class of the main program can be written, but not be found again.
        usual = ("builtins", "numpy", "collections")
        listed = ", ".join(item for item in sorted(audit.types) if item.partition(".")[0] not in usual)
        reason = f"what was written cannot be loaded again ({type(exc).__name__}: {exc}); it holds {listed}"
        raise refusal(reason) from exc
    return data


# -- What each node is made of, and what is where.


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

    def __init__(self, where: str, digests: Mapping[str, str]) -> None:
        self._where = where
        self._digests = digests
        self._forms: dict[Any, int] = {}
        self._by_id: dict[int, int] = {}
        self._objects: list[Mapping[str, Any]] = []
        self._scalars: list[Mapping[str, Any]] = []
        self._strict: list[tuple[Mapping[str, Any], str]] = []
        self.audit = Audit()
        self.files: set[str] = set()

    # -- What each node is made of.

    def visit(self, node: Any) -> int:
        """Check a node and all below it; give a number that equal nodes share."""
        if not isinstance(node, dict):
            raise self._bad("a node is not an object")
        loader = node.get("__loader__")
        if not isinstance(loader, str):
            raise self._bad("a node does not say what reads it")
        name = f"{node.get('__module__')}.{node.get('__class__')}"
        if not _NAME.fullmatch(name):
            raise self._bad(f"a type is called {name[:80]!r}")
        if loader in _FIXED:
            if name not in _FIXED[loader]:
                raise self._bad(f"a {loader} makes a {name[:200]}")
            if loader in ("NdArrayNode", "RandomStateNode", "LossNode", "DTypeNode") or name in (
                _BUNCH,
                TRIPLET,
            ):
                self.audit.types.add(name)
            if loader in _STRICT:
                self._strict.append((node, _STRICT[loader]))
        elif loader in _KNOWN:
            self._name(loader, name)
        else:
            # Methods, partial functions, sparse matrices (archives of their own), and what is not known.
            self.audit.refused.add(f"{name} ({loader[:60]})")
            return self._form(("refused", loader, name))
        form = self._form((loader, name, self._contents(node, loader)))
        identity = node.get("__id__")
        if identity is not None:
            if isinstance(identity, bool) or not isinstance(identity, int):
                raise self._bad("a node has an id that is not a number")
            # skops takes the first node of an id wherever the id is given again: all of them have to be equal.
            if self._by_id.setdefault(identity, form) != form:
                raise self._bad("two different nodes have one id")
        return form

    def _form(self, key: Any) -> int:
        return self._forms.setdefault(key, len(self._forms))

    def _name(self, loader: str, name: str) -> None:
        self.audit.types.add(name)
        if loader == "ObjectNode":
            if not (is_accepted(name) or is_part(name)):
                self.audit.needs.add(name)
            if name in _FIXED["NdArrayNode"] or name.startswith("builtins."):
                raise self._bad(f"an object is made of {name}")
            return
        if loader in ("TreeNode", "RandomGeneratorNode"):
            if name not in (_TREE, _GENERATOR, "numpy.random.Generator"):
                raise self._bad(f"a {loader} makes a {name[:200]}")
            self.audit.needs.add(name)
        elif name not in _KNOWN[loader]:
            if is_accepted(name) or is_part(name) or name in TYPES | SCALARS or name in _FIXED["DictNode"]:
                raise self._bad(f"a {loader} names the class {name}")
            self.audit.needs.add(name)

    def _contents(self, node: dict[str, Any], loader: str) -> Any:
        """Visit what is inside a node; give what tells it from other nodes of its kind."""
        content = node.get("content")
        if loader == "JsonNode":
            return self._json(content)
        if loader == "SliceNode":
            if not isinstance(content, dict) or set(content) != {"start", "stop", "step"}:
                raise self._bad("a slice is not made of start, stop and step")
            if not all(value is None or type(value) is int for value in content.values()):
                raise self._bad("a slice is not made of whole numbers")
            return tuple(content[key] for key in ("start", "stop", "step"))
        if loader in _FILES or (loader == "NdArrayNode" and node.get("type") == "numpy"):
            return self._file(node, _FILES.get(loader, ".npy"))
        if loader in ("FunctionNode", "TypeNode"):
            return None
        if loader in ("ListNode", "TupleNode", "SetNode"):
            return self._list(content)
        if loader == "NdArrayNode":
            if node.get("type") != "json" or node.get("__class__") != "ndarray":
                raise self._bad("an array is neither numbers nor a list of objects")
            return self._list(content), self._shape(node.get("shape"))
        if loader == "DictNode":
            return self._dict(node, content)
        if loader == "RandomGeneratorNode":
            if not isinstance(content, dict) or set(content) != {"bit_generator", "seed_seq"}:
                raise self._bad("a generator is not made of bit_generator and seed_seq")
            return tuple(self.visit(child) for child in content.values())
        if loader in ("TreeNode", "LossNode"):
            reduced = node.get("__reduce__")
            if not isinstance(reduced, dict) or set(reduced) != {"args"}:
                raise self._bad(f"a {loader} has no arguments")
            return self.visit(reduced["args"]), self.visit(content)
        if loader == "ObjectNode":
            self._objects.append(node)
            return None if content is None else self.visit(content)
        return self.visit(content)  # DTypeNode, RandomStateNode

    def _file(self, node: Mapping[str, Any], ending: str) -> str:
        file = node.get("file")
        if not isinstance(file, str) or not _FILE.fullmatch(file) or not file.endswith(ending):
            raise self._bad(f"it reads from a member called {str(file)[:80]!r}")
        self.files.add(file)
        if node["__loader__"] == "NdArrayNode" and node["__class__"] != "ndarray":
            self._scalars.append(node)
        return self._digests.get(file, file)

    def _list(self, content: Any) -> tuple[int, ...]:
        if not isinstance(content, list):
            raise self._bad("a list of nodes is not a list")
        return tuple(self.visit(child) for child in content)

    def _shape(self, shape: Any) -> int:
        found = self.visit(shape)
        if shape["__loader__"] != "TupleNode" or any(
            part["__loader__"] != "JsonNode" for part in shape["content"]
        ):
            raise self._bad("the shape of an array is not made of whole numbers")
        return found

    def _dict(self, node: Mapping[str, Any], content: Any) -> Any:
        if not isinstance(content, dict):
            raise self._bad("a dict has no content")
        for name in ("memory", "n_jobs"):
            if name in content:
                self._bounded(name, content[name])
        keys: Any = node.get("key_types")
        found = self.visit(keys)
        if keys["__loader__"] != "ListNode" or len(keys["content"]) != len(content):
            raise self._bad("a dict does not have one type for each of its keys")
        for key in keys["content"]:
            # The type is called with the key.
            if key["__loader__"] != "TypeNode" or name_of(key) not in _KEYS:
                raise self._bad(f"a key of a dict has the type {name_of(key)[:200]}")
        return found, tuple((key, self.visit(child)) for key, child in content.items())

    def _bounded(self, key: str, node: Any) -> None:
        """Look at the attributes and arguments that reach beyond arithmetic."""
        plain = isinstance(node, dict) and node.get("__loader__") == "JsonNode"
        text = str(node.get("content")) if plain else "?"
        small = re.fullmatch(r"-?\d{1,3}", text) and abs(int(text)) <= MOST_JOBS
        if text != "null" and not (key == "n_jobs" and small):
            raise self._bad(
                f"it sets {key} to {str(text)[:60]}: a model that travels caches in no folder and starts at "
                f"most {MOST_JOBS} processes"
            )

    def _json(self, text: Any) -> str:
        if not isinstance(text, str) or len(text) > _TEXT or text[:1] in "[{":
            raise self._bad("a value is not plain")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise self._bad("a value is not JSON") from exc
        if isinstance(value, list | dict):
            raise self._bad("a value is not plain")
        return text

    # -- What is where.

    def check_positions(self, root: Mapping[str, Any], arrays: Arrays) -> None:
        """Compare every attribute of an accepted class with the list."""
        for node in self._scalars:
            if arrays[node["file"]][1] != ():
                raise self._bad(f"a {name_of(node)} is made of an array")
        named = frozenset(self.audit.needs)
        for node, strict in self._strict:
            if not fits(node, strict, arrays, named):
                raise self._bad(f"a {name_of(node)} is not made of what one is made of")
        if not named and not fits(root, "estimator", arrays, named):
            raise self._bad(f"it holds a {name_of(root)} in place of an estimator")
        for node in self._objects:
            name = name_of(node)
            kinds = kinds_of(name)
            if kinds is None:
                continue  # a user who trusts a class by name trusts what it keeps
            state = node.get("content")
            if (
                not isinstance(state, dict)
                or name_of(state) != "builtins.dict"
                or state["__loader__"] != "DictNode"
            ):
                raise self._bad(f"the attributes of a {name} are not a dict")
            if any(name_of(key) != "builtins.str" for key in state["key_types"]["content"]):
                raise self._bad(f"the attributes of a {name} are not called by texts")
            for key, value in state["content"].items():
                if not key.isidentifier():
                    raise self._bad(f"an attribute of a {name} is called {key[:80]!r}")
                kind = kinds.get(key)
                if kind is None or not fits(value, kind, arrays, named):
                    self.audit.needs.add(f"{name}.{key[:100]}")
            if odd := contradiction(name, state["content"], arrays):
                self.audit.needs.add(f"{name}.{odd}")

    def _bad(self, what: str) -> BundleInvalid:
        return _invalid(self._where, what)


def _invalid(where: str, what: str) -> BundleInvalid:
    return BundleInvalid(
        f"{where} is not an acceptable skops payload: {what}. Nothing was loaded; ask for a new export."
    )
