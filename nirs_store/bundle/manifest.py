"""The two descriptions inside a bundle, as typed values.

``manifest.json`` belongs to version 1.0 of the format and is read by others too. ``nirs_store.json`` is this
library's own: every member with its size and SHA-256, the chain as it travels, the versions it was exported
with, scores and units, and spectra with the predictions they must give.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from nirs_store.bundle.container import clean, dump_json, parse_object
from nirs_store.chains.folds import stack_sources
from nirs_store.chains.plan import MERGE, MODEL, SPLITTER, STACKED, TARGETS
from nirs_store.display import with_unit
from nirs_store.errors import BundleInvalid, BundleTooNew
from nirs_store.scores import METRICS, RMSE_BY_SET, is_figure

__all__ = [
    "CARD",
    "FORMAT_VERSION",
    "MANIFEST",
    "RECORD",
    "RECORD_VERSION",
    "ArtifactName",
    "BundleRecord",
    "Chain",
    "ChainStep",
    "Kind",
    "Manifest",
    "Member",
    "Origin",
    "Probe",
    "VersionOne",
    "by_step",
    "card_text",
    "dump_record",
    "fold_of",
    "in_order",
    "in_words",
    "library_version",
    "parse_artifact_name",
    "parse_record",
    "read_environment",
    "readable",
    "seeds",
]


# -- Steps of a chain in the words of the field.


_ORDINALS = {1: "first", 2: "second", 3: "third"}

# Words for a class, whichever package it comes from; {name} is filled in from its parameters.
_WORDS = {
    "StandardNormalVariate": "standard normal variate: each spectrum centered and divided by its standard deviation",
    "RobustNormalVariate": "robust normal variate, on the lower {percentile} % of each spectrum",
    "MultiplicativeScatterCorrection": "multiplicative scatter correction to the {method} spectrum",
    "ExtendedMultiplicativeScatterCorrection": "extended multiplicative scatter correction of order {order}",
    "NorrisWilliams": "Norris-Williams derivative of order {deriv} (window {window_length}, gap {gap_size})",
    "SavitzkyGolayFilter": "Savitzky-Golay smoothing (window of {window_length} channels)",
    "MeanFilter": "moving mean",
    "MedianFilter": "moving median",
    "WhittakerSmooth": "Whittaker smoothing",
    "LinearCorrection": "straight baseline between the ends of each spectrum subtracted",
    "PolynomialCorrection": "polynomial baseline of order {order} subtracted",
    "AirPls": "baseline by adaptive iteratively reweighted penalised least squares subtracted",
    "ArPls": "baseline by asymmetrically reweighted penalised least squares subtracted",
    "AsLs": "baseline by asymmetric least squares subtracted",
    "RangeCut": "only the channels from {start} to {end}",
    "StandardScaler": "each channel centered and scaled to unit variance",
    "RobustScaler": "each channel centered on its median and scaled by its interquartile range",
    "MinMaxScaler": "scaled to a fixed range",
    "Normalizer": "each spectrum scaled to unit {norm} norm",
    "PCA": "principal components: {n_components}",
    "PLSRegression": "partial least squares regression with {n_components} latent variables",
    "PLSCanonical": "canonical partial least squares with {n_components} components",
    "Ridge": "ridge regression with penalty {alpha}",
    "Lasso": "lasso with penalty {alpha}",
    "LinearRegression": "linear regression by least squares",
    "SVR": "support vector regression with {kernel} kernel, C {C}",
    "SVC": "support vector classifier with {kernel} kernel, C {C}",
    "RandomForestRegressor": "random forest of {n_estimators} trees",
    "RandomForestClassifier": "random forest of {n_estimators} trees",
    "KFold": "cross-validation with {n_splits} folds",
    "GroupKFold": "cross-validation with {n_splits} folds, groups kept together",
    "StratifiedKFold": "cross-validation with {n_splits} folds, classes in equal shares",
    "ShuffleSplit": "{n_splits} random splits",
    "LeaveOneOut": "leave-one-out cross-validation",
}


def in_words(name: str, params: Mapping[str, Any]) -> str:
    """Describe a step."""
    short = name.rpartition(".")[2] or "unknown step"
    if short == "SavitzkyGolay" and "window_length" in params:
        deriv = params.get("deriv", 1)
        kind = f"{_ORDINALS.get(deriv, f'{deriv}th')} derivative" if deriv else "smoothing"
        return (
            f"Savitzky-Golay {kind} (window of {params['window_length']} channels, polynomial of order "
            f"{params.get('polyorder')}) (SavitzkyGolay)"
        )
    template = _WORDS.get(short)
    if template is not None:
        try:
            return f"{template.format_map(dict(params))} ({short})"
        except (KeyError, IndexError, ValueError, AttributeError):
            # Recorded without that parameter: the name alone has to do.
            pass
    shown = ", ".join(f"{key}={_short(value)}" for key, value in sorted(params.items()))
    return f"{short}({shown})"


def seeds(steps: Any) -> list[str]:
    """List the random states among the parameters of steps, nested ones included, as "KFold 0"."""
    found: dict[str, None] = {}

    def visit(owner: str, params: Any) -> None:
        if isinstance(params, Mapping):
            inner = str(params.get("class") or params.get("operator_class") or owner)
            for key, value in params.items():
                if (
                    str(key).endswith("random_state")
                    and isinstance(value, int)
                    and not isinstance(value, bool)
                ):
                    found[f"{inner.rpartition('.')[2]} {value}"] = None
                else:
                    visit(inner, value)
        elif isinstance(params, list):
            for item in params:
                visit(owner, item)

    visit("", list(steps))
    return list(found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# -- The card of a bundle: what a person should know before using somebody else's model, as Markdown.


CARD = "card.md"
_LONGEST = 64 << 10

# A score's name, its label, what it is, and whether it has the unit of the target.
_SCORES = (
    *((name, name.upper(), meaning, True) for name, meaning in RMSE_BY_SET.items()),
    *((name, each.label, each.help, each.in_units) for name, each in METRICS.items() if name != "rmse"),
)


def card_text(
    chain: Mapping[str, Any],
    *,
    scores: Mapping[str, Any],
    units: Mapping[str, Any],
    facts: Mapping[str, Any],
    environment: Mapping[str, str],
    kind: str,
    needs_trust: Sequence[str] = (),
    notes: Sequence[str] = (),
    probe: str = "",
) -> str:
    """Write the card."""
    model: Mapping[str, Any] = next(
        (step for step in chain["steps"] if step.get("operator_type") in (MODEL, STACKED)), {}
    )
    name = str(chain.get("model_class") or model.get("operator_class") or "model").rpartition(".")[2]
    target, unit = str(units.get("target") or ""), str(units.get("target_unit") or "")
    what = with_unit(target, unit) if target else target
    lines = [f"# {_plain(name)} for {_plain(what)}" if what else f"# {_plain(name)}", ""]
    lines += _table(_subject(chain, units, facts, what))
    lines += ["", "## From spectrum to prediction", ""]
    lines += [f"{place}. {_plain(text, 1200)}" for place, text in enumerate(_steps(chain), start=1)]
    lines += ["", "## Figures of merit", "", *_scores(scores, unit)]
    lines += ["", "## How it was made", "", *_table(_origin(chain, facts, environment))]
    lines += ["", "## Opening it", "", *_opening(kind, needs_trust, probe)]
    if notes:
        lines += ["", "## Notes", "", *(f"- {_plain(note, 600)}" for note in notes)]
    return "\n".join(lines) + "\n"


def readable(text: str) -> str:
    """Make a card from a stranger fit for a terminal: no control characters, not endless."""
    kept = "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text[:_LONGEST])
    return kept + ("\n[cut]" if len(text) > _LONGEST else "")


def _subject(
    chain: Mapping[str, Any], units: Mapping[str, Any], facts: Mapping[str, Any], what: str
) -> list[tuple[str, Any]]:
    grid, unit = chain.get("wavelengths"), str(units.get("wavelength_unit") or "")
    metadata = chain.get("metadata") or {}
    channels = metadata.get("n_features")
    if grid:
        step = (grid[-1] - grid[0]) / (len(grid) - 1) if len(grid) > 1 else 0.0
        wavelengths = f"{grid[0]:g} to {grid[-1]:g} {unit}".strip()
        wavelengths += f", {len(grid)} channels, {step:.4g} apart on average"
    else:
        wavelengths = f"not recorded; {channels} channels" if channels else "not recorded"
    n_test = facts.get("n_test_samples")
    samples = metadata.get("n_samples") or facts.get("n_samples")
    return [
        ("predicts", what or "not recorded"),
        ("task", units.get("task_type")),
        ("classes", ", ".join(_listed(units.get("classes"))[:20])),
        ("wavelengths", wavelengths),
        ("calibration samples", samples),
        ("test samples", n_test or None),
        ("data set", facts.get("dataset_name") or units.get("dataset_name")),
        ("data set hash", metadata.get("data_hash") or facts.get("dataset_hash")),
    ]


def _steps(chain: Mapping[str, Any]) -> list[str]:
    words = []
    for step in sorted(chain["steps"], key=lambda step: int(step["step_idx"])):
        kind = step.get("operator_type")
        if kind == SPLITTER:
            continue
        text = in_words(str(step.get("operator_class") or ""), step.get("params") or {})
        if branch := step.get("branch_path"):
            text = f"On branch {'.'.join(map(str, branch))}: {text}"
        if kind == MERGE:
            text = "What the branches give is put side by side"
        elif kind == STACKED:
            fed = ["; ".join(_steps(source)) for source in stack_sources(step, "step")]
            text = f"{text}, fed with the predictions of {len(fed)} models: " + "; ".join(
                f"({place}) {one}" for place, one in enumerate(fed, start=1)
            )
        elif kind == TARGETS:
            text = f"Reference values (undone after prediction): {text}"
        elif kind == MODEL:
            folds = [fold for fold in chain["fold_artifacts"] if "final" not in fold]
            refit = any("final" in fold for fold in chain["fold_artifacts"])
            if folds and not refit:
                text += f"; {len(folds)} models, one a fold, whose predictions are averaged"
            elif refit:
                text += ", fitted on all calibration samples"
        words.append(text)
    return words


def _scores(scores: Mapping[str, Any], unit: str) -> list[str]:
    named = {str(key).lower().replace(" ", "_"): value for key, value in scores.items()}
    rows = []
    for name, label, meaning, in_units in _SCORES:
        if is_figure(named.get(name)):
            shown = f"{named.pop(name):.4g}" + (f" {_plain(unit)}" if unit and in_units else "")
            rows.append(f"| {label} | {shown} | {meaning} |")
    others = [f"| {_plain(key)} | {value:.4g} | |" for key, value in named.items() if is_figure(value)]
    if not rows and not others:
        return ["None were recorded."]
    return ["| score | value | meaning |", "|---|---|---|", *rows, *others]


def _origin(
    chain: Mapping[str, Any], facts: Mapping[str, Any], environment: Mapping[str, str]
) -> list[tuple[str, Any]]:
    told = facts.get("environment")
    trained = told if isinstance(told, Mapping) and told else environment
    splitters = [
        in_words(str(step.get("operator_class") or ""), step.get("params") or {})
        for step in chain["steps"]
        if step.get("operator_type") == SPLITTER
    ]
    return [
        ("date", str(facts.get("created_at") or chain.get("created_at") or "")[:19].replace("T", " ")),
        ("calibration", facts.get("calibration")),
        ("run", facts.get("run_name")),
        ("pipeline", facts.get("pipeline_name")),
        ("validation", "; ".join(splitters)),
        ("folds", facts.get("n_folds")),
        ("seeds", ", ".join(_listed(facts.get("seeds"))) or "none were set"),
        ("git commit", facts.get("git_commit")),
        ("trained with", _versions(trained)),
        ("exported with", _versions(environment) if dict(trained) != dict(environment) else None),
        ("imported", facts.get("imported_from")),
        ("chain", chain.get("chain_id")),
    ]


def _opening(kind: str, needs_trust: Sequence[str], probe: str) -> list[str]:
    if kind == "joblib":
        lines = [
            "This bundle holds pickles: opening it runs code that its writer has chosen. "
            "`load_bundle(path, allow_pickle=True)`, if you trust that person."
        ]
    elif needs_trust:
        lines = [
            f"This bundle holds no pickles. These types need to be trusted by name: "
            f"{', '.join(_plain(name) for name in needs_trust)}."
        ]
    else:
        lines = ["This bundle holds no pickles and opens as it is: `load_bundle(path)`."]
    if probe:
        lines += ["", f"{probe} travel with it; it is compared with what it predicted for them when opened."]
    return lines


def _versions(environment: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(environment.items()) if "git" not in name)


def _table(rows: Iterable[tuple[str, Any]]) -> list[str]:
    known = [(name, _plain(value, 600)) for name, value in rows if value not in (None, "", [], {})]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in known)]


def _listed(value: Any) -> list[str]:
    # Of an imported model, what stands here was written by a stranger.
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _plain(value: Any, most: int = 200) -> str:
    """Keep names of users inside their cell: no line breaks, no markup that a page would act on."""
    text = " ".join(str(value).split())[:most]
    for sign, instead in (
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("<", "&lt;"),
        ("`", "'"),
        ("[", "\\["),
        ("!", "\\!"),
    ):
        text = text.replace(sign, instead)
    return "".join(sign for sign in text if sign.isprintable())


FORMAT_VERSION = "1.0"
RECORD_VERSION = 1
MANIFEST = "manifest.json"
RECORD = "nirs_store.json"

_VERSION = re.compile(r"\d{1,6}(?:\.\d{1,6}){0,2}")
_STATED = re.compile(r"^Version:[ \t]*(\S+)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_PACKAGES = ("numpy", "scipy", "scikit-learn", "joblib", "skops", "chemotools")

Role = Literal["description", "transformer", "y_transformer", "model", "blob", "probe", "card"]
Kind = Literal["joblib", "skops"]


class Manifest(Mapping[str, Any]):
    """``manifest.json``: a read-only mapping of its keys, with the ones that matter as attributes.

    Parameters
    ----------
    keys : mapping
        The parsed member.
    where : path
        Which bundle it came from, for messages.

    Raises
    ------
    BundleTooNew
        The format version is above 1.0.
    BundleInvalid
        A key that decides about the reading has a value that it cannot have.

    Examples
    --------
    >>> manifest = Manifest({"model_step_index": 3, "fold_strategy": "single_refit"})
    >>> manifest.format_version, manifest.model_step_index, manifest["fold_strategy"]
    ('1.0', 3, 'single_refit')
    """

    def __init__(self, keys: Mapping[str, Any], where: str | Path = "The bundle") -> None:
        self._keys = dict(keys)
        self.format_version = self._format_version(where)
        index = self._keys.get("model_step_index")
        if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
            raise BundleInvalid(
                f"{where}: model_step_index in {MANIFEST} must be a whole number from 0, found {index!r}. "
                "Without it, the member of the model is unknown; ask for a new export."
            )
        self.model_step_index: int | None = index

    def __getitem__(self, key: str) -> Any:
        return self._keys[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"Manifest({self._keys!r})"

    @property
    def integrity(self) -> dict[str, str]:
        """SHA-256 by member name, as far as the writer gave them (``artifact_integrity``)."""
        found = self._keys.get("artifact_integrity")
        if not isinstance(found, Mapping):
            return {}
        return {str(name): str(value).removeprefix("sha256:").lower() for name, value in found.items()}

    def _format_version(self, where: str | Path) -> str:
        text = str(self._keys.get("bundle_format_version", FORMAT_VERSION))
        if not _VERSION.fullmatch(text):
            raise BundleInvalid(
                f"{where}: bundle_format_version must be one to three numbers such as {FORMAT_VERSION!r}, "
                f"found {text[:80]!r}. Ask for a new export."
            )
        if _numbers(text) > _numbers(FORMAT_VERSION):
            raise BundleTooNew(
                f"{where} has format version {text}; this library reads up to {FORMAT_VERSION}. Nothing was "
                "loaded. Install a newer nirs_store, or ask for an export in version 1.0."
            )
        return text


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the archive: what it is called, what it must be, what it is for."""

    name: str
    size: int
    sha256: str
    role: Role


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Which chain was exported."""

    chain_id: str
    pipeline_id: str | None = None
    model_class: str = ""
    created_at: str | None = None


class VersionOne(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a reader of version 1.0 that knows nothing of this library predicts the same from the bundle."""

    expressible: bool
    notes: tuple[str, ...] = ()


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A few spectra and what the chain predicted for them when it was exported."""

    spectra: tuple[str, ...]
    expected: str
    sources: tuple[int, ...] = ()
    # Unset it leaves no trace, so that all other bundles keep their bytes.
    wavelengths: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class ChainStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the chain as it travels."""

    step_idx: int
    operator_class: str
    operator_type: str
    params: dict[str, Any]
    stateless: bool
    artifact_id: str | None = None
    artifact_ids: list[str] | None = None
    fold_artifact_ids: dict[str, list[str]] | None = None


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The chain as it travels; the artifact ids in it are the SHA-256 of members."""

    chain_id: str
    pipeline_id: str | None
    steps: list[ChainStep]
    model_step_idx: int
    model_class: str
    preprocessings: str
    fold_strategy: str
    fold_artifacts: dict[str, str]
    shared_artifacts: dict[str, dict[str, dict[str, list[str]]]]
    branch_path: list[int] | None
    source_index: int | None
    fold_weights: dict[str, float] | None
    wavelengths: list[float] | None
    metadata: dict[str, Any] | None
    created_at: str | None


class BundleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``nirs_store.json``: see the module."""

    record_version: int
    kind: Kind
    members: tuple[Member, ...]
    chain: dict[str, Any]
    origin: Origin
    version_1_0: VersionOne
    environment: dict[str, str]
    scores: dict[str, Any] = msgspec.field(default_factory=dict)
    units: dict[str, Any] = msgspec.field(default_factory=dict)
    probe: Probe | None = None
    card: str | None = None
    facts: dict[str, Any] = msgspec.field(default_factory=dict)
    # The member that holds the calibration's domain; unset it leaves no trace, as `Probe.wavelengths`.
    domain: str | msgspec.UnsetType = msgspec.UNSET


def parse_record(data: bytes, where: str | Path) -> BundleRecord:
    """Read ``nirs_store.json``."""
    found = parse_object(data, RECORD)
    number = found.get("record_version")
    if isinstance(number, int) and not isinstance(number, bool) and number > RECORD_VERSION:
        raise BundleTooNew(
            f"{where}: its {RECORD} has version {number}; this library reads up to {RECORD_VERSION}. Nothing "
            "was "
            "loaded. Install a newer nirs_store."
        )
    try:
        record = msgspec.convert(found, BundleRecord)
        # The chain stays a dict, as every other room takes it; its shape is checked all the same.
        msgspec.convert(record.chain, Chain)
    except msgspec.ValidationError as exc:
        raise BundleInvalid(
            f"{where}: its {RECORD} is not as it should be: {exc}. Nothing was loaded; ask for a new export."
        ) from exc
    return record


def dump_record(record: BundleRecord) -> bytes:
    """Write ``nirs_store.json``; equal records give equal bytes."""
    return dump_json(clean(msgspec.to_builtins(record)))


def library_version() -> str:
    """Give the version of this library, or ``"0"`` where it runs from a folder that was never installed."""
    return _version("nirs-store") or "0"


def read_environment() -> dict[str, str]:
    """Give the versions that decide whether a pickle written here opens elsewhere."""
    found = {"python": platform.python_version(), "nirs_store": library_version()}
    for package in _PACKAGES:
        if (installed := _version(package)) is not None:
            found[package] = installed
    return found


def chain_from_json(found: Mapping[str, Any]) -> dict[str, Any]:
    """Make of a chain in JSON values one as a store gives it: wavelengths an array, the date a datetime."""
    import numpy as np

    chain = dict(found)
    if chain.get("wavelengths") is not None:
        chain["wavelengths"] = np.asarray(chain["wavelengths"], dtype=np.float64)
    if isinstance(chain.get("created_at"), str):
        try:
            chain["created_at"] = datetime.fromisoformat(chain["created_at"])
        except ValueError:
            chain["created_at"] = None
    return chain


def _numbers(text: str) -> tuple[int, int, int]:
    parts = [int(part) for part in text.split(".")]
    major, minor, patch = (*parts, 0, 0)[:3]
    return major, minor, patch


@cache
def _version(package: str) -> str | None:
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return None
    # Parsed as a message, a package's whole description is read on the way to its version: 3 ms a package.
    header = (found.read_text("METADATA") or "").partition("\n\n")[0]
    stated = _STATED.search(header)
    return stated[1] if stated is not None else found.version


# -- What the name of an artifact says in version 1.0: its step, its fold, its place within the step.


_STEP = re.compile(r"\d{1,9}")
_FOLD = re.compile(r"fold(\d{1,9})")
_SUB = re.compile(r"sub(\d{1,9})")
_HASH = re.compile(r"[0-9a-f]{32,64}")


class ArtifactName(NamedTuple):
    """A member that holds a fitted object."""

    member: str
    step: int
    key: str
    fold: str | None
    sub: int | None


def parse_artifact_name(member: str) -> ArtifactName | None:
    """Read the name of a member; None when it names no step."""
    stem, dot, _ = member.rpartition("/")[2].rpartition(".")
    parts = (stem if dot else member.rpartition("/")[2]).split("_")
    if len(parts) < 2 or parts[0] != "step" or not _STEP.fullmatch(parts[1]):
        return None
    step = int(parts[1])
    fold = next((part for part in parts[2:] if part.startswith("fold")), None)
    subs = [int(match[1]) for part in parts[2:] if (match := _SUB.fullmatch(part))]
    if fold is not None:
        key = f"step_{step}_{fold}"
    elif len(parts) > 2:
        key = "_".join(parts)
    else:
        key = f"step_{step}"
    return ArtifactName(member, step, key, fold, subs[-1] if subs else None)


def by_step(members: Iterable[str]) -> dict[int, dict[str, ArtifactName]]:
    """Group members by step and key, in the order in which they stand in the archive."""
    found: dict[int, dict[str, ArtifactName]] = {}
    nameless = []
    for member in members:
        name = parse_artifact_name(member)
        if name is None:
            nameless.append(member)
            continue
        held = found.setdefault(name.step, {})
        if name.key in held:
            raise BundleInvalid(
                f"The members {held[name.key].member} and {member} both mean {name.key}, as a pipeline with branches "
                "writes them, so one of them would be left out and the predictions could be those of another "
                "branch. Export the chain of one branch."
            )
        held[name.key] = name
    if nameless and not found:
        if all(_HASH.fullmatch(member.rpartition("/")[2].partition(".")[0]) for member in nameless):
            raise BundleInvalid(
                "The members of this bundle are named by hash, as nirs4all 0.7 wrote them, and nothing says "
                "which step "
                "each belongs to; no program can predict with it. Export the chain again with a newer "
                "version."
            )
        raise BundleInvalid(
            f"No member of this bundle is named step_<number>; the first is {nameless[0]}. It holds no model."
        )
    if nameless:
        raise BundleInvalid(
            f"The member {nameless[0]} is a fitted object that belongs to no step: expected a name such as "
            "artifacts/step_1_sub0.joblib. Leaving it out could predict wrong numbers; ask for a new export."
        )
    return found


def fold_of(name: ArtifactName) -> int | None:
    """Give the number of the fold that a member belongs to, or None."""
    match = _FOLD.fullmatch(name.fold) if name.fold else None
    return int(match[1]) if match else None


def in_order(names: Iterable[ArtifactName], notes: list[str]) -> list[ArtifactName]:
    """Put the objects of one step into the order in which they apply.

    Version 1.0 leaves that to the order in the archive, which every tool that packs it again may change. Where
    all names carry a number (``_sub0``, ``_sub1``), the number decides.
    """
    found = list(names)
    if any(name.sub is None for name in found):
        if len(found) > 1:
            listed = ", ".join(name.member for name in found)
            notes.append(
                f"The order of {listed} is only that of the archive; if it was repacked, it may be wrong."
            )
        return found
    ordered = sorted(found, key=lambda name: name.sub or 0)
    if ordered != found:
        notes.append(
            f"Step {found[0].step} is in the archive in another order than its numbers; the numbers "
            "were used."
        )
    return ordered
