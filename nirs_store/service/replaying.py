"""Replay chains, predict with them and export them; what they need stays loaded between two calls."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nirs_store.addresses import user_path
from nirs_store.blobs.cache import ByteLRU
from nirs_store.blobs.code import CODE, check_code, refuse_other_python
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.spectra import table_of
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.domain import DOMAIN_CLASS, Domain, domain_id
from nirs_store.errors import (
    CalibrationNotFound,
    InvalidInput,
    NirsStoreError,
    StoreClosed,
    UnknownFormat,
    UnknownId,
    quoted,
)
from nirs_store.ids import is_id, new_id
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra
from nirs_store.records import artifacts, queries
from nirs_store.records.lookup import whole_id
from nirs_store.records.named import find_version, names
from nirs_store.records.notes import note, note_read
from nirs_store.records.queries import metadata_of_chain
from nirs_store.records.runs import set_domain
from nirs_store.service import corrections, log
from nirs_store.service.corrections import Correction
from nirs_store.service.renewal import challengers_of
from nirs_store.service.signing import keep_rules_of_chain
from nirs_store.values import as_name, index_names, is_frame

if TYPE_CHECKING:
    from nirs_store.chains.predictor import ChainPredictor
    from nirs_store.domain.frame import Reading


# -- Predictions with a named calibration: its scope, its correction, the log, and its challengers.

Predict = Callable[[str], pl.DataFrame]


@dataclass(frozen=True)
class Use:
    """What predicts: a chain, and the version of a calibration that it was asked for as."""

    chain_id: str
    name: str | None = None
    version: int | None = None
    scope: Mapping[str, Any] = field(default_factory=dict)
    correction: Correction | None = None

    @property
    def label(self) -> str:
        """Return ``fat@v3``, or the chain."""
        return f"Chain {self.chain_id}" if self.name is None else f"{self.name}@v{self.version}"

    @property
    def columns(self) -> dict[str, Any]:
        """Return what the log says about it."""
        return {
            "chain_id": self.chain_id,
            "calibration": self.name,
            "version": self.version,
            "correction_id": None if self.correction is None else self.correction.correction_id,
        }


@dataclass(frozen=True)
class Logging:
    """What a caller says about the log; see `WorkspaceStore.predict`."""

    wanted: bool | None = None
    instrument: str | None = None
    operator: str | None = None
    measured_at: Any = None
    keep_spectra: bool = False

    def __post_init__(self) -> None:
        if self.wanted not in (None, True, False):
            raise InvalidInput(f"log: expected True, False or None; found {self.wanted!r}.")
        for name in ("instrument", "operator"):
            if getattr(self, name) is not None:
                as_name(getattr(self, name), name)


def use_of(engine: Engine, given: Any) -> Use:
    """Find what a caller means by an id of a chain, a part of one, or the name of a calibration, in one look."""
    if isinstance(given, str) and is_id(given):
        return Use(given)
    named = isinstance(getattr(given, "name", None), str) and isinstance(getattr(given, "version", None), int)

    def ask(con: Connection) -> Use | None:
        if isinstance(given, str) and "@" not in given and given.strip() not in names(con):
            return None
        return _use(con, find_version(con, given))

    found = engine.query(ask) if named or isinstance(given, str) else None
    return Use(whole_id(engine, "chain", given)) if found is None else found


def _use(con: Connection, row: Mapping[str, Any]) -> Use:
    return Use(
        str(row["chain_id"]), row["name"], int(row["version"]), row["scope"], corrections.active(con, row)
    )


def warn_uncorrected(
    use: Use,
    what: str = "this returns its predictions without the correction. store.predict applies it",
) -> None:
    """Say that the correction of a version has no part in what the caller of a method of the store gets."""
    if use.correction is not None:
        warnings.warn(f"{use.label} is {use.correction.words}, and {what}.", UserWarning, stacklevel=4)


def equip(predictor: Any, use: Use, replays: Callable[[], Any]) -> None:
    """Give a predictor the correction that its calibration has now, and the log of its store."""
    from nirs_store.domain.frame import Reading

    predictor.scope = use.scope
    if use.correction is not None:
        predictor.correction = use.correction
        warnings.warn(f"{use.label} is {use.correction.words}.", UserWarning, stacklevel=4)

    def record(details: pl.DataFrame, X: Any, sample_ids: Sequence[Any] | None, **said: Any) -> None:
        here, how = replays(), Logging(True, **said)
        if here is None:
            raise StoreClosed(
                "The store of this predictor is closed, so nothing can be logged. Open it again."
            )
        planned = here.plan(use.chain_id)
        keep(
            here.engine, use, planned.plan, details, X, sample_ids, how, planned.about,
            lambda chain: here.details(chain, X, None, Reading(), None, False),
        )  # fmt: skip

    predictor._recorder = record


# -- The log.


def keep(
    engine: Engine,
    use: Use,
    plan: ReplayPlan,
    details: pl.DataFrame,
    X: Any,
    sample_ids: Iterable[Any] | None,
    how: Logging,
    about: Mapping[str, Any],
    predict: Predict,
) -> None:
    """Log a detailed prediction, and what the challengers of its calibration predict, in one commit."""
    # A named calibration is logged unless `log` is False, a chain only if it is True.
    if not (use.name is not None if how.wanted is None else how.wanted):
        return
    if not engine.writable and how.wanted is None:
        warnings.warn(
            f"The prediction with {use.label} is not logged: the workspace is read-only here. log=False says nothing.",
            UserWarning,
            stacklevel=4,
        )
        return
    if isinstance(X, Spectra):
        sample_ids = X.ids if sample_ids is None else sample_ids
        X = X.X
    elif sample_ids is None and is_frame(X):
        sample_ids = index_names(X)
    table = table_of(plan, X)
    ids = log.clean_ids(sample_ids, len(table))
    target = _target(about.get("metadata"))
    same = {"batch_id": new_id(), "instrument": how.instrument, "operator": how.operator}
    reported = use.columns | same | {"target": target, "role": "reported"}
    rivals = [] if use.name is None else _rivals(engine, use, predict)
    log.record(
        engine,
        details,
        reported,
        ids,
        table,
        how.measured_at,
        keep_spectra=how.keep_spectra,
        commit=not rivals,
    )
    for place, (rival, own, found) in enumerate(rivals, 1):
        columns = rival.columns | same | {"target": own or target, "role": "challenger"}
        log.record(engine, found, columns, ids, table, how.measured_at, commit=place == len(rivals))


def _target(metadata: Any) -> str | None:
    found = (metadata or {}).get("target")
    return found if isinstance(found, str) and found else None


def _rivals(engine: Engine, use: Use, predict: Predict) -> list[tuple[Use, str | None, pl.DataFrame]]:
    """Predict with the challengers; one that fails is named, and never hinders what is reported."""
    found = []

    def find(label: str, con: Connection) -> tuple[Use, str | None]:
        rival = _use(con, find_version(con, label))
        return rival, _target(metadata_of_chain(con, rival.chain_id))

    for number in challengers_of(engine, str(use.name)):
        if number == use.version:
            continue
        label = f"{use.name}@v{number}"
        try:
            rival, target = engine.query(partial(find, label))
            details = predict(rival.chain_id)
            corrected = details if rival.correction is None else rival.correction.apply(details)
            found.append((rival, target, corrected))
        except NirsStoreError as error:
            gone = isinstance(error, CalibrationNotFound)
            end = " It was deleted: end_challenge takes it off." if gone else ""
            warnings.warn(
                f"The challenger {quoted(label)} could not predict: {error}{end}", UserWarning, stacklevel=5
            )
    return found


_PLANS = 256
_DOMAIN_BYTES = 64 << 20


class Planned(NamedTuple):
    """A compiled chain, with its code, and what its artifacts held whose ids are a caller's own (see `content_key`)."""

    plan: ReplayPlan
    contents: Mapping[str, str]
    code: Any
    about: Mapping[str, Any]


class Replays:
    """The chains that one store has used, and what it loaded for them."""

    def __init__(self, engine: Engine, cache_bytes: int) -> None:
        self.engine = engine
        self.objects: ByteLRU[str, Any] = ByteLRU(cache_bytes)
        self.plans: ByteLRU[str, Planned] = ByteLRU(_PLANS)
        self._domains: ByteLRU[str, Domain] = ByteLRU(_DOMAIN_BYTES)
        self._planned_at = 0

    def clear(self) -> None:
        """Forget everything: after a deletion anything that was kept may be gone."""
        for cache in (self.plans, self.objects, self._domains):
            cache.clear()

    def replay(self, chain_id: str, X: Any, wavelengths: Any, strict: bool) -> np.ndarray:
        """Predict with a chain; see `WorkspaceStore.replay_chain`."""
        from nirs_store.chains.replay import predict

        use = use_of(self.engine, chain_id)
        warn_uncorrected(use)
        planned, load = self._ready(use.chain_id, strict, stacklevel=4)
        return predict(planned.plan, X, load, wavelengths)

    def predictor(self, chain_id: str, strict: bool) -> ChainPredictor:
        """Return a chain as a fitted estimator; see `WorkspaceStore.predictor`."""
        from nirs_store.chains.predictor import ChainPredictor

        use = use_of(self.engine, chain_id)
        chain = self._chain(use.chain_id)
        named = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
        artifacts.get_to_know(self.engine, named)
        code = chain["metadata"].get(CODE)
        refuse_other_python(code, f"Chain {chain_id}")
        note_read(self.engine, "predictor", "chain", str(chain["chain_id"]))
        # Loaded again: what is handed out may be changed by its holder.
        load = partial(artifacts.load_artifact, self.engine)
        predictor = ChainPredictor(chain, load, domain=self._domain_of(chain))
        check_code(code, f"Chain {chain_id}", strict=strict, stacklevel=3)
        equip(predictor, use, weakref.ref(self))
        return predictor

    def predict(
        self,
        chain_id: str,
        X: Any,
        wavelengths: Any,
        reading: Reading,
        how: Logging,
        stored: Callable[[Any, str], Any],
        *,
        sample_ids: Any,
        on_outlier: Literal["warn", "raise", "ignore"],
        strict: bool,
        matrix: str | None,
    ) -> pl.DataFrame:
        """Predict with intervals and flags, and log it; see `WorkspaceStore.predict`."""
        from nirs_store.domain.frame import as_names, report_outliers
        from nirs_store.domain.scope import finish

        use = use_of(self.engine, chain_id)
        X = stored(X, use.chain_id)
        names = as_names(sample_ids)

        def predict(chain: str) -> pl.DataFrame:
            return self.details(chain, X, wavelengths, reading, names, strict)

        grid = getattr(X, "wavelengths", None) if wavelengths is None else wavelengths
        said = {"instrument": how.instrument, "matrix": matrix, "wavelengths": grid}
        found = finish(predict(use.chain_id), use.correction, use.scope, **said)
        report_outliers(found, on_outlier, use.label, stacklevel=4)
        planned = self.plan(use.chain_id)
        keep(self.engine, use, planned.plan, found, X, names, how, planned.about, predict)
        return found

    def details(
        self, chain_id: str, X: Any, wavelengths: Any, reading: Reading, sample_ids: Any, strict: bool
    ) -> pl.DataFrame:
        """Predict with a chain and measure the samples against its domain, without a word about flags."""
        from nirs_store.chains.predictor import detailed

        planned, load = self._ready(chain_id, strict, stacklevel=6)
        domain = self.domain(chain_id)
        return detailed(
            planned.plan, planned.about, domain, load, X, wavelengths, reading, sample_ids, "ignore"
        )

    def _ready(self, chain_id: str, strict: bool, *, stacklevel: int) -> tuple[Planned, Callable[[str], Any]]:
        """Return a compiled chain and what loads its objects, after a look at its code."""
        planned = self.plan(chain_id)
        contents = planned.contents
        load = self.load if not contents else lambda name: self.load(name, contents.get(name))
        if planned.code is not None:
            # Loading imports what is compared then.
            for name in planned.plan.artifact_ids:
                load(name)
            check_code(planned.code, f"Chain {chain_id}", strict=strict, stacklevel=stacklevel)
        note_read(self.engine, "replay_chain", "chain", chain_id)
        return planned, load

    def plan(self, chain_id: str) -> Planned:
        """Return a chain compiled, now or before."""
        # A warm replay reads nothing but memory; a chain not known yet is a question, which looks closely.
        self.engine.check_open(closely=False)
        clears = self.engine.id_cache.clears
        if self._planned_at != clears:
            # Something was deleted through a view on this store.
            self.plans.clear()
            self._planned_at = clears
        planned = self.plans.get(chain_id)
        if planned is None:
            chain = self._chain(chain_id)
            plan = ReplayPlan.from_chain(chain)
            code = chain["metadata"].get(CODE)
            refuse_other_python(code, f"Chain {chain_id}")
            about = {"chain_id": chain["chain_id"], "metadata": chain["metadata"]}
            planned = Planned(plan, artifacts.get_to_know(self.engine, plan.artifact_ids), code, about)
            self.plans.put(chain_id, planned, 1)
        return planned

    def load(self, artifact_id: str, content: str | None = None) -> Any:
        """Return a loaded object that replay shares; `load_artifact` never hands one out."""
        # An id of a caller's own can name other content by now, so those are kept by their `content`.
        key = content or artifact_id
        found = self.objects.get(key)
        # A class that was defined again since is looked up again.
        if found is None or not found.is_current:
            found, row = artifacts.load_held(self.engine, artifact_id)
            if artifacts.content_key(artifact_id, row) != key:
                self.plans.clear()
                raise UnknownId(
                    "artifact", artifact_id, "It was deleted, and the id was given to other content since."
                )
            self.objects.put(key, found, int(row.get("size_bytes") or 0))
        return found.value

    def domain(self, chain_id: str) -> Domain | None:
        """Return the domain of a chain; see `WorkspaceStore.domain`."""
        # Asked each time: another store can give a chain its domain, or replace it, while this one has a plan of it.
        metadata = self.engine.query(lambda con: queries.metadata_of_chain(con, chain_id))
        if metadata is None:
            raise UnknownId("chain", chain_id)
        return self._domain_of({"chain_id": chain_id, "metadata": metadata})

    def _domain_of(self, chain: Mapping[str, Any]) -> Domain | None:
        artifact_id = domain_id(chain["metadata"])
        if artifact_id is None:
            return None
        found = self._domains.get(artifact_id)
        if found is None:
            try:
                data = artifacts.read_artifact(self.engine, artifact_id)
            except UnknownId:
                # An older version imported the bundle and left out what it does not know: "domain not known".
                return None
            try:
                found = Domain.from_bytes(data)
            except ValueError as error:
                raise InvalidInput(
                    f"The domain of chain {chain['chain_id']} is not usable: {error}. Add it again with add_domain."
                ) from error
            self._domains.put(artifact_id, found, len(data))
        return found

    def add_domain(
        self, store: Any, chain_id: str, X: Any, y: Any, wavelengths: Any, sample_ids: Any
    ) -> Domain:
        """Make the domain of a chain and record it; see `WorkspaceStore.add_domain`."""
        from nirs_store.diagnosing.domain import domain_of_calibration

        y = getattr(X, "y", None) if y is None else y
        if y is None:
            raise InvalidInput("y: expected the measured values that the chain was fitted on; found None.")
        domain = domain_of_calibration(store, chain_id, X, y, wavelengths, sample_ids)
        data = domain.to_bytes()
        artifact_id = artifacts.save_bytes(self.engine, data, "bin", DOMAIN_CLASS, "domain", "bytes", None)

        def work(con: Connection) -> None:
            set_domain(con, chain_id, artifact_id, self.engine.session_id)
            note(self.engine, "add_domain", "chain", chain_id, details={"artifact": artifact_id}, con=con)
            keep_rules_of_chain(con, chain_id)

        self.engine.change(work)
        return domain

    def _chain(self, chain_id: str) -> dict[str, Any]:
        chain = self.engine.query(lambda con: queries.get_chain(con, chain_id))
        if chain is None:
            raise UnknownId("chain", chain_id)
        return chain

    def export(self, source: Any, chain_id: str, output_path: str | Path, format: str, options: Any) -> Path:
        """Write a chain as a bundle or a script; see `WorkspaceStore.export_chain`."""
        # They open estimators, and so import scikit-learn: not on the way of opening a store.
        from nirs_store import bundle
        from nirs_store.bundle.transfer import ExportSource

        use = use_of(self.engine, chain_id)
        if use.correction is not None:
            raise InvalidInput(
                f"{use.label} is {use.correction.words}, which a bundle cannot carry. Nothing was written. Export its "
                f"chain {use.chain_id} for the uncorrected predictions, or retire the correction."
            )
        chain_id = use.chain_id
        self.engine.check_open()
        if format == "n4a":
            export_source = ExportSource(self.engine, chain_id)
            if use.name is not None:
                called = {"calibration": use.label, "calibration_scope": dict(use.scope)}
                options["facts"] = called | dict(options.get("facts") or {})
            described = export_source.described(options)
            written = bundle.export_chain(export_source, chain_id, user_path(output_path), **described)
        elif format == "n4a.py":
            written = bundle.export_script(source, chain_id, user_path(output_path), **options)
        else:
            raise UnknownFormat(
                f"format: expected 'n4a' (a bundle) or 'n4a.py' (a Python script), found {format!r}. "
                "Nothing was written."
            )
        note(self.engine, "export_chain", "chain", chain_id, details={"file": written.name, "format": format})
        return written
