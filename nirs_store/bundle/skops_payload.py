"""Objects on their way into a safe bundle."""

from __future__ import annotations

from typing import Any

from nirs_store.blobs.skops_format import normalise_skops
from nirs_store.bundle.skops_audit import audit_payload, load_payload
from nirs_store.errors import BundleInvalid, SerializationError

__all__ = ["skops_payload"]


def skops_payload(value: Any, where: str) -> bytes:
    """Turn a fitted object into a skops payload that can be loaded again.

    Parameters
    ----------
    value : Any
        The object.
    where : str
        Which step it is, for messages.

    Raises
    ------
    SerializationError
        skops cannot carry it, or holds it in a way that no reader accepts; the classes are named.
    """
    import skops.io

    cls = type(value)
    name = f"{cls.__module__}.{cls.__qualname__}"
    try:
        data = normalise_skops(skops.io.dumps(value))
        audit = audit_payload(data, where)
    except MemoryError:
        raise
    except BundleInvalid as exc:
        reason = str(exc).partition(" payload: ")[2].partition(". Nothing was loaded")[0]
        raise _refusal(where, name, reason or str(exc)) from exc
    except Exception as exc:
        raise _refusal(where, name, f"{type(exc).__name__}: {exc}") from exc
    if audit.refused:
        raise _refusal(where, name, f"it holds {', '.join(sorted(audit.refused))}")
    try:
        load_payload(data, audit.types)
    except MemoryError:
        raise
    except Exception as exc:
        # A lambda or a class of the main program can be written, but not be found again.
        listed = ", ".join(item for item in sorted(audit.types) if not _is_usual(item))
        reason = f"what was written cannot be loaded again ({type(exc).__name__}: {exc}); it holds {listed}"
        raise _refusal(where, name, reason) from exc
    return data


def _is_usual(name: str) -> bool:
    return name.partition(".")[0] in ("builtins", "numpy", "collections")


def _refusal(where: str, name: str, reason: str) -> SerializationError:
    cause = f"{where} is an object of class {name}, which a safe bundle cannot carry: {reason.rstrip('.')}."
    return SerializationError(
        f"{cause} Nothing was written. Export a joblib bundle (safe=False) for people who trust you."
    )
