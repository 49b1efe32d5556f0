"""The card of a bundle: what a person should know before using somebody else's model, as Markdown.

Everything on it is what the exporting workspace recorded; what was not recorded is not on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nirs_store.bundle.words import in_words
from nirs_store.chains.folds import stack_sources
from nirs_store.chains.kinds import MERGE, MODEL, SPLITTER, STACKED, TARGETS
from nirs_store.scores import is_figure

__all__ = ["CARD", "card_text", "readable"]

CARD = "card.md"
_LONGEST = 64 << 10

# Name of a score, the names it is recorded under, what it is.
_SCORES = (
    ("RMSEC", ("rmsec",), "root mean square error on the calibration samples"),
    ("RMSECV", ("rmsecv",), "of the pooled out-of-fold predictions"),
    ("RMSEP", ("rmsep",), "on test samples that no model was fitted on"),
    ("bias", ("bias",), "mean of predicted minus measured"),
    ("SEP", ("sep",), "standard error of prediction, corrected for bias"),
    ("R²", ("r2",), "coefficient of determination"),
    ("RPD", ("rpd",), "standard deviation of the reference values over SEP"),
    ("RPIQ", ("rpiq",), "interquartile range of the reference values over SEP"),
    ("MAE", ("mae",), "mean absolute error"),
    ("accuracy", ("accuracy",), "share of correct labels"),
    ("balanced accuracy", ("balanced_accuracy",), "mean recall of the classes"),
    ("F1", ("f1",), "mean over the classes"),
    ("log loss", ("log_loss",), ""),
)
_IN_UNITS = {"RMSEC", "RMSECV", "RMSEP", "bias", "SEP", "MAE"}


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
    """Write the card.

    Parameters
    ----------
    chain : mapping
        The chain as it travels.
    scores, units, facts : mapping
        As they stand in ``nirs_store.json``.
    environment : mapping
        Versions with which the bundle was written.
    kind : {"joblib", "skops"}
        What its payloads are.
    needs_trust : sequence of str
        Types that whoever opens it has to trust by name.
    notes : sequence of str
        What was rearranged.
    probe : str
        Where its probe spectra come from.
    """
    model: Mapping[str, Any] = next(
        (step for step in chain["steps"] if step.get("operator_type") in (MODEL, STACKED)), {}
    )
    name = str(chain.get("model_class") or model.get("operator_class") or "model").rpartition(".")[2]
    target, unit = str(units.get("target") or ""), str(units.get("target_unit") or "")
    what = f"{target} ({unit})" if target and unit else target
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
    for label, keys, meaning in _SCORES:
        value = next((named.pop(key) for key in keys if is_figure(named.get(key))), None)
        if value is not None:
            shown = f"{value:.4g}" + (f" {_plain(unit)}" if unit and label in _IN_UNITS else "")
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
