"""Predictions with a named calibration: its scope, its correction, the log, and its challengers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.spectra import table_of
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.errors import CalibrationNotFound, InvalidInput, NirsStoreError, StoreClosed, quoted
from nirs_store.ids import is_id, new_id
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra
from nirs_store.records.lookup import whole_id
from nirs_store.records.named import find_version, names
from nirs_store.records.queries import metadata_of_chain
from nirs_store.service import corrections, log
from nirs_store.service.corrections import Correction
from nirs_store.service.renewal import challengers_of
from nirs_store.values import as_name, index_names, is_frame

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
    """Find what a caller means by an id of a chain, a part of one, or the name of a calibration, in one look.

    Raises
    ------
    CalibrationNotFound, InvalidInput
    """
    if isinstance(given, str) and is_id(given):
        return Use(given)
    named = isinstance(getattr(given, "name", None), str) and isinstance(getattr(given, "version", None), int)
    if not isinstance(given, str) and not named:
        return Use(whole_id(engine, "chain", given))

    def ask(con: Connection) -> Use | None:
        if isinstance(given, str) and "@" not in given and given.strip() not in names(con):
            return None
        return _use(con, find_version(con, given))

    found = engine.query(ask)
    return Use(whole_id(engine, "chain", given)) if found is None else found


def _named_rival(label: str, con: Connection) -> tuple[Use, str | None]:
    rival = _use(con, find_version(con, label))
    return rival, _target(metadata_of_chain(con, rival.chain_id))


def _use(con: Connection, row: Mapping[str, Any]) -> Use:
    return Use(
        str(row["chain_id"]), row["name"], int(row["version"]), row["scope"], corrections.active(con, row)
    )


def warn_uncorrected(
    use: Use,
    what: str = "this returns its predictions without the correction. store.predict applies it",
    stacklevel: int = 4,
) -> None:
    """Say that the correction of a version has no part in what the caller of a method of the store gets."""
    if use.correction is not None:
        warnings.warn(
            f"{use.label} is {use.correction.words}, and {what}.",
            UserWarning,
            stacklevel=stacklevel,
        )


def refuse_corrected(use: Use) -> None:
    """Refuse to hand out a corrected version in a form that cannot carry its correction.

    Raises
    ------
    InvalidInput
    """
    if use.correction is not None:
        raise InvalidInput(
            f"{use.label} is {use.correction.words}, which a bundle cannot carry. Nothing was written. Export its "
            f"chain {use.chain_id} for the uncorrected predictions, or retire the correction."
        )


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
    """Log a detailed prediction, and what the challengers of its calibration predict, in one commit.

    A named calibration is logged unless `log` is False, a chain only if it is True.
    """
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
    batch = new_id()
    entry = log.Entry(
        use.chain_id,
        use.name,
        use.version,
        None if use.correction is None else use.correction.correction_id,
        _target(about.get("metadata")),
        how.instrument,
        how.operator,
        how.measured_at,
    )
    rivals = [] if use.name is None else _rivals(engine, use, predict)
    log.record(
        engine, details, entry, ids, table, keep_spectra=how.keep_spectra, batch_id=batch, commit=not rivals
    )
    for place, (rival, target, found) in enumerate(rivals, 1):
        own = log.Entry(
            rival.chain_id,
            rival.name,
            rival.version,
            None if rival.correction is None else rival.correction.correction_id,
            target or entry.target,
            how.instrument,
            how.operator,
            how.measured_at,
            role="challenger",
        )
        log.record(engine, found, own, ids, table, batch_id=batch, commit=place == len(rivals))


def _target(metadata: Any) -> str | None:
    found = (metadata or {}).get("target")
    return found if isinstance(found, str) and found else None


def _rivals(engine: Engine, use: Use, predict: Predict) -> list[tuple[Use, str | None, pl.DataFrame]]:
    """Predict with the challengers; one that fails is named, and never hinders what is reported."""
    found = []
    for number in challengers_of(engine, str(use.name)):
        if number == use.version:
            continue
        label = f"{use.name}@v{number}"
        try:
            rival, target = engine.query(partial(_named_rival, label))
            details = predict(rival.chain_id)
            corrected = details if rival.correction is None else rival.correction.apply(details)
            found.append((rival, target, corrected))
        except NirsStoreError as error:
            end = (
                " It was deleted: end_challenge takes it off."
                if isinstance(error, CalibrationNotFound)
                else ""
            )
            warnings.warn(
                f"The challenger {quoted(label)} could not predict: {error}{end}", UserWarning, stacklevel=5
            )
    return found
