"""What a skops payload is made of, found out without importing or constructing anything of it.

skops' own audit answers which types a payload names. It reads the payload with few limits, though, and knows
kinds of nodes that call what the payload names. Here the payload is an archive of stored members, its schema is
strict JSON of bounded depth, each array's header fits its length, and only kinds of nodes are known that fitted
estimators are made of.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nirs_store.blobs.trusted import always_trusted, configuration_file, is_plain_estimator
from nirs_store.bundle.limits import DEFAULT_LIMITS, Limits, check_archive
from nirs_store.bundle.npy import read_npy
from nirs_store.bundle.strict_json import parse_object
from nirs_store.errors import BundleInvalid, UntrustedBundle

__all__ = ["Audit", "audit_payload", "load_payload", "refuse_untrusted", "untrusted"]

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
    return sorted(set(types) - plain - estimators - always_trusted() - set(trusted))


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


def load_payload(data: bytes, trusted: Collection[str] = ()) -> Any:
    """Load a payload that was audited; `trusted` are the names that were accepted."""
    import skops.io

    accepted = always_trusted() | set(trusted)
    unknown = set(skops.io.get_untrusted_types(data=data))
    # A second opinion: what skops finds must be among what was accepted.
    if extra := unknown - accepted:
        refuse_untrusted(extra, "The payload")
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
