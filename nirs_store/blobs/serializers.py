"""Formats in which an object becomes a blob: joblib, cloudpickle, pickle, bytes, skops and plug-ins.

The bytes decide a blob's name, so a format should give the same bytes for the same object whenever it can.
joblib, pickle and skops do so for fitted scikit-learn estimators, in every process; cloudpickle does not for
classes and functions defined in a notebook, which then simply become blobs of their own.

An installed package adds a format through the entry point group ``nirs_store.serializers``: the entry point
carries the format's name and points to a `Serializer`, or to something that gives one when called.
"""

from __future__ import annotations

import copyreg
import difflib
import io
import pickle
import re
import threading
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import msgspec

from nirs_store.blobs.skops_format import dumps_skops, loads_skops
from nirs_store.errors import InvalidInput, SerializationError, UnknownFormat
from nirs_store.forks import hold_while_forking
from nirs_store.room import with_room

__all__ = ["Format", "Serializer", "available_formats", "get_serializer", "register_serializer"]

ENTRY_POINT_GROUP = "nirs_store.serializers"
# Pinned, because the default of a newer Python would give the same model another name.
PICKLE_PROTOCOL = 5

# From so many bytes on an array is worth being opened with ``mmap_mode``.
_MAPPABLE = 4 << 20
# In every file of joblib's own format, old ones too: what stands for an array whose bytes follow it.
_WRAPPED = b"ArrayWrapper"

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
            # The first object of a library is what imports it.
            return with_room(partial(self.decode, data))
        except (MemoryError, SerializationError):
            raise
        except Exception as exc:
            raise SerializationError(
                f"{len(data):,} bytes of format {self.name!r} cannot be loaded: {_reason(exc)}. Check that "
                "the package that defines its class is installed, in about the version that saved it."
            ) from exc


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
    near = difflib.get_close_matches(str(name), known, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    raise UnknownFormat(f"No format is named {name!r}. {guess}Available: {', '.join(known)}.")


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
            f"{_class_name(serializer)} is no serializer: it needs name, suffix, dumps(obj) and loads(bytes)."
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
            f"{_reason(exc)}. Mend or remove that package."
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
    pickler = pickle.Pickler(buffer, protocol=PICKLE_PROTOCOL)
    # As joblib does: what a file on this machine backs is stored as the array that it is.
    pickler.dispatch_table = {**copyreg.dispatch_table, np.memmap: _reduce_mapped}
    try:
        pickler.dump(obj)
    except _LargeArray:
        # Only joblib lays arrays out so that they can be mapped into memory, and to it a large one costs no more.
        import joblib

        buffer = io.BytesIO()
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
    import cloudpickle  # type: ignore[import-untyped]

    return bytes(cloudpickle.dumps(obj, protocol=PICKLE_PROTOCOL))


def _pickle_dumps(obj: Any) -> bytes:
    return pickle.dumps(obj, protocol=PICKLE_PROTOCOL)


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
