"""`store.calibrations`: names, versions, aliases, signatures and monitoring of calibrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.lazy import polars as pl
from nirs_store.records.lookup import whole_ids
from nirs_store.records.named import (
    Resolved,
    Rule,
    aliases_of,
    as_rule,
    check_name,
    find_version,
    known_name,
    named_chains,
)
from nirs_store.service import corrections, renewal, signing, validation, versions
from nirs_store.service import monitor as monitoring
from nirs_store.service.corrections import Correction, Kind
from nirs_store.service.dossier import Dossier
from nirs_store.service.monitor import Monitoring
from nirs_store.service.references import Combine
from nirs_store.service.renewal import Updated
from nirs_store.service.signing import Signature, SignatureCheck
from nirs_store.service.statistics import Repeats
from nirs_store.service.versions import AliasChange, CalibrationVersion


class Calibrations:
    """Named calibrations of a store, as ``store.calibrations``.

    A name such as ``fat`` has numbered versions, each of them a chain. An alias such as ``production`` points to one
    version and can be moved. Wherever a chain id is accepted, so are ``fat@production``, ``fat@v3`` and
    ``fat@latest``; ``fat`` alone means ``fat@production``.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> from sklearn.model_selection import KFold
    >>> from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
    >>> meat, folder = load_tecator(), tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     recorded = record_cross_validation(
    ...         store, PLSRegression(5), meat.X, meat.fat, cv=KFold(5), dataset_name="meat", target="fat")
    ...     calibration = store.calibrations.register("fat", recorded.chain_id, scope={"matrix": "meat"})
    ...     moved = store.calibrations.set_alias("fat", "production", calibration)
    ...     store.replay_chain("fat@production", meat.X[:3]).shape
    (3,)
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine, store: Any = None) -> None:
        self._engine = engine
        self._store = store

    # -- names and versions ----------------------------------------------------------------------

    @whole_ids
    def register(
        self,
        name: str,
        chain_id: str,
        *,
        scope: Mapping[str, Any] | None = None,
        note: str | None = None,
        author: str | None = None,
        dataset: str | None = None,
        correction_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        alias: str | None = None,
    ) -> CalibrationVersion:
        """Register a chain as the next version of a name.

        Parameters
        ----------
        name : str
            Such as ``fat in milk``; a new name begins with version 1. No number is used twice.
        chain_id : str
            The chain, of a completed pipeline.
        scope : mapping, optional
            Where the calibration may be used: ``matrix`` and ``instruments`` (one name or several), ``range`` (lowest
            and highest value, or a dict of these by target), ``wavelengths`` (lowest and highest), ``note``.
            `store.predict` flags what is outside.
        note, author : str, optional
            Free text, and who is responsible for it; the operating system's user by default.
        dataset : str, optional
            The version of a data set that it was fitted on, such as ``corn@v2``; by default the one that the chain was
            recorded with, if any.
        correction_id : str, optional
            Id of a slope and bias correction, of this name or another; the new version gets a copy of it.
        metadata : mapping, optional
            Plain data, for example the reference method and the sampling; the dossier prints it.
        alias : str, optional
            An alias that is moved to the new version in the same transaction.

        Returns
        -------
        CalibrationVersion

        Raises
        ------
        UnknownId, InvalidInput, ForbiddenContent
            Nothing was registered.
        CalibrationInUse
            The alias requires signatures, which a new version cannot have. Nothing was registered.
        """
        if dataset is not None:
            dataset = self._store.datasets.version(dataset).dataset_version_id
        return versions.register(
            self._engine,
            name,
            chain_id,
            scope=scope,
            note_text=note,
            author=author,
            dataset_version_id=dataset,
            correction_id=correction_id,
            metadata=metadata,
            alias=alias,
        )

    def resolve(self, calibration: str) -> Resolved:
        """Return the version and chain that a name means now.

        Parameters
        ----------
        calibration : str
            ``fat@production``, ``fat@v3``, ``fat@latest``, or ``fat``, which means ``fat@production``.

        Returns
        -------
        Resolved
            A tuple of name, number of the version, and chain id.

        Raises
        ------
        CalibrationNotFound
            There is no such name or alias; the error suggests the nearest.
        """
        row = self._engine.query(lambda con: find_version(con, calibration))
        return Resolved(row["name"], row["version"], row["chain_id"])

    def get(self, calibration: str) -> CalibrationVersion:
        """Return one version with the aliases that point to it; names as for `resolve`.

        Raises
        ------
        CalibrationNotFound
        """
        return self._engine.query(lambda con: versions.get(con, calibration))

    def versions(self, name: str) -> pl.DataFrame:
        """List the versions of a name, newest first.

        Returns
        -------
        polars.DataFrame
            ``version``, ``aliases``, ``chain_id``, ``author``, ``note``, ``created_at``, ``scope`` and ``figures``
            (JSON), ``signatures`` (their number), ``chain_exists``, ``version_id``.

        Raises
        ------
        CalibrationNotFound
        """
        return self._engine.query(lambda con: versions.list_versions(con, name))

    def names_of(self, chain_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Map chain ids to names: ``fat@production`` for each alias, ``fat@v2`` for a version without one.

        Parameters
        ----------
        chain_ids : sequence of str
            Whole ids; chains without a name are left out.
        """
        found = self._engine.query(lambda con: named_chains(con, chain_ids))
        return {chain: tuple(words) for chain, words in found.items()}

    # -- aliases ---------------------------------------------------------------------------------

    def set_alias(
        self, name: str, alias: str, version: Any, *, reason: str | None = None, user: str | None = None
    ) -> CalibrationVersion:
        """Point an alias to a version, atomically: readers see the old version or the new one.

        Parameters
        ----------
        name, alias : str
            The calibration, and one word such as ``production`` or ``candidate``.
        version : int or str
            3, ``v3``, ``latest``, another alias, or what `register` returned.
        reason, user : str, optional
            Why, and who did it (the operating system's user by default); both are in the history.

        Returns
        -------
        CalibrationVersion

        Raises
        ------
        CalibrationNotFound, InvalidInput
            Nothing was changed.
        CalibrationInUse
            The alias demands signatures that the version does not have. Nothing was changed.
        """
        return versions.set_alias(self._engine, name, alias, version, reason=reason, user=user)

    def remove_alias(
        self, name: str, alias: str, *, reason: str | None = None, user: str | None = None
    ) -> bool:
        """Remove an alias; its history stays.

        Returns
        -------
        bool
            False when there was no such alias.

        Raises
        ------
        CalibrationNotFound
            There is no such name.
        """
        return versions.remove_alias(self._engine, name, alias, reason=reason, user=user)

    def aliases(self, name: str) -> dict[str, int]:
        """Return the aliases of a name with the numbers of their versions.

        Raises
        ------
        CalibrationNotFound
        """

        def ask(con: Connection) -> dict[str, int]:
            return {alias: version for (_, alias), version in aliases_of(con, known_name(con, name)).items()}

        return self._engine.query(ask)

    def history(self, name: str, alias: str | None = None) -> tuple[AliasChange, ...]:
        """Return the changes of the aliases of a name, or of one alias, oldest first.

        Raises
        ------
        CalibrationNotFound
        """
        return self._engine.query(lambda con: versions.alias_history(con, name, alias))

    # -- in service ------------------------------------------------------------------------------

    def monitor(
        self,
        calibration: str,
        *,
        since: Any = None,
        until: Any = None,
        alias: str | None = None,
        version: int | str | None = None,
        target: str | None = None,
        instrument: str | None = None,
        lab: str | None = None,
        method: str | None = None,
        repeats: Repeats = "mean",
        combine: Combine = "mean",
        include_flagged: bool = True,
        alpha: float = 0.05,
        ewma_lambda: float = 0.4,
    ) -> Monitoring:
        """Compare what a calibration predicted with the laboratory; differences are reference - predicted.

        Parameters
        ----------
        calibration : str
            ``fat``, ``fat@production`` or ``fat@v3``. A name alone means the version that "production" points to;
            without that alias, the newest version that has measurements.
        since, until : datetime, date or ISO 8601 text, optional
            When the samples were measured; UTC if no time zone is given. `until` is exclusive.
        alias, version : optional
            With a name alone: which version, or ``version="all"``.
        target : str, optional
            The target, if the calibration has several.
        instrument : str, optional
            Only measurements of this instrument.
        lab, method : str, optional
            Only references of this laboratory or method.
        repeats : {"mean", "last", "each"}
            How a sample that was measured several times counts: by the mean of its predictions, the last one, or each
            as a sample of its own (for a control sample that is measured every day).
        combine : {"mean", "median", "latest"}
            How to combine replicate references of a sample.
        include_flagged : bool
            Whether flagged measurements count in bias, SEP and chart.
        alpha : float
            Level of each test.
        ewma_lambda : float
            Weight of the newest difference in the moving average, above 0 and at most 1.

        Returns
        -------
        Monitoring
            Bias with its limit, SEP with its limit, slope with its t, RMSEP, share flagged, the control chart, and the
            figures by month, instrument and version. With fewer than 10 samples there is no verdict.

        Raises
        ------
        CalibrationNotFound, InvalidInput
        """
        return monitoring.monitor(
            self._engine, calibration, since=since, until=until, alias=alias, version=version, target=target,
            instrument=instrument, lab=lab, method=method, repeats=repeats, combine=combine,
            include_flagged=include_flagged, alpha=alpha, ewma_lambda=ewma_lambda,
        )  # fmt: skip

    def correct(
        self,
        calibration: str,
        samples: Any = None,
        *,
        kind: Kind = "auto",
        slope: float | None = None,
        bias: float | None = None,
        since: Any = None,
        until: Any = None,
        instrument: str | None = None,
        lab: str | None = None,
        method: str | None = None,
        include_flagged: bool = True,
        reason: str | None = None,
        author: str | None = None,
        alpha: float = 0.05,
        force: bool = False,
        dry_run: bool = False,
    ) -> Correction:
        """Correct future predictions of a version by slope and bias, computed from samples with references.

        `WorkspaceStore.predict` applies the correction when this version is called by name, and adds the columns
        ``raw`` and ``correction``; no other version is corrected. The new correction retires the previous one.

        Parameters
        ----------
        calibration : str
            Names as for `resolve`: one version.
        samples : sequence of str, or data frame, optional
            Names of samples in the log, or a data frame with ``reference``, ``prediction`` (uncorrected) and optionally
            ``sample_id``. By default all logged samples with a reference between `since` and `until`, predicted by this
            version or another one of the same chain.
        kind : {"auto", "bias", "slope_bias"}
            "auto" corrects the slope only if it differs from 1 and the samples span at least half of the
            calibration's range; otherwise it corrects the bias.
        slope, bias : float, optional
            Use these instead of computing them: corrected = slope * prediction + bias.
        since, until, instrument, lab, method, include_flagged : optional
            Which measurements and references to use, as for `monitor`.
        reason, author : str, optional
            Why, and who decided it (the operating system's user by default).
        alpha : float
            Level of the tests.
        force : bool
            Correct even without significance, and with as few as 3 samples.
        dry_run : bool
            Only compute the correction; store nothing.

        Returns
        -------
        Correction

        Raises
        ------
        CalibrationNotFound
        InvalidInput
            Not enough samples, nothing significant, or a slope that is not justified. Nothing was changed.
        CalibrationInUse
            An alias with a rule points to the version, and its signatures would not be about what it reports then.
            Nothing was changed: correct a new version of the same chain, have it signed, and move the alias.
        """
        return corrections.correct(
            self._engine, calibration, samples, kind=kind, slope=slope, bias=bias, since=since, until=until,
            instrument=instrument, lab=lab, method=method, include_flagged=include_flagged, reason=reason,
            author=author, alpha=alpha, force=force, allow=signing.refuse_ruled, dry_run=dry_run,
        )  # fmt: skip

    def corrections(self, calibration: str) -> tuple[Correction, ...]:
        """List all corrections of a name, including retired ones, oldest first.

        Raises
        ------
        CalibrationNotFound
        """
        return self._engine.query(lambda con: corrections.list_corrections(con, known_name(con, calibration)))

    def retire_correction(
        self, calibration: str, *, reason: str | None = None, user: str | None = None
    ) -> Correction:
        """Stop applying the correction of a version; it stays in the list, and no earlier one is applied again.

        Raises
        ------
        CalibrationNotFound
        UnknownId
            The version has none.
        CalibrationInUse
            An alias points to the version, and its rule does not allow the version without the correction. Nothing was
            changed.
        """
        return corrections.retire(
            self._engine, calibration, reason=reason, user=user, allow=signing.keep_rules
        )

    def update(
        self,
        calibration: str,
        new_samples: Any,
        *,
        old_samples: Any = None,
        test_samples: Any = None,
        cv: Any = None,
        note: str | None = None,
        groups: Any = None,
        old_groups: Any = None,
    ) -> Updated:
        """Fit the same recipe to the old and the new samples, and register it as a new version; no alias moves.

        If the old samples are in a stored data set, all samples are stored as a version of the data set
        ``"<name> update"``, and the new version is recorded from that; the next update then finds them.

        Parameters
        ----------
        calibration : str
            Names as for `resolve`.
        new_samples : tuple, Spectra, or name of a data set
            ``(X, y)`` or ``(X, y, sample_ids)``, spectra of a file with their target, or a data set.
        old_samples : optional
            The samples that the version was fitted on, in the same forms. By default its data set, if it has one.
        test_samples : optional
            Samples that neither version was fitted on, for the comparison.
        cv : optional
            The splitter; by default that of the version.
        note : str, optional
            Free text, kept with the new version.
        groups, old_groups : array-like or str, optional
            Groups of the new and of the old samples, one label per sample, or the name of a column of the spectra or
            the data set; by default the groups that these have. Samples of one group stay in one fold. A version that
            was recorded with groups needs them for both.

        Returns
        -------
        Updated
            The new version, and its errors next to those of the old one: on the new samples (the old version never
            saw them, and those of the new version are out of fold), on the old samples, and on the test samples.

        Raises
        ------
        CalibrationNotFound
        InvalidInput, ShapeMismatch
            The samples do not belong together, new samples are in the calibration already, or the recipe cannot be
            repeated: weights, branches, or a transfer to another instrument. Nothing was changed.
        """
        return renewal.update(
            self._store, calibration, new_samples, old_samples=old_samples, test_samples=test_samples, cv=cv,
            note_text=note, groups=groups, old_groups=old_groups,
        )  # fmt: skip

    def challenge(self, calibration: str, version: int | str) -> int:
        """Make a version a challenger: it predicts whenever another version of the name is logged.

        Predictions of challengers are logged with the role "challenger" and never returned; `monitor` compares them on
        the same samples. Returns the number of the version.

        Raises
        ------
        CalibrationNotFound
        """
        return renewal.challenge(self._engine, calibration, version)

    def end_challenge(self, calibration: str, version: int | str) -> bool:
        """End the challenge of a version; return False if it was not a challenger. The log keeps its predictions.

        Raises
        ------
        CalibrationNotFound
        """
        return renewal.end_challenge(self._engine, calibration, version)

    def challengers(self, calibration: str) -> tuple[int, ...]:
        """List the challengers of a name, by version number.

        Raises
        ------
        CalibrationNotFound
        """
        return renewal.list_challengers(self._engine, calibration)

    # -- signatures and rules --------------------------------------------------------------------

    def sign(
        self,
        calibration: str,
        *,
        meaning: Literal["authorship", "review", "responsibility", "approval"],
        signer: str | None = None,
        note: str | None = None,
        key: bytes | str | Path | None = None,
    ) -> Signature:
        """Sign a version: bind name, time and meaning to its content and to the end of the audit trail.

        Parameters
        ----------
        calibration : str
            Names as for `resolve`.
        meaning : {"authorship", "review", "responsibility", "approval"}
            What the signature says.
        signer : str, optional
            The printed name; the operating system's user by default.
        note : str, optional
            Free text.
        key : bytes, str or path, optional
            A secret of at least 16 bytes, or the file that holds it (a `pathlib.Path`): the signature carries an
            HMAC-SHA256. Without a key, anyone with write access to the workspace can make one.

        Returns
        -------
        Signature

        Raises
        ------
        CalibrationNotFound, InvalidInput
        CalibrationInUse
            The chain was deleted, or this person has signed with this meaning already.
        """
        return signing.sign(
            self._engine, calibration, meaning=meaning, signer=signer, note_text=note, key=key
        )

    def signatures(self, calibration: str) -> tuple[Signature, ...]:
        """Return the stored signatures of a version, oldest first; `verify_signatures` checks them.

        Raises
        ------
        CalibrationNotFound
        """
        return self._engine.query(lambda con: signing.signatures_of(con, calibration))

    def verify_signatures(
        self, calibration: str, keys: bytes | str | Path | Sequence[bytes | str | Path] | None = None
    ) -> SignatureCheck:
        """Check the signatures of a version against its content, the files of its artifacts and the audit trail.

        It finds a chain, domain, artifact, scope or other field that changed since; signatures that were altered,
        copied from another version, restored from an archive, inserted by hand, or removed; and a truncated or altered
        trail.

        Parameters
        ----------
        keys : bytes, str, path or sequence of these, optional
            The secrets of signatures with a key; a signature whose key is not given is listed as ``unchecked``.

        Raises
        ------
        CalibrationNotFound, InvalidInput
        """
        return signing.verify_whole(self._engine, calibration, keys)

    def set_rule(
        self,
        name: str,
        alias: str,
        *,
        signatures: int = 2,
        others: int = 1,
        meanings: str | Sequence[str] = (),
        user: str | None = None,
    ) -> None:
        """Require valid signatures of a version before an alias may point to it.

        Parameters
        ----------
        name, alias : str
            The calibration and the alias; neither needs to exist yet.
        signatures, others : int
            Number of different signers, and of signers who are not the author of the version.
        meanings : str or sequence of str
            Only these count, for example "approval"; all by default.
        user : str, optional
            Who sets the rule; the operating system's user by default.

        Raises
        ------
        InvalidInput
            Nothing was changed.

        Notes
        -----
        The rule applies to later moves of the alias. While it points to a version, that version cannot be corrected or
        given another domain without the signatures. Only signatures made in this workspace count.
        """
        rule = as_rule({"signatures": signatures, "others": others, "meanings": meanings})
        signing.set_rule(self._engine, name, alias, rule, user=user)

    def remove_rule(self, name: str, alias: str, *, user: str | None = None) -> bool:
        """Remove the rule of an alias; False when there was none.

        Raises
        ------
        InvalidInput
        """
        return signing.set_rule(self._engine, name, alias, None, user=user) is not None

    def rules(self, name: str) -> dict[str, Rule]:
        """Return the rules of a name, by alias."""
        return self._engine.query(lambda con: signing.rules_of(con, check_name(name)))

    def dossier(self, calibration: str, *, keys: Any = None, figures: bool = True) -> Dossier:
        """Collect what a validation asks for about a version, and list what is missing.

        The contents follow the lists of ICH Q2 and Q14 and of ASTM E1655: reference method, instrument, samples,
        recipe, figures of merit, domain, coded checks, changes since the last version, history, signatures.

        Parameters
        ----------
        calibration : str
            Names as for `resolve`.
        keys : optional
            As for `verify_signatures`.
        figures : bool
            Whether to draw figures into it, which needs matplotlib.

        Returns
        -------
        Dossier
            ``save("fat.html")`` or ``save("fat.pdf")`` writes it, ``missing`` lists what is missing.

        Raises
        ------
        CalibrationNotFound, InvalidInput
        """
        return validation.collect(self._store, calibration, keys=keys, figures=figures)

    # -- deleting --------------------------------------------------------------------------------

    def plan_delete(self, calibration: str) -> CalibrationVersion:
        """Return the version that `delete` would delete; change nothing.

        Raises
        ------
        CalibrationNotFound, CalibrationInUse
        """
        return self._engine.query(lambda con: versions.plan_delete(con, calibration))

    def delete(self, calibration: str, *, reason: str | None = None, now: bool = False) -> CalibrationVersion:
        """Delete a version with its signatures; its chain stays, and its number is not used again.

        Parameters
        ----------
        calibration : str
            Names as for `resolve`.
        reason : str, optional
            Why; required for a signed version. The audit trail records it with all facts about the version.
        now : bool
            False moves it to the trash, from which `store.trash.restore` brings it back with its signatures.

        Raises
        ------
        CalibrationNotFound
        CalibrationInUse
            An alias points to it, or it is signed and no reason was given. Nothing was deleted.
        """
        return versions.delete(self._engine, calibration, reason=reason, now=now)

    def list(self) -> pl.DataFrame:
        """List the calibrations, one row per name.

        Returns
        -------
        polars.DataFrame
            ``name``, ``versions`` (their number), ``latest``, ``aliases``, ``target``, ``chain_id`` (of the newest
            version), ``created_at``.
        """
        return self._engine.query(versions.list_names)

    def __repr__(self) -> str:
        found = self.list()
        lines = [
            f"{row['name']}: v{row['latest']} {row['aliases']}".rstrip()
            for row in found.iter_rows(named=True)
        ]
        return "\n".join([f"<Calibrations: {found.height}>", *lines])

    def _repr_html_(self) -> str:
        from nirs_store.display import block, table

        found = self.list()
        columns = ("name", "latest", "aliases", "target", "created_at")
        return block("Calibrations", table(columns, found.select(columns).rows()))
