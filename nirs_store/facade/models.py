"""Fitted models: saving, loading, replaying, exporting."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nirs_store.catalog import artifacts, records
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.replay import FittedPredictor
from nirs_store.errors import UnknownFormat, UnknownId
from nirs_store.facade.asking import QueryMethods
from nirs_store.facade.base import Planned
from nirs_store.lazily import later
from nirs_store.registry.audit import attempted, note

if TYPE_CHECKING:
    from nirs_store.bundle import limits as bundle_limits
    from nirs_store.catalog import imported
    from nirs_store.registry import loader as loading
    from nirs_store.registry import registry
else:
    bundle_limits = later("nirs_store.bundle.limits")
    imported = later("nirs_store.catalog.imported")
    loading = later("nirs_store.registry.loader")
    registry = later("nirs_store.registry.registry")

__all__ = ["ModelMethods"]


class ModelMethods(QueryMethods):
    """Artifacts, chains on new spectra, files to share."""

    @property
    def artifacts(self) -> registry.ArtifactRegistry:
        """Fitted objects by their place in a pipeline; see `nirs_store.registry`."""
        if self._registry is None:
            self._registry = registry.ArtifactRegistry(self._engine)
        return self._registry

    @property
    def loader(self) -> loading.ArtifactLoader:
        """Loads fitted objects by their place, into the cache that replay uses."""
        if self._loader is None:
            self._loader = loading.ArtifactLoader(self._engine, cache=self._objects)
        return self._loader

    def replay_chain(self, chain_id: str, X: Any, wavelengths: Any = None) -> np.ndarray:
        """Predict new spectra with a stored chain.

        A chain that this store has replayed before touches neither lease nor catalog.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or data frame
            Spectra; a frame's numeric column names are wavelengths and are compared with the
            stored grid. Several sources are given as a sequence or dict of these.
        wavelengths : array of shape (n_features,), optional
            Reaches the operators that accept it.

        Returns
        -------
        ndarray
            What the estimator gives: (n_samples,) or (n_samples, n_targets); labels for
            classifiers.

        Raises
        ------
        UnknownId, ReplayError, ShapeMismatch, InvalidInput, BlobMissing, BlobCorrupt
        """
        from nirs_store.chains.replay import predict

        plan, contents = self._plan(chain_id)
        if not contents:
            return predict(plan, X, self._load_shared, wavelengths)
        return predict(plan, X, lambda name: self._load_shared(name, contents.get(name)), wavelengths)

    def predictor(self, chain_id: str) -> FittedPredictor:
        """Give a chain as a fitted scikit-learn estimator.

        It loads all its models now, and needs the store no longer.

        Returns
        -------
        ChainPredictor
            With ``predict``, ``n_features_in_``, ``feature_names_in_``, and for classifiers ``classes_`` and
            ``predict_proba``; works in scorers, Pipelines, prefit stacks.

        Raises
        ------
        UnknownId, ReplayError, BlobMissing, BlobCorrupt
        """
        from nirs_store.chains.predictor import ChainPredictor

        chain = self.get_chain(chain_id)
        if chain is None:
            raise UnknownId("chain", chain_id)
        named = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
        artifacts.get_to_know(self._engine, named)
        # Loaded anew: what is handed out may be changed by whoever holds it.
        return ChainPredictor(chain, self.load_artifact)

    def _plan(self, chain_id: str) -> Planned:
        # A warm replay reads nothing but memory; a chain not known yet is a question, which looks closely.
        self._engine.check_open(closely=False)
        clears = self._engine.known.clears
        if self._planned_at != clears:
            # Something was deleted through a view on this store.
            self._plans.clear()
            self._planned_at = clears
        planned = self._plans.get(chain_id)
        if planned is None:
            chain = self.get_chain(chain_id)
            if chain is None:
                raise UnknownId("chain", chain_id)
            plan = ReplayPlan.from_chain(chain)
            planned = (plan, artifacts.get_to_know(self._engine, plan.artifact_ids))
            self._plans.put(chain_id, planned, 1)
        return planned

    def _load_shared(self, artifact_id: str, content: str | None = None) -> Any:
        """A loaded object that replay shares; `load_artifact` never hands one out.

        An id of a caller's own can name other content by now, so those are kept by their `content`.
        """
        missing = object()
        key = content or artifact_id
        found = self._objects.get(key, missing)
        if found is missing:
            found, row = artifacts.load_with_row(self._engine, artifact_id)
            if artifacts.content_key(artifact_id, row) != key:
                self._plans.clear()
                raise UnknownId(
                    "artifact", artifact_id, "It was deleted, and the id was given to other content since."
                )
            self._objects.put(key, found, int(row.get("size_bytes") or 0))
        return found

    @attempted("save_artifact")
    def save_artifact(
        self,
        obj: Any,
        operator_class: str,
        artifact_type: str,
        format: str = "joblib",
        *,
        pipeline_id: str | None = None,
    ) -> str:
        """Store a fitted object under the SHA-256 of its bytes; identical bytes are stored once.

        This session holds a reference until a chain takes it over.

        Parameters
        ----------
        format : str
            joblib, cloudpickle, pickle, skops, bytes, or one of an installed package.
        pipeline_id : str, optional
            Release the reference if that pipeline fails.

        Returns
        -------
        str
            The artifact's id: the SHA-256 of the stored file.

        Raises
        ------
        UnknownFormat, SerializationError, ReadOnlyStore
        """
        if pipeline_id is not None:
            records.require_open_pipeline(self._engine, pipeline_id)
        return artifacts.save_artifact(self._engine, obj, operator_class, artifact_type, format, pipeline_id)

    def register_existing_artifact(
        self,
        artifact_id: str,
        path: str | Path,
        content_hash: str,
        operator_class: str,
        artifact_type: str,
        format: str,
        size_bytes: int,
    ) -> str:
        """Register a file of this workspace under an id of the caller's.

        Raises
        ------
        PathEscapes, BlobMissing, BlobCorrupt, InvalidInput
            The path leaves the workspace, the file is not there, or hash or size do not fit.
        """
        return artifacts.register_existing(
            self._engine, artifact_id, path, content_hash, operator_class, artifact_type, format, size_bytes
        )

    def load_artifact(self, artifact_id: str) -> Any:
        """Load an artifact anew; its bytes are checked first.

        Raises
        ------
        UnknownId (KeyError), BlobMissing (FileNotFoundError), BlobCorrupt
        """
        return artifacts.load_artifact(self._engine, artifact_id)

    def read_artifact(self, artifact_id: str) -> bytes:
        """The stored bytes of an artifact, checked against their hash."""
        return artifacts.read_artifact(self._engine, artifact_id)

    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        """An artifact's record with its `ref_count`, or None."""
        return artifacts.get_artifact(self._engine, artifact_id)

    def get_artifact_path(self, artifact_id: str) -> Path:
        """Path of an artifact's file, e.g. for ``joblib.load``.

        Raises
        ------
        UnknownId (KeyError), BlobMissing
        """
        return artifacts.artifact_path(self._engine, artifact_id)

    @attempted("export_chain", "chain")
    def export_chain(
        self, chain_id: str, output_path: str | Path, format: str = "n4a", **options: Any
    ) -> Path:
        """Write a chain as a ``.n4a`` bundle, or as a Python script with format "n4a.py".

        The bundle carries a card with what this workspace knows: scores, data set, versions, seeds.

        Parameters
        ----------
        format : {"n4a", "n4a.py"}
        options
            Of `nirs_store.bundle.export_chain`: ``safe=True`` for a bundle without pickles, ``probe`` for spectra
            that travel with it, ``scores``, ``units``, ``facts``.

        Returns
        -------
        Path
            The file; the suffix is added when there is none.

        Raises
        ------
        UnknownId, UnknownFormat, BlobMissing, BlobCorrupt
        SerializationError
            With ``safe=True``: an object that skops cannot carry.
        """
        # They open estimators, and so import scikit-learn: not on the way of opening a store.
        from nirs_store import bundle
        from nirs_store.outgoing import Outgoing

        self._engine.check_open()
        if format == "n4a":
            outgoing = Outgoing(self._engine, chain_id, self._exported)
            written = bundle.export_chain(
                outgoing, chain_id, Path(output_path), **outgoing.described(options)
            )
        elif format == "n4a.py":
            written = bundle.export_script(self, chain_id, Path(output_path), **options)
        else:
            raise UnknownFormat(
                f"format: expected 'n4a' (a bundle) or 'n4a.py' (a Python script), found {format!r}. "
                "Nothing was written."
            )
        note(
            self._engine, "export_chain", "chain", chain_id, details={"file": written.name, "format": format}
        )
        return written

    @attempted("import_bundle")
    def import_bundle(
        self,
        path: str | Path,
        *,
        allow_pickle: bool = False,
        trusted_types: Iterable[str] = (),
        limits: bundle_limits.Limits | None = None,
        name: str | None = None,
    ) -> imported.ImportedBundle:
        """Bring a bundle into this workspace, as a run with its chain.

        The bundle is opened as by `load_bundle` first, with all its checks; only when every one has passed is it
        recorded, in one transaction, its objects byte for byte. The same content is imported once.

        Parameters
        ----------
        path : path
            A ``.n4a`` bundle of this library or of nirs4all.
        allow_pickle : bool
            Whether it may hold pickles, which **run code that its writer has chosen**, now and whenever the chain is
            replayed.
        trusted_types : iterable of str
            Types that a bundle without pickles may hold beyond the plain ones.
        limits : Limits, optional
            How large it may be.
        name : str, optional
            What to call the run; else after its model and target.

        Returns
        -------
        ImportedBundle
            With ``run_id``, ``pipeline_id``, ``chain_id`` and ``added``.

        Raises
        ------
        UntrustedBundle, BundleInvalid, BundleTooNew
            As for `load_bundle`; nothing in the workspace was changed.
        ReadOnlyStore, StoreBusy, WriteFailed

        Examples
        --------
        >>> imported = store.import_bundle("wheat.n4a")
        >>> store.replay_chain(imported.chain_id, X).shape
        (54,)
        """
        from nirs_store import imports

        return imports.import_bundle(
            self._engine,
            path,
            allow_pickle=allow_pickle,
            trusted_types=trusted_types,
            limits=bundle_limits.DEFAULT_LIMITS if limits is None else limits,
            name=name,
        )

    def export_pipeline_config(self, pipeline_id: str, output_path: str | Path) -> Path:
        """Write a pipeline's configuration as JSON."""
        from nirs_store import exports

        return exports.export_pipeline_config(self._engine, pipeline_id, Path(output_path))

    def export_run(self, run_id: str, output_path: str | Path) -> Path:
        """Write a run with its pipelines and chains as YAML."""
        from nirs_store import exports

        return exports.export_run(self._engine, run_id, Path(output_path))

    def export_predictions_parquet(
        self, output_path: str | Path, *, include_arrays: bool = False, **filters: Any
    ) -> Path:
        """Write predictions as Parquet (filters as `query_predictions`).

        No match still writes a readable file of no rows. With `include_arrays`, the arrays come
        as list columns.
        """
        from nirs_store import exports

        return exports.export_predictions_parquet(
            self._engine, Path(output_path), include_arrays=include_arrays, **filters
        )
