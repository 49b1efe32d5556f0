"""`ArtifactRegistry`: what stands where in a pipeline, and what needs what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nirs_store.catalog import artifacts
from nirs_store.registry.registering import RegisteringMethods
from nirs_store.registry.types import ArtifactRecord

__all__ = ["ArtifactRegistry"]


class ArtifactRegistry(RegisteringMethods):
    """Fitted objects by their place in a pipeline: a view on a workspace and its blobs.

    What is registered here is an artifact of the store like any other, held by its record. What only a
    chain names is found here too, under an id made from its place.

    Parameters
    ----------
    workspace : WorkspaceStore, str or Path
    dataset, pipeline_id : str
        Limit lists and purges; `pipeline_id` is also that of new ids.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     run = store.begin_run("corn", {}, [{"name": "corn"}])
    ...     pipeline = store.begin_pipeline(run, "pls", {}, [], "corn", "")
    ...     registry = ArtifactRegistry(store, "corn", pipeline)
    ...     scaler = registry.register_with_chain({"mean": 0.5}, "s1.MSC", "transformer", 1)
    ...     model = registry.register_with_chain(
    ...         {"slope": 2.0}, "s1.MSC>s2.PLSRegression", "model", 2, fold_id=0,
    ...         depends_on=[scaler.artifact_id],
    ...     )
    ...     [record.class_name for record in registry.resolve_dependencies(model.artifact_id)]
    ['builtins.dict']
    >>> folder.cleanup()
    """

    def load_artifact(self, record: ArtifactRecord) -> Any:
        """Load the object of a record anew; its bytes are checked first."""
        return artifacts.load_artifact(self._engine, record.blob_id)

    def export_to_manifest(
        self, path: str | Path | None = None, pipeline_id: str | None = None, *, with_files: bool = False
    ) -> dict[str, Any]:
        """Describe a pipeline's artifacts, and all that they need, as a manifest of schema version 2.

        Parameters
        ----------
        path : str or Path, optional
            Write it there: a YAML file, or a folder in which it is called ``manifest.yaml``.
        pipeline_id : str, optional
            The registry's own by default.
        with_files : bool
            Put the files beside it, so that another workspace can import it.

        Returns
        -------
        dict
            The manifest.

        Raises
        ------
        UnknownId, BlobMissing, BlobCorrupt, WriteFailed
        """
        from nirs_store.registry.manifest import export_to_manifest

        return export_to_manifest(self, path, pipeline_id, with_files=with_files)

    def import_from_manifest(
        self,
        manifest: Mapping[str, Any] | str | Path,
        results_dir: str | Path | None = None,
        *,
        pipeline_id: str | None = None,
    ) -> list[ArtifactRecord]:
        """Register what a manifest lists. Bytes are copied as they are, and never run.

        Pipelines that this workspace does not have are made, in a run of their own; ids then begin with theirs.

        Parameters
        ----------
        manifest : mapping, str or Path
        results_dir : str or Path, optional
            Folder of the files, when it is not that of the manifest.
        pipeline_id : str, optional
            Take the place of the pipeline that was exported.

        Returns
        -------
        list of ArtifactRecord

        Raises
        ------
        InvalidInput
            No manifest, or one of another schema version than 2.
        BlobMissing, BlobCorrupt
            A file is not there, or is not what the manifest says. Nothing was imported.
        """
        from nirs_store.registry.manifest import import_from_manifest

        return import_from_manifest(self, manifest, results_dir, pipeline_id=pipeline_id)
