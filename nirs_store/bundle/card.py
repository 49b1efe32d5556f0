"""The card of a bundle: what a person should know before using another person's model, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nirs_store.chains.folds import stack_sources
from nirs_store.chains.steps import MERGE, MODEL, SPLITTER, STACKED, TARGETS
from nirs_store.display import short, with_unit
from nirs_store.scores import METRICS, RMSE_BY_SET, is_figure

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
    last = name.rpartition(".")[2] or "unknown step"
    if last == "SavitzkyGolay" and "window_length" in params:
        deriv = params.get("deriv", 1)
        kind = f"{_ORDINALS.get(deriv, f'{deriv}th')} derivative" if deriv else "smoothing"
        return (
            f"Savitzky-Golay {kind} (window of {params['window_length']} channels, polynomial of order "
            f"{params.get('polyorder')}) (SavitzkyGolay)"
        )
    template = _WORDS.get(last)
    if template is not None:
        try:
            return f"{template.format_map(dict(params))} ({last})"
        except (KeyError, IndexError, ValueError, AttributeError):
            # Recorded without that parameter: the name alone has to do.
            pass
    shown = ", ".join(f"{key}={short(repr(value), 40)}" for key, value in sorted(params.items()))
    return f"{last}({shown})"


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


# -- The card of a bundle: what a person should know before using another person's model, as Markdown.


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
    recorded = facts.get("environment")
    trained = recorded if isinstance(recorded, Mapping) and recorded else environment
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
    # Of an imported model, this text was written by a stranger.
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


_ESCAPED = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;", "`": "'", "[": "\\[", "!": "\\!"})


def _plain(value: Any, most: int = 200) -> str:
    """Keep names of users inside their cell: no line breaks, no markup that a page would act on."""
    text = " ".join(str(value).split())[:most].translate(_ESCAPED)
    return "".join(sign for sign in text if sign.isprintable())
