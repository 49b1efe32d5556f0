"""Formats in which an object becomes a blob: joblib, cloudpickle, pickle, bytes, skops and plug-ins.

The bytes decide a blob's name, so a format should give the same bytes for the same object whenever it can.
All do so for fitted scikit-learn estimators, in every process. What a notebook or script defines is stored by value
(see `nirs_store.blobs.code`) with the place where it was defined, and so becomes a blob of its own in each session.

An installed package adds a format through the entry point group ``nirs_store.serializers``: the entry point
carries the format's name and points to a `Serializer`, or to something that gives one when called.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import msgspec

from nirs_store.blobs.code import PROTOCOL, dump, reliance
from nirs_store.blobs.trusted import TRUSTED_GROUP, WORKSPACE_TYPES, always_trusted
from nirs_store.errors import InvalidInput, SerializationError, UnknownFormat, did_you_mean
from nirs_store.lazy import hold_while_forking

__all__ = [
    "Format",
    "Serializer",
    "available_formats",
    "dumps_skops",
    "get_serializer",
    "installed_trusted_types",
    "loads_skops",
    "normalise_skops",
    "register_serializer",
    "untrusted_types",
    "with_version",
]

# -- skops payloads, made the same bytes for the same object.


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
    """List the types of a payload that are not trusted; nothing of it is constructed or imported."""
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


ENTRY_POINT_GROUP = "nirs_store.serializers"
PICKLE_PROTOCOL = PROTOCOL

# From so many bytes on an array is worth being opened with ``mmap_mode``.
_MAPPABLE = 4 << 20
# In every file of joblib's own format, old ones too: what stands for an array whose bytes follow it.
_WRAPPED = b"ArrayWrapper"

# The key and its value in the state of an estimator; between them lie opcodes of pickle.
_SKLEARN_VERSION = re.compile(
    rb"_sklearn_version[^0-9]{1,8}?([0-9]+(?:\.[0-9]+)+(?:(?:rc|a|b|\.dev|\.post)[0-9]+)?)"
)

_SUFFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@runtime_checkable
class Serializer(Protocol):
    """What a format must offer."""

    @property
    def name(self) -> str:
        """How a caller asks for it."""
        ...

    @property
    def suffix(self) -> str:
        """File name ending of its blobs: lower-case letters, digits, ``_``, ``-``; no dot."""
        ...

    def dumps(self, obj: Any, /) -> bytes:
        """Turn an object into bytes; any exception means that it cannot."""
        ...

    def loads(self, data: bytes, /) -> Any:
        """Turn the bytes back into the object."""
        ...


class Format(msgspec.Struct, frozen=True):
    """A serializer made of two functions, which reports their failures as `SerializationError`.

    Attributes
    ----------
    name, suffix : str
        See `Serializer`.
    encode, decode : callable
        Object to bytes, and bytes to object.
    """

    name: str
    suffix: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]

    def dumps(self, obj: Any, /) -> bytes:
        """Turn an object into bytes.

        Raises
        ------
        SerializationError
            The format cannot store this object; nothing was written.
        """
        try:
            data = self.encode(obj)
        except (MemoryError, SerializationError):
            raise
        except Exception as exc:
            raise SerializationError(
                f"Format {self.name!r} cannot store an object of class {_class_name(obj)}: {_reason(exc)}. "
                f"Nothing was written. {_advice(self.name)}"
            ) from exc
        if not isinstance(data, bytes):
            raise SerializationError(
                f"The serializer of format {self.name!r} gave {_class_name(data)} for an object of class "
                f"{_class_name(obj)}; bytes were expected."
            )
        return data

    def loads(self, data: bytes, /) -> Any:
        """Turn bytes back into an object. Formats based on pickle run code: load only what you trust.

        Raises
        ------
        SerializationError
            The bytes are not of this format, or name a class that cannot be imported here.
        """
        try:
            loaded = self.decode(data)
        except (MemoryError, SerializationError):
            raise
        except Exception as exc:
            raise SerializationError(
                f"{len(data):,} bytes of format {self.name!r} cannot be loaded: {_reason(exc)}.{_both_versions(data)} "
                "Check that the package that defines its class is installed, in about the version that saved it."
            ) from exc
        return with_version(loaded, data)


def get_serializer(name: str) -> Serializer:
    """Find a format by its name.

    Parameters
    ----------
    name : str
        "joblib", "cloudpickle", "pickle", "bytes", "skops", one registered here, or a plug-in's.

    Raises
    ------
    UnknownFormat
        There is none of that name.

    Examples
    --------
    >>> bytes_format = get_serializer("bytes")
    >>> bytes_format.loads(bytes_format.dumps("spectrum"))
    b'spectrum'
    """
    with _lock:
        found = _registry.get(name)
    if found is not None:
        return found
    for entry_point in _plugins():
        if entry_point.name == name:
            return _load_plugin(entry_point)
    known = available_formats()
    guess = did_you_mean(name, known)
    raise UnknownFormat(f"No format is named {name!r}.{guess} Available: {', '.join(known)}.")


def register_serializer(serializer: Serializer, *, replace: bool = False) -> None:
    """Add a format for this process.

    Parameters
    ----------
    serializer : Serializer
        Its `dumps` must give bytes from which `loads` makes the object again.
    replace : bool
        Whether a format of the same name may be replaced.

    Raises
    ------
    InvalidInput
        Not a serializer, an unusable suffix, or the name is taken.
    """
    fmt = _as_format(serializer)
    with _lock:
        if fmt.name in _registry and not replace:
            raise InvalidInput(f"Format {fmt.name!r} is registered already; pass replace=True to replace it.")
        _registry[fmt.name] = fmt


def available_formats() -> list[str]:
    """List the names of all formats, plug-ins included, in alphabetical order."""
    with _lock:
        names = set(_registry)
    return sorted(names | {entry_point.name for entry_point in _plugins()})


def _as_format(serializer: object) -> Format:
    if not isinstance(serializer, Serializer):
        raise InvalidInput(
            f"{_class_name(serializer)} is not a serializer: it needs name, suffix, dumps(obj) and loads(bytes)."
        )
    if not serializer.name:
        raise InvalidInput(f"A format needs a name; found {serializer.name!r}.")
    if _SUFFIX.fullmatch(serializer.suffix) is None:
        raise InvalidInput(
            f"Format {serializer.name!r} has the suffix {serializer.suffix!r}; expected were 1 to 32 "
            "lower-case letters, digits, '_' or '-', without a dot."
        )
    if isinstance(serializer, Format):
        return serializer
    return Format(serializer.name, serializer.suffix, serializer.dumps, serializer.loads)


def _plugins() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINT_GROUP))


def _load_plugin(entry_point: EntryPoint) -> Format:
    try:
        loaded = entry_point.load()
        made = loaded if isinstance(loaded, Serializer) and not isinstance(loaded, type) else loaded()
    except Exception as exc:
        raise UnknownFormat(
            f"Format {entry_point.name!r} is offered by {entry_point.value}, which cannot be loaded: "
            f"{_reason(exc)}. Repair or remove that package."
        ) from exc
    fmt = _as_format(made)
    with _lock:
        return _registry.setdefault(entry_point.name, fmt)


def _class_name(obj: object) -> str:
    cls = type(obj)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _reason(exc: Exception) -> str:
    text = str(exc).strip()
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def with_version(loaded: Any, data: bytes) -> Any:
    """Keep the version of scikit-learn that pickled an estimator, which scikit-learn itself forgets."""
    if (made_with := _other_version(data)) and hasattr(type(loaded), "__sklearn_clone__"):
        # If the model cannot be used here, the error has to name it.
        loaded._sklearn_version = made_with
    return loaded


def _other_version(data: bytes) -> str | None:
    """Find the version of scikit-learn that pickled an estimator, where another one is imported here."""
    found = _SKLEARN_VERSION.search(data)
    here = sys.modules.get("sklearn")
    if found is None or here is None or (made_with := found[1].decode()) == here.__version__:
        return None
    return made_with


def _both_versions(data: bytes) -> str:
    made_with = _other_version(data)
    here = sys.modules["sklearn"].__version__ if made_with else ""
    return f" It was saved with scikit-learn {made_with}, and {here} is installed here." if made_with else ""


def _advice(name: str) -> str:
    if name == "bytes":
        return "Give str, bytes, bytearray or memoryview, or choose format 'joblib'."
    if name == "cloudpickle":
        return "Take open files, locks and connections out of the object first."
    return "Define its classes and functions in an importable module, or choose format 'cloudpickle'."


class _LargeArray(Exception):
    """Something of `_MAPPABLE` bytes or more is to be written in one piece."""


class _Pieces(io.BytesIO):
    def write(self, piece: Any, /) -> int:
        if memoryview(piece).nbytes >= _MAPPABLE:
            raise _LargeArray
        return super().write(piece)


def _joblib_dumps(obj: Any) -> bytes:
    # A plain pickle, which `joblib.load` opens as well as its own files. `joblib.dump` walks through the object with a
    # pickler written in Python and takes eleven times as long for a PLS model; loading it, fifteen times.
    import numpy as np

    buffer: io.BytesIO = _Pieces()
    # As joblib does: what a file on this machine backs is stored as the array that it is.
    mapped = {np.memmap: _reduce_mapped}
    try:
        dump(obj, buffer, mapped)
    except _LargeArray:
        buffer = io.BytesIO()
        if reliance(obj).values:
            dump(obj, buffer, mapped, by_value=True)
        else:
            # Only joblib lays arrays out so that they can be mapped into memory, and to it a large one costs no more.
            import joblib

            joblib.dump(obj, buffer, compress=0, protocol=PICKLE_PROTOCOL)
    return buffer.getvalue()


def _reduce_mapped(array: Any) -> Any:
    import numpy as np

    return np.array(array, order="K", subok=False).__reduce_ex__(PICKLE_PROTOCOL)


def _joblib_loads(data: bytes) -> Any:
    if data[:1] == pickle.PROTO and _WRAPPED not in data:
        return pickle.loads(data)
    import joblib

    return joblib.load(io.BytesIO(data))


def _cloudpickle_dumps(obj: Any) -> bytes:
    buffer = io.BytesIO()
    dump(obj, buffer, {}, by_value=True)
    return buffer.getvalue()


def _pickle_dumps(obj: Any) -> bytes:
    buffer = io.BytesIO()
    dump(obj, buffer, {})
    return buffer.getvalue()


def _bytes_dumps(obj: Any) -> bytes:
    if isinstance(obj, str):
        return obj.encode("utf-8")
    if isinstance(obj, bytes | bytearray | memoryview):
        return bytes(obj)
    raise TypeError("it is neither text nor bytes")


def _bytes_loads(data: bytes) -> bytes:
    return data


# A payload of format "bytes" is stored as it is, for others to use the file; text comes back as UTF-8 bytes.
# cloudpickle and pickle share an ending: they often give the same bytes, which should then be the same file.
_BUILTIN = (
    Format("joblib", "joblib", _joblib_dumps, _joblib_loads),
    Format("cloudpickle", "pkl", _cloudpickle_dumps, pickle.loads),
    Format("pickle", "pkl", _pickle_dumps, pickle.loads),
    Format("bytes", "bin", _bytes_dumps, _bytes_loads),
    Format("skops", "skops", dumps_skops, loads_skops),
)
_lock = threading.Lock()
hold_while_forking(_lock)
_registry: dict[str, Format] = {fmt.name: fmt for fmt in _BUILTIN}
