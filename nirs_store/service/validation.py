"""What a validation asks for about a version, collected from the store, and what is missing of it.

It lists what ICH Q2 and Q14 and ASTM E1655 ask about a calibration. It judges nothing and claims no compliance.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from nirs_store.bundle.card import in_words, seeds
from nirs_store.display import counted
from nirs_store.errors import NirsStoreError
from nirs_store.ids import utcnow
from nirs_store.records.runs import environment
from nirs_store.scores import is_classification
from nirs_store.service.dossier import Dossier, Item, Part, Table, plain
from nirs_store.service.versions import CalibrationVersion, targets_of

#: What `metadata` of a version may say, where the dossier prints it, and in which words.
FACTS = {
    "purpose": ("The calibration", "purpose"),
    "responsible": ("The calibration", "responsible person"),
    "acceptance": ("The calibration", "acceptance criteria"),
    "reference_method": ("Reference method", "method"),
    "reference_error": ("Reference method", "error of the reference method (SEL)"),
    "reference_lab": ("Reference method", "laboratory"),
    "instrument": ("Instrument and spectra", "instrument"),
    "measurement": ("Instrument and spectra", "how spectra are measured"),
    "sampling": ("Samples", "how samples were drawn"),
    "sample_preparation": ("Samples", "preparation of samples"),
    "repeatability": ("Figures of merit", "repeatability (precision)"),
    "specificity": ("Figures of merit", "specificity"),
    "robustness": ("Figures of merit", "robustness"),
}
_MERITS = (
    ("sec", "SEC", "residuals of the fit, n - p - 1 degrees of freedom"),
    ("rmsec", "RMSEC", "root mean square of the residuals of the fit"),
    ("secv", "SECV", "standard deviation of the out-of-fold residuals"),
    ("rmsecv", "RMSECV", "root mean square of the out-of-fold residuals"),
    ("bias_cv", "bias, cross-validation", "mean of predicted - reference"),
    ("r2_cv", "R², cross-validation", "share of the variance explained out of fold"),
    ("sep", "SEP", "standard deviation of the residuals of the test set"),
    ("rmsep", "RMSEP", "root mean square of the residuals of the test set"),
    ("bias", "bias, test set", "mean of predicted - reference"),
    ("slope", "slope, test set", "of reference on predicted"),
    ("intercept", "intercept, test set", "of reference on predicted"),
    ("n_test", "test samples", ""),
)
_SENTENCE = (
    "This page collects what the store holds about the calibration. It helps to prepare a validation (ICH Q2 and Q14, "
    "ASTM E1655, 21 CFR Part 11). It is not a statement that any of these is met."
)


def collect(store: Any, calibration: Any, *, keys: Any = None, figures: bool = True) -> Dossier:
    """Collect what is known about a version; see `Calibrations.dossier`."""
    version = store.calibrations.get(calibration)
    chain = store.get_chain(version.chain_id)
    about = _About(store, version, chain)
    parts = [
        _identity(about),
        _scope(about),
        Part("Reference method", tuple(_said(about, "Reference method"))),
        _spectra(about),
        _samples(about),
        _recipe(about),
        _merits(about),
        _domain(about),
        _review(about),
        _changes(about),
        _service(about),
        _signatures(about, keys),
    ]
    if figures:
        parts.append(_drawn(about))
    return Dossier(version.label, utcnow(), tuple(parts))


class _About(NamedTuple):
    """A version with its chain, which may be gone."""

    store: Any
    version: CalibrationVersion
    chain: dict[str, Any] | None

    @property
    def metadata(self) -> dict[str, Any]:
        return dict((self.chain or {}).get("metadata") or {})

    @property
    def unit(self) -> str:
        unit = (self.chain or {}).get("target_unit")
        return f" {unit}" if unit else ""


def _said(about: _About, title: str) -> Iterator[Item]:
    for key, (part, label) in FACTS.items():
        if part == title:
            value = about.version.metadata.get(key)
            yield Item(label, None if value == "" else value, f'metadata={{"{key}": ...}} of register')


def _identity(about: _About) -> Part:
    version, chain = about.version, about.chain
    model = None
    if chain is not None:
        model = " > ".join(
            part for part in (chain["preprocessings"], str(chain["model_class"]).rsplit(".", 1)[-1]) if part
        )
    target = ", ".join(str(name) for name in targets_of(chain or {}) if name)
    items = [
        Item("name and version", version.label),
        Item("aliases now", ", ".join(version.aliases) or "none"),
        Item("predicts", f"{target}{f' ({about.unit.strip()})' if about.unit else ''}" if target else None,
             "target= when recording"),
        Item("model", model, "the chain was deleted"),
        Item("author", version.author),
        Item("registered", version.created_at),
        Item("note", version.note or "none"),
        *_said(about, "The calibration"),
        Item("chain", version.chain_id),
        Item("hash of chain, artifacts and domain", version.content_hash),
    ]  # fmt: skip
    told = about.metadata.get("transferred_from")
    if told:
        source = str(told.get("chain_id"))
        listed = about.store.calibrations.names_of([source]).get(source, ())
        items.append(Item("transferred from", ", ".join([*listed, f"chain {source}"])))
        items.append(Item("adapter", told.get("adapter")))
    known = {"contents", "archived_version", "comparison", *FACTS}
    items += [Item(str(key), value) for key, value in version.metadata.items() if key not in known]
    return Part("The calibration", tuple(items), notes=(_SENTENCE,))


def _scope(about: _About) -> Part:
    scope = about.version.scope
    items = [
        Item(
            "range of values" if key == "range" else key,
            plain(scope.get(key)),
            f'scope={{"{key}": ...}} of register',
        )
        for key in ("matrix", "range", "instruments", "wavelengths")
    ]
    if scope.get("note"):
        items.append(Item("note", scope["note"]))
    return Part("Scope", tuple(items))


def _spectra(about: _About) -> Part:
    grid, words = (about.chain or {}).get("wavelengths"), None
    if grid is not None:
        unit = str(about.metadata.get("wavelength_unit") or "")
        words = f"{counted(len(grid), 'channel')}, {grid[0]:g} to {grid[-1]:g} {unit}".strip()
    item = Item("wavelengths of the calibration", words, "wavelengths= when recording")
    return Part("Instrument and spectra", (*_said(about, "Instrument and spectra"), item))


def _samples(about: _About) -> Part:
    version, figures = about.version, about.version.figures
    n, p, tested = figures.get("n_cal"), figures.get("p"), _first(figures, "n_test")
    spread = _first(figures, "range")
    items = [
        Item("calibration samples", n),
        Item("latent variables", p, "the model has none that are counted"),
        Item("test samples", tested, "X_test= and y_test= when recording"),
        Item("range of the calibration", None if spread is None else f"{spread[0]:g} to {spread[1]:g}{about.unit}"),
        Item("data set", _dataset(about), "dataset= of register, or a data set of store.datasets when recording"),
        Item("hash of spectra and values", about.metadata.get("data_hash")),
        *_said(about, "Samples"),
    ]  # fmt: skip
    notes = []
    if isinstance(n, int) and isinstance(p, int):
        needed = max(24, 6 * (p + 1))
        notes.append(
            f"ASTM E1655 advises at least {needed} calibration samples for {counted(p, 'latent variable')}; found {n}."
        )
        least = max(20, 4 * p)
        notes.append(f"It advises at least {least} validation samples; found {tested or 0}.")
    if is_classification(version.figures.get("task")):
        notes.append("A classification: figures of merit of a regression do not apply.")
    return Part("Samples", tuple(items), notes=tuple(notes))


def _first(figures: Mapping[str, Any], name: str) -> Any:
    targets = figures.get("targets")
    return next(iter(targets.values())).get(name) if targets else figures.get(name)


def _dataset(about: _About) -> str | None:
    identifier = about.version.dataset_version_id
    if identifier is None:
        pipeline = about.store.get_pipeline((about.chain or {}).get("pipeline_id")) or {}
        name = pipeline.get("dataset_name")
        return f"{name} (by name only)" if name else None
    try:
        found = about.store.datasets.version(identifier)
    except NirsStoreError:
        return f"{identifier} (not in this workspace)"
    return f"{found.name}@v{found.version}, {counted(found.n_samples, 'sample')}, hash {found.content_hash}"


def _recipe(about: _About) -> Part:
    chain = about.chain
    if chain is None:
        return Part("Recipe", (Item("steps", None, "the chain was deleted"),))
    rows = tuple(
        (step.get("step_idx"), step.get("operator_type") or "transform",
         in_words(str(step.get("operator_class") or ""), step.get("params") or {}), str(step.get("operator_class")))
        for step in chain["steps"]
    )  # fmt: skip
    pipeline = about.store.get_pipeline(chain["pipeline_id"]) or {}
    run = about.store.get_run(str(pipeline.get("run_id"))) or {}
    captured = dict(run.get("environment") or {})
    commit = captured.pop("git-commit", None)
    packages = ", ".join(f"{name} {value}" for name, value in captured.items() if isinstance(value, str))
    called = [str(each["name"]) for each in (run, pipeline) if each.get("name")]
    items = (
        Item("run and pipeline", " / ".join(called) or None),
        Item("recorded", chain["created_at"]),
        Item("software", packages or None, "record with this library, or capture_environment"),
        Item("commit of the code", commit, "record from a git checkout"),
        Item("seeds", ", ".join(seeds(chain["steps"])) or "none were set"),
    )
    return Part("Recipe", items, (Table("Steps", ("step", "type", "what", "class"), rows),))


def _merits(about: _About) -> Part:
    figures = about.version.figures
    tables = []
    if is_classification(figures.get("task")):
        rows = tuple((key, value) for key, value in figures.items() if isinstance(value, float))
        tables.append(Table("At registration", ("score", "value"), rows))
        items: list[Item] = [Item("balanced accuracy, cross-validation", figures.get("balanced_accuracy_cv"))]
    else:
        for name, each in (figures.get("targets") or {"": figures}).items():
            merits = tuple(
                (label, each.get(key), words) for key, label, words in _MERITS if each.get(key) is not None
            )
            tables.append(Table(f"{name} at registration".strip(), ("figure", "value", "what it is"), merits))
        items = [
            Item("accuracy: SEP and bias (predicted - reference) of a test set",
                 _pair(_first(figures, "sep"), _first(figures, "bias")), "X_test= and y_test= when recording"),
            Item("significance of the bias", _bias(figures)),
            Item("linearity: slope and intercept", _pair(_first(figures, "slope"), _first(figures, "intercept"))),
            Item("SECV", _first(figures, "secv"), "cross-validate with record_cross_validation"),
        ]  # fmt: skip
    items += _said(about, "Figures of merit")
    signs = "Signs: predicted - reference. ISO 12099 uses the opposite."
    return Part("Figures of merit", tuple(items), tuple(tables), (signs,))


def _pair(first: float | None, second: float | None) -> str | None:
    return None if first is None or second is None else f"{first:.4g}, {second:.4g}"


def _bias(figures: Mapping[str, Any]) -> str | None:
    n, sep, bias = (_first(figures, name) for name in ("n_test", "sep", "bias"))
    if not n or n < 2 or sep is None or bias is None:
        return None
    from scipy.stats import t

    limit = float(t.ppf(0.975, n - 1)) * sep / n**0.5
    verdict = "significant" if abs(bias) > limit else "not significant"
    return f"{verdict}: |{bias:.4g}| (predicted - reference) against t(0.975; {n - 1}) SEP / sqrt(n) = {limit:.4g}"


def _domain(about: _About) -> Part:
    try:
        domain = None if about.chain is None else about.store.domain(about.version.chain_id)
    except NirsStoreError as error:
        return Part("Inside the calibration", (Item("domain", None, str(error)),))
    if domain is None:
        return Part("Inside the calibration", (Item("domain", None, "store.add_domain(chain, X, y)"),))
    limits = domain.limits(0.05)
    facts = domain.facts
    refused = facts.get("refused")
    items = [
        Item("latent variables from", facts.get("kind")),
        Item("samples", facts.get("n")),
        Item("limit of 'outside', alpha 0.05", limits.get("joint"), str(limits.get("method") or "")),
        Item("method", limits.get("method")),
        Item("limits of T2 and Q alone", _pair(limits.get("t2"), limits.get("q"))),
        Item("prediction interval", None if refused else "from out-of-fold residuals", str(refused or "")),
    ]
    return Part("Inside the calibration", tuple(items))


def _review(about: _About) -> Part:
    if about.chain is None:
        return Part("Checks", (Item("coded checks", None, "the chain was deleted"),))
    try:
        found = about.store.review(about.version.chain_id)
    except NirsStoreError as error:
        return Part("Checks", (Item("coded checks", None, str(error)),))
    rows = tuple((f.code, f.severity, f.title, f.message) for f in found.findings)
    items = (Item("coded checks", ", ".join(found.checked) or None), Item("findings", len(found.findings)))
    table = Table("Findings", ("code", "severity", "check", "found"), rows)
    return Part("Checks", items, (table,) if rows else ())


def _changes(about: _About) -> Part:
    version = about.version
    known = about.store.calibrations.versions(version.name)["version"].to_list()
    before = max((number for number in known if number < version.version), default=None)
    updated = _updated(version)
    if before is None:
        return Part("Changes since the last version", tables=updated, notes=("There is no earlier version.",))
    last = about.store.calibrations.get(f"{version.name}@v{before}")
    head = ("", last.label, version.label)
    rows = [(name, *pair) for name, pair in _differing(last.figures, version.figures) if name != "targets"]
    rows += [
        (f"scope: {key}", plain(old), plain(new)) for key, (old, new) in _differing(last.scope, version.scope)
    ]
    tables = [*updated, Table("Figures and scope", head, tuple(rows))]
    notes = []
    if last.chain_id == version.chain_id:
        notes.append("Both versions are the same chain.")
    elif last.chain_exists and version.chain_exists:
        frame = about.store.compare([last.chain_id, version.chain_id])
        tables.append(Table("Chain, data and environment", head, tuple(frame.iter_rows())))
        try:
            verdict = str(about.store.compare_errors(last.chain_id, version.chain_id).verdict)
            for each in (last, version):
                verdict = verdict.replace(each.chain_id[-8:], each.label)
            notes.append(f"Out-of-fold errors: {verdict}.")
        except NirsStoreError as error:
            notes.append(f"Out-of-fold errors were not compared: {error}")
    else:
        notes.append("A chain was deleted, so recipes cannot be compared.")
    item = Item("last version", last.label)
    return Part("Changes since the last version", (item,), tuple(tables), tuple(notes))


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    pairs = [(name, (old.get(name), new.get(name))) for name in sorted({*old, *new})]
    return [(name, pair) for name, pair in pairs if pair[0] != pair[1]]


def _updated(version: CalibrationVersion) -> tuple[Table, ...]:
    """Lay out how an update compared itself with the version that it updates."""
    rows = version.metadata.get("comparison")
    if "updated_from" not in version.metadata or not isinstance(rows, list) or not rows:
        return ()
    head = tuple(str(name) for name in rows[0])
    cells = tuple(tuple(row.get(name) for name in head) for row in rows)
    return (Table(f"Update of v{version.metadata['updated_from']}", head, cells),)


def _service(about: _About) -> Part:
    version, calibrations = about.version, about.store.calibrations
    moves = tuple(
        (each.set_at, each.alias, _number(each.previous), _number(each.version), each.set_by, each.reason)
        for each in calibrations.history(version.name)
    )
    rules = tuple((alias, str(rule)) for alias, rule in calibrations.rules(version.name).items())
    corrections = tuple(
        (each.label, _number(each.version), each.slope, each.bias, each.reason, each.author, each.created_at,
         each.retired_at)
        for each in calibrations.corrections(version.name)
    )  # fmt: skip
    count = about.store.sql(
        "SELECT count(*) FROM measurements WHERE calibration = ? AND version = ? AND chain_id = ? "
        "AND role = 'reported'",
        [version.name, version.version, version.chain_id],
    ).item()
    columns = ("number", "version", "slope", "bias", "reason", "author", "from", "until")
    tables = (
        Table("Moves of aliases", ("when", "alias", "from", "to", "by", "reason"), moves),
        Table("Rules", ("alias", "demands"), rules),
        Table("Slope and bias corrections", columns, corrections),
    )
    item = Item("logged predictions of this version", count)
    return Part("In service", (item,), tuple(each for each in tables if each.rows))


def _number(version: int | None) -> str:
    return "none" if version is None else f"v{version}"


def _signatures(about: _About, keys: Any) -> Part:
    found = about.store.calibrations.verify_signatures(about.version.version_id, keys)
    rows = tuple(
        (s.meaning, s.signer, s.signed_at, s.key_id, s.note,
         "valid, key not given" if s.signature_id in found.unchecked else "valid")
        for s in found.valid
    )  # fmt: skip
    items = []
    for meaning in ("authorship", "review", "approval", "responsibility"):
        signers = ", ".join(each.signer for each in found.valid if each.meaning == meaning)
        if signers or meaning != "responsibility":
            items.append(Item(meaning, signers or None, "calibrations.sign"))
    tables = []
    if rows:
        tables.append(Table("Signatures", ("meaning", "signer", "time", "key", "note", "state"), rows))
    if found.problems:
        tables.append(Table("Not valid", ("what", "why"), found.problems))
    head = about.store.audit.head()
    items.append(Item("end of the audit trail", f"{head.number}:{head.entry_hash}"))
    written = f"Written with nirs_store {environment().get('nirs-store', '')}."
    return Part("Signatures", tuple(items), tuple(tables), (written,))


def _drawn(about: _About) -> Part:
    chain = about.version.chain_id
    wanted: dict[str, Callable[..., Any]] = {}
    if about.chain is not None:
        plots = import_module("nirs_store.plots")
        if is_classification(about.version.figures.get("task")):
            wanted = {"Confusion matrix": plots.chain_confusion_matrix}
        else:
            wanted = {
                "Predicted against measured": plots.chain_predicted_vs_measured,
                "Residuals": plots.chain_residuals,
                "RMSECV against latent variables": plots.chain_rmsecv_vs_components,
            }
    drawn, items = [], []
    for caption, draw in wanted.items():
        try:
            figure = draw(about.store, chain)
        except NirsStoreError as error:
            # A chain of another kind, or matplotlib is not installed.
            items.append(Item(caption, None, str(error)))
            continue
        sink = io.BytesIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
        drawn.append((caption, sink.getvalue()))
    if not wanted:
        items.append(Item("figures", None, "the chain was deleted"))
    return Part("Figures", tuple(items), figures=tuple(drawn))
