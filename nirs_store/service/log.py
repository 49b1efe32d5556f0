"""The log of predictions: what was predicted when, for which sample, by which version, and how it was flagged.

Rows travel through the journal: all rows of one call are one commit, and no other process is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.audit.trail import attempting, moment
from nirs_store.db.changes import payload_of
from nirs_store.db.database import Connection
from nirs_store.db.schema import column_names
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.domain.frame import as_names
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId, quoted
from nirs_store.ids import new_id, now_naive, spectrum_hashes
from nirs_store.lazy import polars as pl
from nirs_store.records.lookup import whole_ids
from nirs_store.records.named import find_version
from nirs_store.records.notes import check_guard, note
from nirs_store.records.queries import frame
from nirs_store.values import as_name, as_text, one_of, to_json, whole_number

#: Flags that are not findings about the sample, as SQL.
NOT_FLAGGED = "(m.flags IS NULL OR m.flags = '[\"domain not known\"]')"
_ROLES = ("reported", "challenger")
_SPECTRUM = "<f8"


def user_name() -> str:
    """Return the name of the operating system's user."""
    return str(payload_of("")["user"]) or "unknown"


def clean_ids(sample_ids: Iterable[Any] | None, n: int) -> list[str | None]:
    """Return the names of samples as text; None for a sample without a name."""
    given = as_names(sample_ids)
    if given is None:
        return [None] * n
    found: list[str | None] = []
    for each in given:
        if isinstance(each, (bool, np.bool_, bytes)):
            raise InvalidInput(f"sample_ids: expected text or numbers; found {each!r}.")
        plain = each
        if isinstance(each, (float, np.floating)):
            plain = None if np.isnan(each) else int(each) if float(each).is_integer() else each
        # NA and NaT of pandas are equal to nothing.
        missing = plain is None or type(plain).__name__ in ("NAType", "NaTType")
        found.append(None if missing else as_text(str(plain), "sample_ids").strip() or None)
    if len(found) != n:
        raise ShapeMismatch(f"sample_ids: expected one name for each of {n} spectra; found {len(found)}.")
    return found


def record(
    engine: Engine,
    details: pl.DataFrame,
    same: Mapping[str, Any],
    sample_ids: Sequence[str | None],
    spectra: NDArray[Any],
    measured_at: Any,
    *,
    keep_spectra: bool = False,
    commit: bool = True,
) -> None:
    """Record the rows of a detailed prediction; `same` are the columns that all of them have in common."""
    n = len(sample_ids)
    width = details.height // n if n else 1
    named = [each for each in sample_ids if each is not None]
    check_guard(engine, {"sample_ids": named, **{name: same[name] for name in ("instrument", "operator")}})
    now = now_naive()
    hashes = [each.hex() for each in spectrum_hashes(spectra)]
    blobs: list[bytes | None] = [None] * n
    if keep_spectra:
        blobs = [row.tobytes() for row in np.ascontiguousarray(spectra, dtype=_SPECTRUM)]
    columns = _predicted(details) | {
        "measurement_id": [new_id() for _ in range(details.height)],
        "sample_id": _each(sample_ids, width),
        "spectrum_hash": _each(hashes, width),
        "spectrum": _each(blobs, width),
        "measured_at": _each(_moments(measured_at, n, now), width),
    }
    if "target" in details.columns:
        columns["target"] = details["target"].to_list()
    constant = {**same, "logged_at": now}
    names = column_names("measurements")
    table = [columns.get(name) or [constant.get(name)] * details.height for name in names]
    with engine.recording(commit=commit) as buffer:
        buffer.rows["measurements"].extend(zip(*table, strict=True))
        buffer.nbytes += 300 * details.height + sum(len(blob or b"") for blob in blobs) * width


def _each(values: Sequence[Any], width: int) -> list[Any]:
    return list(values) if width == 1 else [value for value in values for _ in range(width)]


def _predicted(details: pl.DataFrame) -> dict[str, list[Any]]:
    """Return the columns that hold what was predicted; labels of a classifier are kept as text."""
    flags: dict[tuple[str, ...], str | None] = {(): None}
    words = [tuple(each) for each in details["flags"].to_list()]
    for each in set(words):
        flags.setdefault(each, to_json(list(each), "flags"))
    found: dict[str, list[Any]] = {"flags": [flags[each] for each in words]}
    prediction = details["prediction"]
    if not prediction.dtype.is_numeric() or "set" in details.columns:
        return found | {"label": [None if each is None else str(each) for each in prediction.to_list()]}
    values = prediction.cast(pl.Float64)
    raw = details["raw"].cast(pl.Float64) if "raw" in details.columns else values
    found |= {"prediction": values.to_list(), "raw": raw.to_list()}
    for name in ("lower", "upper"):
        if name in details.columns:
            found[name] = details[name].to_list()
    return found


def _moments(given: Any, n: int, now: datetime) -> list[datetime | None]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return [moment(given, "measured_at") or now] * n
    found = [moment(each, "measured_at") or now for each in given]
    if len(found) != n:
        raise ShapeMismatch(f"measured_at: expected one moment for each of {n} spectra; found {len(found)}.")
    return list(found)


# -- Looking at the log.

_COLUMNS = (
    "m.measurement_id, m.batch_id, m.measured_at, m.logged_at, m.sample_id, m.calibration, m.version, m.chain_id, "
    "m.role, m.target, m.raw, m.prediction, m.label, m.lower, m.upper, "
    "coalesce(TRY_CAST(m.flags AS VARCHAR[]), []) AS flags, 'c' || k.number AS correction, m.instrument, m.operator, "
    "m.spectrum_hash, m.spectrum IS NOT NULL AS has_spectrum, m.bundle"
)


class Measurements:
    """The log of predictions of a store, as ``store.measurements``.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
    >>> meat, folder = load_tecator(), tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     model = PLSRegression(4, scale=False)
    ...     chain = record_cross_validation(
    ...         store, model, meat.X[:80], meat.fat[:80], cv=4, dataset_name="meat", target="fat"
    ...     ).chain_id
    ...     named = {"sample_ids": ["a", "b"], "instrument": "bench 2", "on_outlier": "ignore"}
    ...     _ = store.predict(chain, meat.X[80:82], log=True, **named)
    ...     store.measurements.list().select("sample_id", "instrument", "target").rows()
    [('a', 'bench 2', 'fat'), ('b', 'bench 2', 'fat')]
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @whole_ids
    def list(
        self,
        calibration: str | None = None,
        *,
        version: int | None = None,
        chain_id: str | None = None,
        sample_id: str | None = None,
        instrument: str | None = None,
        role: str | None = None,
        flagged: bool | None = None,
        since: Any = None,
        until: Any = None,
        limit: int | None = None,
    ) -> pl.DataFrame:
        """List measurements in the order in which they were measured.

        Parameters
        ----------
        calibration, version, chain_id, sample_id, instrument : optional
            Only measurements with these; ``fat@v3`` names a version too, and takes no `version`.
        role : {"reported", "challenger"}, optional
            Returned predictions, or those of challengers.
        flagged : bool, optional
            Only measurements with a flag, or only those without.
        since, until : datetime, date or ISO 8601 text, optional
            When they were measured; UTC if no time zone is given. `until` is exclusive.
        limit : int, optional
            Return only this many, the newest ones.

        Returns
        -------
        polars.DataFrame
            One row per sample and target. ``flags`` is a list of words, ``correction`` names the applied correction.

        Raises
        ------
        CalibrationNotFound
            Nothing was logged under that name, and no calibration has it.
        InvalidInput
        """
        if role is not None:
            one_of("role", role, _ROLES)
        if limit is not None:
            whole_number("limit", limit, 1, "")
        wanted: dict[str, Any] = {"calibration": calibration, "version": version, "chain_id": chain_id}
        wanted |= {"sample_id": sample_id, "instrument": instrument, "role": role}
        if calibration is not None and (not isinstance(calibration, str) or "@" in calibration):
            if version is not None:
                raise InvalidInput(
                    f"calibration: {quoted(calibration)} names a version already; give the name alone with version."
                )
            meant = self._engine.query(lambda con: find_version(con, calibration))
            wanted |= {"calibration": meant["name"], "version": meant["version"]}
        values = {name: value for name, value in wanted.items() if value is not None}
        where = [f"m.{name} = ${name}" for name in values]
        for name, sign, given in (("since", ">=", since), ("until", "<", until)):
            at = moment(given, name)
            if at is not None:
                where.append(f"m.measured_at {sign} ${name}")
                values[name] = at
        if flagged is not None:
            where.append(f"{'NOT ' if flagged else ''}{NOT_FLAGGED}")
        newest = "" if limit is None else f" ORDER BY m.measured_at DESC, m.measurement_id DESC LIMIT {limit}"
        some = f"SELECT m.* FROM measurements m WHERE {' AND '.join(where) or 'TRUE'}{newest}"
        sql = (
            f"SELECT {_COLUMNS} FROM ({some}) m LEFT JOIN corrections k ON k.correction_id = m.correction_id "
            "ORDER BY m.measured_at, m.measurement_id"
        )

        def ask(con: Connection) -> pl.DataFrame:
            found = frame(con, sql, values)
            if not found.height and calibration is not None:
                _check_logged(con, wanted["calibration"])
            return found

        return self._engine.query(ask)

    def spectrum(self, measurement_id: str) -> NDArray[np.float64]:
        """Return the spectrum of a measurement, if it was kept.

        Raises
        ------
        UnknownId
            No measurement has that id.
        InvalidInput
            The spectrum was not kept: ``predict(..., keep_spectra=True)`` keeps it.
        """
        asked = as_name(measurement_id, "measurement_id")
        rows = self._engine.query(
            lambda con: con.execute(
                "SELECT spectrum FROM measurements WHERE measurement_id = ?", [asked]
            ).fetchall()
        )
        if not rows:
            raise UnknownId("measurement", asked)
        if rows[0][0] is None:
            raise InvalidInput(
                f"The spectrum of measurement {asked!r} was not kept, only its hash. keep_spectra=True keeps it."
            )
        return np.frombuffer(rows[0][0], _SPECTRUM).copy()

    def delete(self, *, before: Any, calibration: str | None = None, dry_run: bool = False) -> int:
        """Delete measurements logged before a time, and return how many. The audit trail records the count.

        Parameters
        ----------
        before : datetime, date or ISO 8601 text
            The time of logging; UTC if no time zone is given.
        calibration : str, optional
            Only measurements of this calibration, all its versions: the name alone.
        dry_run : bool
            Only count.

        Raises
        ------
        CalibrationNotFound
            Nothing was logged under that name, and no calibration has it.
        InvalidInput
        """
        limit = moment(before, "before")
        if limit is None:
            raise InvalidInput("before: expected a moment; found None. Nothing was deleted.")
        if calibration is not None:
            if not isinstance(calibration, str) or "@" in calibration:
                raise InvalidInput(
                    f"calibration: expected a name alone, such as 'fat'; found {quoted(calibration)}. Nothing was "
                    "deleted. Measurements are deleted for all versions of a name."
                )
            self._engine.query(lambda con: _check_logged(con, calibration))

        def work(con: Connection) -> int:
            gone = forget(con, limit, calibration)
            facts: Mapping[str, Any] = {"rows": gone, "before": f"{limit:%Y-%m-%dT%H:%M:%S}Z"}
            note(self._engine, "delete_measurements", "calibration", calibration, details=facts, con=con)
            return gone

        if dry_run:
            sql = f"SELECT count(*) FROM measurements WHERE {_BEFORE}"
            values = {"before": limit, "name": calibration}
            return int(self._engine.query(lambda con: con.execute(sql, values).fetchall())[0][0])
        with attempting(self._engine, "delete_measurements", "calibration", calibration):
            return self._engine.change(work)

    def __len__(self) -> int:
        found = self._engine.query(lambda con: con.execute("SELECT count(*) FROM measurements").fetchall())
        return int(found[0][0])

    def __repr__(self) -> str:
        return f"<log of predictions of {self._engine.layout.root}>"


def _check_logged(con: Connection, name: str) -> None:
    """Refuse a name under which nothing was logged and that no calibration has; the error names the nearest."""
    if not con.execute("SELECT 1 FROM measurements WHERE calibration = ? LIMIT 1", [name]).fetchall():
        find_version(con, f"{name}@latest")


_BEFORE = "logged_at < $before AND ($name::VARCHAR IS NULL OR calibration = $name)"


def forget(con: Connection, before: datetime, calibration: str | None = None) -> int:
    """Delete measurements that were logged before a moment, inside the caller's transaction."""
    return number(con, f"DELETE FROM measurements WHERE {_BEFORE}", {"before": before, "name": calibration})
