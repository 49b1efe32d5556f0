"""Bundles without pickles: what is checked before one is written, and before anything of one is made."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

from nirs_store.bundle.container import agree, disagreement
from nirs_store.bundle.contents import Contents
from nirs_store.bundle.pack import Package
from nirs_store.bundle.payload import Audit, audit_payload, load_payload, refuse_untrusted, untrusted
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.replay import predict
from nirs_store.errors import BundleInvalid, ReplayError, SerializationError

__all__ = ["audit_payloads", "load_safely", "rehearse"]


def rehearse(package: Package, spectra: Any) -> list[str]:
    """Load a package as its reader will, and compare what it predicts with the stored chain."""
    needs: set[str] = set()
    objects: dict[str, Any] = {}
    for payload in package.payloads:
        try:
            audit = audit_payload(payload.data, payload.name)
        except BundleInvalid as exc:
            raise SerializationError(f"{exc} It is an artifact of the store; save the object again.") from exc
        needs |= audit.needs
        objects[payload.sha256] = load_payload(payload.data, audit.types)
    expected = predict(package.plan, spectra, package.blobs.load)
    found = predict(ReplayPlan.from_chain(package.chain), spectra, objects.__getitem__)
    if not agree(found, expected):
        raise ReplayError(
            f"Chain {package.chain['chain_id']!r} predicts other values after its objects went through skops: "
            f"{disagreement(found, expected)}. Nothing was written. Export a joblib bundle (safe=False)."
        )
    return untrusted(needs)


def audit_payloads(contents: Contents) -> Audit:
    """Find out what the payloads of a safe bundle are made of."""
    whole = Audit()
    for name, data in contents.payloads.items():
        audit = audit_payload(data, f"{contents.path}, member {name}", contents.limits)
        if audit.refused:
            raise BundleInvalid(
                f"{contents.path}: the member {name} holds what no safe bundle may hold: "
                f"{', '.join(sorted(audit.refused))}. Nothing was loaded; ask for a new export."
            )
        whole.types |= audit.types
        whole.needs |= audit.needs
    return whole


def load_safely(
    contents: Contents, trusted: Collection[str]
) -> tuple[dict[str, Any], list[warnings.WarningMessage]]:
    """Load the payloads of a safe bundle after all of them were audited."""
    audit = audit_payloads(contents)
    refuse_untrusted(untrusted(audit.needs, trusted), contents.path)
    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, data in contents.payloads.items():
            try:
                found[name] = load_payload(data, audit.types)
            except (MemoryError, PermissionError):
                raise
            except Exception as exc:
                raise BundleInvalid(
                    f"{contents.path}: the member {name} cannot be loaded: {type(exc).__name__}: "
                    f"{str(exc)[:300]}. No step is ever left out, so the bundle cannot predict; install the "
                    "packages and versions it was written with, or ask for a new export."
                ) from exc
    return found, caught
