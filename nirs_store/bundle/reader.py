"""Opening a bundle and predicting with it, without a store."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nirs_store.addresses import user_path
from nirs_store.blobs.code import CODE, check_code, refuse_other_python
from nirs_store.blobs.serializers import with_version
from nirs_store.bundle.card import readable
from nirs_store.bundle.container import DEFAULT_LIMITS, Limits, difference, read_npy, unpacked
from nirs_store.bundle.contents import Contents, read_contents
from nirs_store.bundle.manifest import BundleRecord, Manifest, chain_from_json, stated, written_by
from nirs_store.bundle.nirs4all import make_chain
from nirs_store.bundle.payload import Audit, audit_payload, load_payload, refuse_untrusted, untrusted
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.predictor import ChainPredictor
from nirs_store.chains.replay import predicted_classes
from nirs_store.display import table, with_unit
from nirs_store.domain import DOMAIN, Domain
from nirs_store.domain.scope import as_scope
from nirs_store.errors import BundleInvalid, InvalidInput, NirsStoreError, ReplayError, UntrustedBundle
from nirs_store.ids import sha256_hex

# -- Looking into a bundle without making anything of it.


@dataclass(frozen=True)
class Inspection:
    """What a bundle says and what was found in it; nothing of it was loaded.

    Attributes
    ----------
    path : str
        The file.
    kind : {"joblib", "skops"}
        With pickles, or without.
    verdict : {"opens as it is", "needs trusted_types", "needs allow_pickle"}
        What `load_bundle` requires to open it.
    needs_trust : tuple of str
        Types that must be trusted by name.
    types : tuple of str
        Everything that loading would make: of pickles what they name, as far as their opcodes tell.
    writer : str
        "nirs_store" or "another program".
    format_version : str
        Of the container.
    content_hash : str
        SHA-256 over objects and chain.
    members : tuple of (str, int)
        Every member of the archive with its size in bytes.
    environment, scores, units, facts : dict
        Facts that its writer stated, unchecked.
    notes : tuple of str
        Notes: what the export rearranged, or what looked strange when reading.
    card : str or None
        Its card.
    """

    path: str
    kind: str
    verdict: str
    needs_trust: tuple[str, ...]
    types: tuple[str, ...]
    writer: str
    format_version: str
    content_hash: str
    members: tuple[tuple[str, int], ...]
    environment: dict[str, str]
    scores: dict[str, Any]
    units: dict[str, Any]
    facts: dict[str, Any]
    notes: tuple[str, ...]
    card: str | None


def inspect_bundle(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Inspection:
    """Look into a bundle: its members, hashes, types and card. Nothing of it is loaded or run.

    Parameters
    ----------
    path : path
        The file.
    limits : Limits
        How large it may be.

    Raises
    ------
    BundleInvalid, BundleTooNew
        As for `load_bundle`.

    Examples
    --------
    >>> inspect_bundle("wheat.n4a").verdict
    'opens as it is'
    """
    contents = read_contents(user_path(path), limits)
    needs: tuple[str, ...] = ()
    if contents.kind == "joblib":
        types, verdict = contents.pickles.classes, "needs allow_pickle"
    else:
        audit = _audit(contents)
        types, needs = tuple(sorted(audit.types)), tuple(untrusted(audit.needs))
        verdict = "needs trusted_types" if needs else "opens as it is"
    return Inspection(
        path=str(contents.path),
        kind=contents.kind,
        verdict=verdict,
        needs_trust=needs,
        types=types,
        writer=written_by(contents.record),
        format_version=contents.manifest.format_version,
        content_hash=contents.content_hash,
        members=tuple(contents.sizes.items()),
        environment=stated(contents.record, "environment"),
        scores=stated(contents.record, "scores"),
        units=stated(contents.record, "units"),
        facts=stated(contents.record, "facts"),
        notes=contents.notes,
        card=None if contents.card is None else readable(contents.card),
    )


# -- Loading the objects of a bundle: pickles that its reader trusts, or payloads after all of them were audited.


def _unpickle(data: bytes) -> Any:
    import joblib

    return with_version(joblib.load(io.BytesIO(data)), data)


def _audit(contents: Contents) -> Audit:
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


def _load(
    contents: Contents, load: Callable[[bytes], Any]
) -> tuple[dict[str, Any], list[warnings.WarningMessage]]:
    """Load every object by the SHA-256 of its member; of pickles, code of the bundle's writer runs from here on."""
    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, data in contents.payloads.items():
            try:
                found[contents.hashes[name]] = load(data)
            except (MemoryError, UntrustedBundle):
                raise
            except Exception as exc:
                raise _unloadable(contents, name, exc) from exc
    return found, caught


# Compiled modules of scikit-learn that old pickles name as if they were packages.
_OF_SKLEARN = frozenset({"_loss", "_sgd_fast", "_criterion", "_splitter", "_tree", "_kd_tree", "_ball_tree"})


def _unloadable(contents: Contents, member: str, exc: Exception) -> BundleInvalid:
    words = f"{type(exc).__name__}: {exc}"
    if contents.kind == "skops":
        return BundleInvalid(
            f"{contents.path}: the member {member} cannot be loaded: {words[:300]}. No step is ever left out, so the "
            "bundle cannot predict; install the packages and versions it was written with, or ask for a new export."
        )
    missing = str(exc.name or "") if isinstance(exc, ModuleNotFoundError) else ""
    package = missing.partition(".")[0]
    if package in _OF_SKLEARN or missing.startswith("sklearn."):
        import sklearn

        wrote = " or ".join(contents.pickles.sklearn_versions) or "another version"
        return BundleInvalid(
            f"{contents.path} was pickled with scikit-learn {wrote}, whose module {missing!r} scikit-learn "
            f"{sklearn.__version__}, which is installed here, does not have. Install scikit-learn {wrote}, or ask for "
            "an export made with the version that is installed here."
        )
    if package:
        needed = [name for name in contents.pickles.classes if name.partition(".")[0] == package]
        return BundleInvalid(
            f"{contents.path} needs classes of the package {package!r}, which is not installed here: "
            f"{', '.join(needed[:8]) or missing}. Install it, or ask for an export whose steps are scikit-learn's."
        )
    return BundleInvalid(
        f"{contents.path}: the member {member} cannot be loaded: {words}. No step is ever left out, so the bundle "
        f"cannot predict. It names {contents.pickles.describe()}; install the packages they come from in about the "
        "versions that wrote it, or copy or export the bundle again."
    )


def load_bundle(
    path: str | Path,
    *,
    allow_pickle: bool = False,
    trusted_types: Iterable[str] = (),
    limits: Limits = DEFAULT_LIMITS,
    strict: bool = False,
) -> Bundle:
    """Open a ``.n4a`` bundle: one that this library exported, or one of version 1.0 from nirs4all.

    A bundle without pickles (exported with ``safe=True``) opens as it is, when it is made of types that only do
    array arithmetic. Everything is checked before anything is made: the archive, each hash, each type, and at
    last that the model predicts for its probe spectra what it did where it was exported.

    Parameters
    ----------
    path : path
        The file.
    allow_pickle : bool
        Whether objects may be loaded from pickles, which **runs code that the writer of the file has
        chosen**. Say True only for a file whose writer you trust; its hashes show that it is complete, not
        who made it.
    trusted_types : iterable of str
        Fully qualified names of further types that a bundle without pickles may hold, for this call. Tree
        ensembles, support vector machines and nearest neighbors need it; the error names what is missing. Types
        for every call are written into the file that `nirs_store.blobs.trusted.configuration_file` gives.
    limits : Limits
        How large it may be.
    strict : bool
        Raise CodeChanged, instead of a CodeChangedWarning, where classes or functions outside installed packages
        are not those with which the chain was recorded.

    Returns
    -------
    Bundle
        With everything loaded: the file is closed and may be deleted.

    Raises
    ------
    UntrustedBundle
        It holds pickles and `allow_pickle` is False, or types that are not trusted. The message lists them.
    BundleInvalid
        Not a bundle; damaged, incomplete or contradictory; an object cannot be loaded here; or the chain does
        not predict the numbers that the bundle says it should.
    BundleTooNew
        A format version above 1.0.

    Examples
    --------
    >>> bundle = load_bundle("wheat.n4a")
    >>> bundle.predict(X).shape
    (54,)
    """
    if isinstance(trusted_types, str):
        raise InvalidInput("trusted_types: expected a list of names, found one text. Nothing was opened.")
    return open_contents(read_contents(user_path(path), limits), allow_pickle, tuple(trusted_types), strict)


def open_contents(
    contents: Contents, allow_pickle: bool, trusted_types: Collection[str], strict: bool = False
) -> Bundle:
    """Load a bundle that was read; see `load_bundle`."""
    path = contents.path
    if contents.kind == "skops":
        chain, plan = _chain(contents, {})
        audit = _audit(contents)
        refuse_untrusted(untrusted(audit.needs, trusted_types), path)
        objects, caught = _load(contents, lambda data: load_payload(data, audit.types))
    else:
        if not allow_pickle:
            raise UntrustedBundle(
                f"{path} holds {len(contents.payloads)} pickled objects, which name "
                f"{contents.pickles.describe()}. Opening a pickle runs code that its author chose, before "
                "anything in it can be checked. Nothing was loaded. If you trust its author, call "
                "load_bundle(path, allow_pickle=True); else ask for an export with safe=True."
            )
        refuse_other_python(_code(contents), str(path))
        objects, caught = _load(contents, _unpickle)
        chain, plan = _chain(contents, objects)
    _warn(contents, caught)
    check_code(_code(contents), str(path), strict=strict, stacklevel=3)
    data = domain_bytes(contents)
    chain["metadata"] = {key: value for key, value in (chain.get("metadata") or {}).items() if key != DOMAIN}
    domain = None
    if data is not None:
        chain["metadata"][DOMAIN] = sha256_hex(data)
        try:
            domain = Domain.from_bytes(data)
        except ValueError as exc:
            raise _no_domain(contents, exc) from exc
    bundle = Bundle(contents, chain, plan, objects, domain)
    _compare_probe(bundle, contents)
    return bundle


def domain_bytes(contents: Contents) -> bytes | None:
    """Return the calibration's domain as it was stored; None where the bundle has none."""
    name = None if contents.record is None else contents.record.domain
    if not isinstance(name, str):
        return None
    try:
        held = read_npy(contents.arrays[name])
        if held.dtype != "uint8" or held.ndim != 1:
            raise ValueError("it is not an array of bytes")
    except (KeyError, ValueError) as exc:
        raise _no_domain(contents, exc) from exc
    return held.tobytes()


def _no_domain(contents: Contents, exc: Exception) -> BundleInvalid:
    return BundleInvalid(
        f"{contents.path}: the domain of its calibration cannot be read: {exc}. Ask for a new export."
    )


class Bundle(ChainPredictor):
    """A chain out of a bundle: a fitted scikit-learn estimator. Made by `load_bundle`.

    Its base class describes what it can do besides predicting, `ChainPredictor`.

    Attributes
    ----------
    path : Path
        Where it came from.
    manifest : Manifest
        ``manifest.json`` as a mapping.
    record : BundleRecord or None
        ``nirs_store.json``: members, scores, units, environment; None when another program wrote the bundle.
    chain : dict
        The chain as ``store.get_chain`` gives one; artifact ids are the SHA-256 of the members.
    notes : tuple of str
        Notes: what the export rearranged, or what looked strange when reading.
    """

    _title = "Bundle"

    def __init__(
        self,
        contents: Contents,
        chain: dict[str, Any],
        plan: ReplayPlan,
        objects: Mapping[str, Any],
        domain: Domain | None = None,
    ) -> None:
        super().__init__(chain, objects.__getitem__, plan=plan, domain=domain)
        self.path: Path = contents.path
        self.manifest: Manifest = contents.manifest
        self.record: BundleRecord | None = contents.record
        self.notes: tuple[str, ...] = contents.notes
        self._loaded = dict(objects)
        try:
            self.scope = as_scope(self.facts.get("calibration_scope"))
        except InvalidInput as error:
            raise BundleInvalid(f"{self.path} has a scope that cannot be read ({error})") from error

    def object_of(self, artifact_id: str) -> Any:
        """Return a fitted object of the chain by its id; it is shared, so do not change it."""
        return self._loaded[artifact_id]

    @property
    def classes(self) -> NDArray[Any]:
        """Labels that a classifier can predict, in the order of the columns of `predict_proba`."""
        return predicted_classes(self._plan, self._objects.__getitem__)

    @property
    def scores(self) -> dict[str, Any]:
        """Figures of merit that the writer stated, by name."""
        return stated(self.record, "scores")

    @property
    def facts(self) -> dict[str, Any]:
        """Other facts that the writer stated: ``calibration`` is the name and version, such as ``fat@v3``."""
        return stated(self.record, "facts")

    @property
    def units(self) -> dict[str, Any]:
        """What the writer stated about target, units and task."""
        return stated(self.record, "units")

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        model = str(self.chain.get("model_class") or "model").rpartition(".")[2]
        count = len(self._plan.folds)
        parts = [f"{model[:60]!s}", f"{count} folds averaged" if count > 1 else "one model"]
        if self._plan.wavelengths is not None:
            grid = self._plan.wavelengths
            unit = str(self.units.get("wavelength_unit") or "").strip()[:10]
            parts.append(f"{grid.size} channels {grid[0]:g} to {grid[-1]:g} {unit}".strip())
        if self.units.get("target"):
            parts.append(f"predicts {str(self.units['target'])[:40]!r}")
        made = f"format {self.manifest.format_version} from {written_by(self.record)}"
        return f"<Bundle {self.path.name!r}: {', '.join(parts)}; {made}>"

    def _facts(self) -> dict[str, Any]:
        grid, units = self._plan.wavelengths, {key: str(value or "") for key, value in self.units.items()}
        target, unit = units.get("target", ""), units.get("wavelength_unit", "")
        return {
            "file": self.path.name,
            "calibration": self.facts.get("calibration"),
            "target": with_unit(target, units.get("target_unit")) if target else target,
            "channels": None if grid is None else f"{grid.size}, {grid[0]:g} to {grid[-1]:g} {unit}".strip(),
            "models": ", ".join(self._plan.folds) or "one",
            "format": self.manifest.format_version,
            "written by": written_by(self.record),
            "written with": stated(self.record, "environment") or None,
            "notes": " ".join(self.notes),
        }

    def _repr_html_(self) -> str:
        scores = [(name, value) for name, value in self.scores.items() if isinstance(value, (int, float))]
        return super()._repr_html_() + (table(("score", "value"), scores) if scores else "")


def _code(contents: Contents) -> Any:
    metadata = (contents.record.chain if contents.record else {}).get("metadata")
    return metadata.get(CODE) if isinstance(metadata, Mapping) else None


def _warn(contents: Contents, caught: Iterable[warnings.WarningMessage]) -> None:
    """Say once what scikit-learn says for each estimator, and pass on everything else."""
    import sklearn
    from sklearn.exceptions import InconsistentVersionWarning

    others: set[str] = set()
    for entry in caught:
        if isinstance(entry.message, InconsistentVersionWarning):
            others.add(str(entry.message.original_sklearn_version)[:20])
        else:
            warnings.warn_explicit(entry.message, entry.category, entry.filename, entry.lineno)
    stated = contents.record.environment.get("scikit-learn") if contents.record else None
    if stated is not None and stated != sklearn.__version__:
        others.add(stated[:20])
    if others:
        verb = "was pickled" if contents.kind == "joblib" else "was written"
        warnings.warn(
            f"{contents.path.name} {verb} with scikit-learn {' and '.join(sorted(others))}, and "
            f"{sklearn.__version__} is installed here. It was loaded, but its predictions may differ; compare "
            "some, or install that version.",
            UserWarning,
            stacklevel=4,
        )


def _chain(contents: Contents, objects: Mapping[str, Any]) -> tuple[dict[str, Any], ReplayPlan]:
    if contents.record is not None:
        chain = chain_from_json(contents.record.chain)
    else:
        assert contents.outline is not None
        chain = make_chain(contents.outline, contents.manifest, contents.hashes, objects, contents.path)
    there = {contents.hashes[name] for name in contents.payloads}
    try:
        named = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
        plan = ReplayPlan.from_chain(chain)
    except KeyError as exc:
        raise BundleInvalid(f"{contents.path}: its chain has no {exc}. Ask for a new export.") from exc
    except (InvalidInput, ReplayError) as exc:
        raise BundleInvalid(
            f"{contents.path}: its chain cannot be replayed: {exc} Ask for a new export."
        ) from exc
    if contents.kind == "skops" and (made := plan.stateless_classes):
        raise BundleInvalid(
            f"{contents.path}: its chain makes objects from the names of their classes ({', '.join(made)[:200]}), "
            "which no safe bundle does. Nothing was loaded; ask for a new export."
        )
    if missing := [identifier for identifier in named if identifier not in there]:
        raise BundleInvalid(
            f"{contents.path}: its chain names an object with the SHA-256 {missing[0][:64]!r}, which no member has. "
            "No step is ever left out, so the bundle cannot predict; ask for a new export."
        )
    return chain, plan


def _compare_probe(bundle: Bundle, contents: Contents) -> None:
    from joblib import parallel_config

    record = contents.record
    if record is None or record.probe is None:
        return
    probe = record.probe
    try:
        parts = [read_npy(contents.arrays[name]) for name in probe.spectra]
        grids = [read_npy(contents.arrays[name]) for name in probe.wavelengths or ()]
        expected = read_npy(contents.arrays[probe.expected])
    except (KeyError, ValueError) as exc:
        raise BundleInvalid(f"{contents.path}: its probe spectra cannot be read: {exc}.") from exc
    try:
        # A model that was fitted with n_jobs starts threads, and no process, before anybody has seen that it predicts.
        with parallel_config(backend="threading"):
            found = bundle.predict(*unpacked(parts, grids, probe.sources))
    except MemoryError:
        raise
    except Exception as exc:
        # An estimator out of a file may lack any attribute, so it may fail in any way.
        words = str(exc) if isinstance(exc, NirsStoreError) else f"{type(exc).__name__}: {exc}"
        raise BundleInvalid(
            f"{contents.path}: it cannot predict its own probe spectra: {words[:600]}"
        ) from exc
    if differs := difference(found, expected):
        raise BundleInvalid(
            f"{contents.path}: on its own probe spectra it predicts other values here than when it was exported: "
            f"{differs}. It was exported with {_environment(record.environment)}. Its "
            "predictions cannot be relied on here; use those versions, or export the chain again."
        )


def _environment(environment: Mapping[str, str]) -> str:
    return ", ".join(f"{name[:30]} {version[:30]}" for name, version in sorted(environment.items()))
