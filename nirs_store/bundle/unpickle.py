"""Loading the objects of a bundle that its reader trusts."""

from __future__ import annotations

import io
import warnings
from typing import Any

from nirs_store.bundle.contents import Contents
from nirs_store.errors import BundleInvalid

__all__ = ["unpickle"]


def unpickle(contents: Contents) -> tuple[dict[str, Any], list[warnings.WarningMessage]]:
    """Load every object; from here on code of the bundle's writer runs."""
    import joblib

    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, data in contents.payloads.items():
            try:
                found[name] = joblib.load(io.BytesIO(data))
            except MemoryError:
                raise
            except Exception as exc:
                raise _unloadable(contents, name, exc) from exc
    return found, caught


def _unloadable(contents: Contents, member: str, exc: Exception) -> BundleInvalid:
    missing = str(exc.name or "") if isinstance(exc, ModuleNotFoundError) else ""
    package = missing.partition(".")[0]
    if package:
        needed = [name for name in contents.pickles.classes if name.partition(".")[0] == package]
        return BundleInvalid(
            f"{contents.path} needs classes of the package {package!r}, which is not installed here: "
            f"{', '.join(needed[:8]) or missing}. Install it, or ask for an export whose steps are "
            "scikit-learn's."
        )
    return BundleInvalid(
        f"{contents.path}: the member {member} cannot be loaded: {type(exc).__name__}: {exc}. No step is "
        "ever left "
        f"out, so the bundle cannot predict. It names {contents.pickles.describe()}; install the packages "
        "they "
        "come from in about the versions that wrote it, or copy or export the bundle again."
    )
