"""skops payloads, made the same bytes for the same object.

skops writes a zip of ``schema.json`` and arrays. The schema numbers objects by their memory addresses, arrays
are named after these numbers, and the members carry the time of day, so that two dumps of one object never
agree. Here the numbers are replaced by their order of appearance, equal texts and numbers are counted as one
object (whether Python keeps one or two copies of them is chance), sets are sorted, and dates are fixed.

Types that skops does not know are refused, when stored as well as when loaded, unless the caller, the user's
configuration or an installed package trusts them (see `trusted`). The list of trusted types is never taken from
the payload itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from typing import Any

from nirs_store.blobs.trusted import TRUSTED_GROUP, WORKSPACE_TYPES, always_trusted
from nirs_store.errors import SerializationError

__all__ = ["dumps_skops", "installed_trusted_types", "loads_skops", "normalise_skops", "untrusted_types"]

_SCHEMA = "schema.json"
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
# What these nodes stand for cannot be changed in place, so it does not matter whether two are one object.
_VALUES = ("JsonNode", "TypeNode")


def dumps_skops(obj: Any, trusted: Iterable[str] = ()) -> bytes:
    """Dump an object with skops; equal objects give equal bytes, in every process.

    Parameters
    ----------
    obj : Any
        A fitted estimator or a plain value.
    trusted : iterable of str
        Fully qualified names of types accepted besides those that skops knows.

    Raises
    ------
    SerializationError
        It holds types that could not be loaded again without trusting them.
    """
    import skops.io

    data: bytes = skops.io.dumps(obj)
    unknown = untrusted_types(data, trusted)
    if unknown:
        cls = type(obj)
        raise SerializationError(
            f"Format 'skops' cannot store an object of class {cls.__module__}.{cls.__qualname__}: it holds "
            f"types that skops does not trust by default ({', '.join(unknown)}), so it could not be loaded "
            "again. Nothing was written. Choose format 'joblib', or name these types in an entry point of "
            f"group {TRUSTED_GROUP!r}."
        )
    return normalise_skops(data)


def loads_skops(data: bytes, trusted: Iterable[str] = ()) -> Any:
    """Load a skops payload whose types are known to skops, installed as trusted, or named in `trusted`.

    Raises
    ------
    SerializationError
        The payload names other types; nothing of it was constructed.
    """
    import skops.io

    unknown = untrusted_types(data, trusted)
    if unknown:
        raise SerializationError(
            f"This skops payload holds types that are not trusted: {', '.join(unknown)}. Nothing of it was "
            "loaded. Trust them by name only if you know where it comes from."
        )
    return skops.io.loads(data, trusted=[*installed_trusted_types(), *trusted])


def untrusted_types(data: bytes, trusted: Iterable[str] = ()) -> list[str]:
    """List the types of a payload that nobody trusts; nothing of it is constructed or imported."""
    import skops.io

    accepted = {*installed_trusted_types(), *trusted}
    return sorted(set(skops.io.get_untrusted_types(data=data)) - accepted)


def installed_trusted_types() -> list[str]:
    """List the types that a workspace accepts besides those that skops knows.

    Those of `always_trusted`, and scikit-learn's trees: a blob of a workspace was made from an object that lived
    here, or came with a bundle that was trusted when it was imported.
    """
    return sorted(always_trusted() | WORKSPACE_TYPES)


def normalise_skops(data: bytes) -> bytes:
    """Rewrite a skops payload so that it no longer shows addresses and times; it loads to the same object."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members.pop(_SCHEMA))
    renumbering = _Renumbering(members)
    renumbering.visit(schema)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for old, new in renumbering.names.items():
            archive.writestr(_member(new), members[old])
        archive.writestr(_member(_SCHEMA), json.dumps(schema, separators=(",", ":")))
    return buffer.getvalue()


class _Renumbering:
    """Walks a schema in its own order and numbers what it meets, in place."""

    def __init__(self, members: dict[str, bytes]) -> None:
        self._digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
        self._numbers: dict[object, int] = {}
        self.names: dict[str, str] = {}

    def visit(self, node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("__loader__"), str):
                self._visit_object(node)
            for child in node.values():
                self.visit(child)
        elif isinstance(node, list):
            for child in node:
                self.visit(child)

    def _visit_object(self, node: dict[str, Any]) -> None:
        loader = node["__loader__"]
        if isinstance(node.get("__id__"), int):
            is_value = loader in _VALUES and not any(isinstance(field, dict) for field in node.values())
            key: object = self._content(node) if is_value else node["__id__"]
            node["__id__"] = self._numbers.setdefault(key, len(self._numbers) + 1)
        member = node.get("file")
        if isinstance(member, str) and member in self._digests:
            suffix = member.rpartition(".")[2]
            node["file"] = self.names.setdefault(member, f"{len(self.names) + 1:06d}.{suffix}")
        if loader == "SetNode":
            # The order of a set of texts depends on the hash seed of the process.
            node["content"].sort(key=self._content)

    def _content(self, node: Any) -> str:
        return json.dumps(self._without_identity(node), sort_keys=True)

    def _without_identity(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._without_identity(child) for child in node]
        if not isinstance(node, dict):
            return node
        fields = {key: self._without_identity(child) for key, child in node.items()}
        if isinstance(node.get("__id__"), int):
            del fields["__id__"]
        if isinstance(node.get("file"), str):
            fields["file"] = self._digests.get(node["file"], node["file"])
        return fields


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _FIXED_DATE)
    info.create_system = _UNIX
    info.external_attr = 0o600 << 16
    return info
