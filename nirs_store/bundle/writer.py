"""Writing a chain as a ``.n4a`` bundle of version 1.0.

The same chain gives the same bytes: members are stored uncompressed (models hardly shrink), in a fixed order,
with a fixed date. The file appears under its name only when it is complete.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from nirs_store.addresses import refuse_address, user_path
from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.bundle.card import card_text, seeds
from nirs_store.bundle.container import DEFAULT_LIMITS, clean, difference, dump_json, stored_archive, unpacked
from nirs_store.bundle.manifest import (
    CARD,
    FORMAT_VERSION,
    MANIFEST,
    RECORD,
    RECORD_VERSION,
    BundleRecord,
    Member,
    Origin,
    Probe,
    Role,
    VersionOne,
    dump_record,
    library_version,
    read_environment,
)
from nirs_store.bundle.pack import ChainSource, Package, Payload, pack_chain, pack_safely
from nirs_store.bundle.payload import audit_payload, load_payload, untrusted
from nirs_store.chains.folds import REFIT, fold_number
from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.replay import predict
from nirs_store.chains.spectra import Spectra, read_spectra
from nirs_store.errors import BundleInvalid, InvalidInput, NirsStoreError, ReplayError, SerializationError
from nirs_store.ids import sha256_hex

SUFFIX = ".n4a"
_UNITS = ("target", "target_unit", "wavelength_unit", "task_type", "classes", "dataset_name")


def export_chain(
    source: ChainSource,
    chain_id: str,
    output_path: str | Path,
    *,
    probe: Any = None,
    predictions: Any = None,
    scores: Mapping[str, Any] | None = None,
    units: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    safe: bool = False,
) -> Path:
    """Write a stored chain as a ``.n4a`` bundle that predicts without the store.

    There are two kinds. With pickles (joblib), for people who trust each other; nirs4all reads it, too. And safe:
    skops payloads and no pickle, which `load_bundle` opens without being told to trust anybody.

    Parameters
    ----------
    source : ChainSource
        The store, or anything that can look up chains and artifacts.
    chain_id : str
        The chain.
    output_path : path
        The file to write; ``.n4a`` is added when it does not end so. Missing folders are made, an existing
        file is replaced when the new one is complete.
    probe : array or data frame of shape (n_samples, n_channels), optional
        A few spectra to travel with the chain, together with what it predicts for them; a program that opens the
        bundle then knows that it predicts the same there. Wavelengths that the columns of a data frame name
        travel too, where the chain looks at them.
    predictions : array, optional
        What the chain must predict for `probe`. Compared before anything is written.
    scores : mapping, optional
        Figures of merit by name, as RMSECV; NaN becomes null.
    units : mapping, optional
        ``target``, ``target_unit``, ``wavelength_unit`` and the like; what is not given comes from the
        chain's metadata.
    facts : mapping, optional
        What the card says beyond that: ``dataset_name``, ``dataset_hash``, ``run_name``, ``created_at``,
        ``git_commit``, ``environment``, ``n_test_samples``.
    safe : bool
        Write the safe kind. Without `probe`, made-up spectra travel with it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UnknownId
        No such chain.
    ArtifactMissing, BlobMissing, BlobCorrupt
        An artifact of the chain is not there or is damaged.
    ReplayError
        The chain cannot predict, or predicts something else than `predictions`.
    InvalidInput
        The path is a folder, the bundle would be larger than readers accept, or the probe cannot be kept in a
        form of which the chain predicts the same.
    SerializationError
        With `safe`: an object that skops cannot carry; its class is named.
    WriteFailed, ReadOnlyStore
        The system refused. In every case an existing file stays as it was.

    Examples
    --------
    >>> export_chain(store, chain_id, "exports/wheat").as_posix()
    'exports/wheat.n4a'
    """
    target = target_path(output_path, SUFFIX)
    if predictions is not None and probe is None:
        raise InvalidInput("predictions were given without probe; give the spectra that they belong to.")
    made_up = safe and probe is None
    if safe:
        package, probe = pack_safely(source, chain_id, probe)
    else:
        package = pack_chain(source, chain_id, probe)
    described, arrays = _probe(package, probe, predictions)
    of_domain = None if package.domain is None else _array(np.frombuffer(package.domain, dtype=np.uint8))
    if of_domain is not None:
        arrays.append(of_domain)  # older readers take it for an array of the probe
    needs_trust = _rehearse(package, probe) if safe else []
    metadata = package.chain["metadata"] or {}
    known = {key: metadata[key] for key in _UNITS if metadata.get(key) is not None}
    stated = clean({"scores": dict(scores or {}), "units": {**known, **(units or {})}})
    stated["facts"] = clean({"seeds": seeds(package.chain["steps"]), **(facts or {})})
    card = card_text(
        package.chain,
        **stated,
        environment=read_environment(),
        kind=package.kind,
        needs_trust=needs_trust,
        notes=package.notes,
        probe="" if described is None else "Made-up spectra" if made_up else "A few spectra",
    )
    members = _members(package, arrays, card)
    record = BundleRecord(
        record_version=RECORD_VERSION,
        kind=package.kind,
        members=tuple(
            Member(name=each.name, size=len(each.data), sha256=each.sha256, role=each.role)
            for each in members
        ),
        chain=package.chain,
        origin=Origin(
            **{key: package.chain[key] for key in ("chain_id", "pipeline_id", "model_class", "created_at")}
        ),
        version_1_0=VersionOne(expressible=package.expressible, notes=package.notes),
        environment=read_environment(),
        **stated,
        probe=described,
        card=CARD,
        domain=UNSET if of_domain is None else of_domain.name,
    )
    whole = [members[0], _member(RECORD, dump_record(record)), *members[1:]]
    _refuse_too_large(whole)
    ensure_dir(target.parent)
    write_file(target, stored_archive([(each.name, each.data) for each in whole]))
    return target


def target_path(output_path: str | Path, suffix: str) -> Path:
    """Return the file that is meant by a path, with the suffix added when it is not there."""
    refuse_address(output_path, "output_path")
    path = user_path(output_path)
    if "\x00" in str(path):
        raise InvalidInput(f"{str(path)!r} cannot be the name of a file. Nothing was written.")
    # Path.is_dir raises for a name that is too long.
    if path.name in ("", ".", "..") or os.path.isdir(path):  # noqa: PTH112
        raise InvalidInput(
            f"{path} is a folder. Give the name of the file to write, such as {path / ('model' + suffix)}."
        )
    return path if path.name.endswith(suffix) else path.with_name(path.name + suffix)


def _member(name: str, data: bytes, role: Role = "description") -> Payload:
    return Payload(name, role, data, sha256_hex(data))


def _members(package: Package, arrays: list[Payload], card: str) -> list[Payload]:
    """List every member but the record, which lists them."""
    texts: dict[str, Any] = {MANIFEST: _manifest(package)}
    chain = package.chain
    if package.pipeline is not None:
        texts["pipeline.json"] = {"steps": package.pipeline, "model_step_index": chain["model_step_idx"]}
        keys = ("steps", "model_step_idx", "fold_artifacts", "shared_artifacts")
        texts["chain.json"] = {key: chain[key] for key in keys}
        if chain["fold_weights"]:
            # Readers of version 1.0 turn every key into an integer.
            weights = {str(fold_number(fold)): weight for fold, weight in chain["fold_weights"].items()}
            texts["fold_weights.json"] = weights
    found = [_member(name, dump_json(text)) for name, text in texts.items()]
    return [*found, _member(CARD, card.encode(), "card"), *package.payloads, *arrays]


def _manifest(package: Package) -> dict[str, Any]:
    chain = package.chain
    folds = chain["fold_artifacts"]
    if chain["fold_weights"]:
        strategy = "weighted_average"
    elif REFIT in folds:
        strategy = "single_refit"
    else:
        strategy = "per_fold" if folds else "single"
    keys: dict[str, Any] = {
        "bundle_format_version": FORMAT_VERSION,
        "fold_strategy": strategy,
        "pipeline_uid": chain["pipeline_id"] or "",
        "created_at": chain["created_at"] or "",
        "preprocessing_chain": chain["preprocessings"],
        "preprocessings": chain["preprocessings"],
        "chain_id": chain["chain_id"],
        "model_class": chain["model_class"],
        "has_refit": REFIT in folds,
        "artifact_integrity": {item.name: f"sha256:{item.sha256}" for item in package.payloads},
        "generator": f"nirs_store {library_version()}",
        "members_listed_in": RECORD,
    }
    if package.expressible:
        # Without this key other readers find no model and say so, where their prediction would be wrong.
        keys["model_step_index"] = chain["model_step_idx"]
    return keys


def _rehearse(package: Package, spectra: Any) -> list[str]:
    """Load a package without pickles as its reader will, and compare what it predicts with the stored chain."""
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
    if differs := difference(found, expected):
        raise ReplayError(
            f"Chain {package.chain['chain_id']!r} predicts other values after its objects went through skops: "
            f"{differs}. Nothing was written. Export a joblib bundle (safe=False)."
        )
    return untrusted(needs)


def _probe(package: Package, probe: Any, predictions: Any) -> tuple[Probe | None, list[Payload]]:
    """Predict the probe and give its description and its arrays."""
    if probe is None:
        return None, []
    expected = predict(package.plan, probe, package.blobs.load)
    if predictions is not None and (differs := difference(np.asarray(predictions), expected)):
        raise ReplayError(
            f"Chain {package.chain['chain_id']!r} does not predict what was given for the probe: {differs}. Nothing "
            "was written. Check that the spectra are the ones that the predictions were made from."
        )
    # The replay has accepted the grid, which need not be the one that the chain was trained on.
    spectra = read_spectra(package.plan, probe, adapts=lambda: "required")
    grids = _own_grids(package, spectra)
    sources = _numbered(package.plan, len(spectra.parts))
    if not isinstance(probe, np.ndarray):
        _refuse_other_predictions(package, unpacked(spectra.parts, grids, sources), expected)
    arrays = [_array(np.asarray(array)) for array in (*spectra.parts, *grids, expected)]
    names = [each.name for each in arrays]
    count = len(spectra.parts)
    described = Probe(
        spectra=tuple(names[:count]),
        expected=names[-1],
        sources=sources,
        wavelengths=tuple(names[count:-1]) if grids else UNSET,
    )
    return described, list({each.name: each for each in arrays}.values())


def _own_grids(package: Package, spectra: Spectra) -> tuple[NDArray[np.float64], ...]:
    """Return the grids of a probe where the chain looks at them and the bundle holds no such elsewhere."""
    plan = package.plan
    named = tuple(grid for grid in spectra.grids if grid is not None)
    if not named or len(named) < len(spectra.grids):
        return ()
    if plan.wavelengths is not None and np.array_equal(np.concatenate(named), plan.wavelengths):
        return ()
    bench = Workbench(package.blobs.load, plan.memory)
    return named if any(bench.open(operator)[1].wavelengths for operator in plan.operators) else ()


def _numbered(plan: ReplayPlan, count: int) -> tuple[int, ...]:
    """Return the number of each source of a probe; nothing where one block needs none."""
    known = plan.sources or (() if plan.source_index is None else (plan.source_index,))
    if len(known) == count or (count == 1 and not known):
        return tuple(known)
    return tuple(range(count))


def _refuse_other_predictions(package: Package, held: tuple[Any, Any], expected: NDArray[Any]) -> None:
    """Refuse a probe whose arrays alone do not say what the data frame, or the sources, have said."""
    # Such a bundle could never be opened: it would not predict its own probe.
    X, wavelengths = held
    try:
        found = predict(package.plan, X, package.blobs.load, wavelengths)
        words = difference(found, expected)
    except NirsStoreError as error:
        words = str(error)
    if words:
        raise InvalidInput(
            "A bundle holds its probe as arrays, each with its wavelengths or all without, and so the chain does not "
            f"predict the same: {words} Nothing was written. Name the columns of every source after its "
            "wavelengths, or give another probe, or none."
        )


def _array(array: NDArray[Any]) -> Payload:
    if array.dtype.kind == "O":
        # Labels kept as objects are text; anything else would need a pickle.
        array = array.astype(str)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    found = _member("", buffer.getvalue(), "probe")
    return replace(found, name=f"arrays/{found.sha256}.npy")


def _refuse_too_large(members: list[Payload]) -> None:
    limits = DEFAULT_LIMITS
    sizes = [len(each.data) for each in members]
    if (
        len(members) > limits.members
        or max(sizes) > limits.member_bytes
        or sum(sizes) > limits.total_bytes - (1 << 20)
    ):
        raise InvalidInput(
            f"The bundle would have {len(members):,} members and {sum(sizes):,} bytes, the largest {max(sizes):,}; "
            f"readers accept {limits.members:,}, {limits.total_bytes:,} and {limits.member_bytes:,}. Nothing was "
            "written. Export a refit instead of its folds, or a smaller model."
        )
