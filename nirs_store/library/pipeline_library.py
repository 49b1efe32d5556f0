"""The templates of one workspace: save, find, list, hand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nirs_store.addresses import is_shared, user_path, without_secrets
from nirs_store.blobs.durable import ensure_dir, remove_file, write_file
from nirs_store.errors import InvalidInput, NirsStoreError, NotAWorkspace, UnknownId
from nirs_store.library.folder import TemplateFolder
from nirs_store.library.template import Template, check_name, nfc, read_template, template_bytes


class PipelineSource(Protocol):
    """What :meth:`PipelineLibrary.copy_from_pipeline` needs of a store."""

    def get_pipeline(self, pipeline_id: str) -> dict[str, Any] | None:
        """Return the row of a pipeline, or None."""


class PipelineLibrary:
    """The pipeline templates of one workspace.

    Parameters
    ----------
    workspace_path : str or Path
        The folder; nothing is made, there or in it, until a template is saved.

    Raises
    ------
    NotAWorkspace
        There is a file at that path.

    Notes
    -----
    Names and categories are file names: letters, digits, spaces and ``_ - + . ( )``, not beginning
    with a dot. Anything else is refused, so that no template ever lies outside the library.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store.library import PipelineLibrary, build_estimator
    >>> folder = tempfile.TemporaryDirectory()
    >>> library = PipelineLibrary(folder.name)
    >>> config = {"steps": [{"class": "sklearn.linear_model.Ridge", "params": {"alpha": 2.0}}]}
    >>> library.save_template(config, "ridge", category="regression", tags=["linear"]).name
    'ridge.json'
    >>> [template["name"] for template in library.list_templates(tags=["linear"])]
    ['ridge']
    >>> build_estimator(library.load_template("ridge"))
    Pipeline(steps=[('ridge', Ridge(alpha=2.0))])
    >>> folder.cleanup()
    """

    def __init__(self, workspace_path: str | Path) -> None:
        if is_shared(workspace_path):
            raise InvalidInput(
                f"Templates are files in the folder of a workspace, and {without_secrets(str(workspace_path))} has "
                "none. Nothing was changed. Name a folder, such as that of a workspace of your own."
            )
        self.workspace_path = user_path(workspace_path)
        if self.workspace_path.exists() and not self.workspace_path.is_dir():
            raise NotAWorkspace(
                f"A library lives in a workspace folder, but {self.workspace_path} is a file. Name a folder."
            )
        self._folder = TemplateFolder(self.workspace_path / "library")

    def __repr__(self) -> str:
        return f"PipelineLibrary({str(self.workspace_path)!r})"

    def save_template(
        self,
        pipeline_config: Mapping[str, Any] | Sequence[Any],
        name: str,
        category: str = "general",
        description: str = "",
        tags: list[str] | None = None,
        metrics: dict[str, float] | None = None,
        notes: str = "",
        overwrite: bool = False,
    ) -> Path:
        """Save a configuration as a template.

        Parameters
        ----------
        pipeline_config : mapping or sequence
            Strict JSON values, not empty; a sequence is kept as ``{"steps": [...]}``. Tuples become
            lists, numpy scalars and arrays become numbers and lists.
        name, category : str
            See the notes of the class.
        description, notes : str
            For people.
        tags : list of str, optional
            To find it again.
        metrics : dict of str to float, optional
            Scores that it reached.
        overwrite : bool
            Whether a template of this name and category is replaced; its date of creation stays.

        Returns
        -------
        Path
            The file, durably written.

        Raises
        ------
        TemplateExists
            It is there and `overwrite` is False.
        InvalidInput
            Empty or not strict JSON, or a name that cannot be used; PathEscapes when it would leave
            the library.
        WriteFailed, ReadOnlyStore
            The system refused.
        """
        return self._folder.save(
            Template.make(pipeline_config, name, category, description, tags, metrics, notes), overwrite
        )

    def load_template(self, name: str, category: str | None = None) -> dict[str, Any]:
        """Return the configuration of a template.

        Raises
        ------
        TemplateNotFound
            There is none of that name (in that category).
        InvalidInput
            Several categories have one of that name, or the file is damaged.
        """
        return read_template(self._folder.find(name, category)).pipeline

    def get_template_metadata(self, name: str, category: str | None = None) -> dict[str, Any]:
        """Return what is known about a template: all but the configuration.

        Returns
        -------
        dict
            name, category, description, tags, metrics, notes, created_at, modified_at, source, and the
            path of the file.

        Raises
        ------
        TemplateNotFound, InvalidInput
            As for `load_template`.
        """
        path = self._folder.find(name, category)
        return {**read_template(path).metadata(), "path": str(path)}

    def list_templates(
        self, category: str | None = None, tags: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """List templates by category and name.

        Parameters
        ----------
        category : str, optional
            Only this one.
        tags : list of str, optional
            Only templates that carry at least one of them.

        Returns
        -------
        list of dict
            As `get_template_metadata`, with ``error``: None, or what is wrong with a file that cannot be
            read. Such files are listed whatever tags are asked for.
        """
        if category is not None:
            category = check_name("category", category)
        wanted = {tags} if isinstance(tags, str) else set(tags or ())
        found = []
        for path in self._folder.files():
            if category not in (None, nfc(path.parent.name)):
                continue
            entry: dict[str, Any] = {"path": str(path), "error": None}
            try:
                self._folder.check_inside(path)
                entry |= read_template(path).metadata()
            except NirsStoreError as error:
                unknown = Template(path.stem, path.parent.name, pipeline={}, created_at="")
                entry |= {**unknown.metadata(), "error": str(error)}
            if not wanted or entry["error"] or wanted.intersection(entry["tags"]):
                found.append(entry)
        return found

    def delete_template(self, name: str, category: str | None = None) -> None:
        """Delete a template; its category goes with its last template.

        Raises
        ------
        TemplateNotFound, InvalidInput
            As for `load_template`; but a damaged file can be deleted.
        WriteFailed, ReadOnlyStore
            The system refused.
        """
        path = self._folder.find(name, category)
        remove_file(path)
        try:
            path.parent.rmdir()
        except OSError:
            # Not empty, or another process is saving into it: it stays.
            return

    def copy_from_pipeline(
        self,
        store: PipelineSource,
        pipeline_id: str,
        name: str,
        category: str = "general",
        description: str = "",
        tags: list[str] | None = None,
        notes: str = "",
        overwrite: bool = False,
    ) -> Path:
        """Save the configuration of a recorded pipeline as a template, with its scores and its origin.

        Parameters
        ----------
        store : WorkspaceStore
            Any object with ``get_pipeline``; it may be the store of another workspace.
        pipeline_id : str
            The pipeline whose expanded configuration is taken.
        name, category, description, tags, notes, overwrite
            As for `save_template`.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        UnknownId
            The store has no such pipeline.
        TemplateExists, InvalidInput, WriteFailed, ReadOnlyStore
            As for `save_template`; InvalidInput also when the pipeline has no configuration.
        """
        row = store.get_pipeline(pipeline_id)
        if row is None:
            raise UnknownId("pipeline", pipeline_id, "List those there are with store.list_pipelines().")
        config = row.get("expanded_config")
        if not config:
            raise InvalidInput(f"The pipeline {pipeline_id} was recorded without a configuration to copy.")
        metric = row.get("metric") or "score"
        metrics = {
            f"{kind}_{metric}": row[key]
            for kind, key in (("val", "best_val"), ("test", "best_test"))
            if row.get(key) is not None
        }
        template = Template.make(config, name, category, description, tags, metrics, notes)
        template.source = {
            key: str(row[key]) for key in ("pipeline_id", "run_id", "dataset_name") if row.get(key)
        }
        return self._folder.save(template, overwrite)

    def export_template(self, name: str, export_path: str | Path, category: str | None = None) -> Path:
        """Write a template to a file of its own, to hand on or to import elsewhere.

        Parameters
        ----------
        name, category
            As for `load_template`.
        export_path : str or Path
            A file (``.json`` is added when it has no suffix; an existing one is replaced) or an existing
            folder, which then gets ``<name>.json``.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        TemplateNotFound, InvalidInput
            As for `load_template`; a damaged file is not exported.
        WriteFailed, ReadOnlyStore
            The system refused.
        """
        template = read_template(self._folder.find(name, category))
        target = user_path(export_path)
        if target.is_dir():
            target = target / f"{template.name}.json"
        elif not target.suffix:
            target = target.with_name(f"{target.name}.json")
        ensure_dir(target.parent)
        write_file(target, template_bytes(template))
        return target

    def import_template(
        self,
        import_path: str | Path,
        category: str | None = None,
        overwrite: bool = False,
        *,
        name: str | None = None,
    ) -> Path:
        """Add a template from a file: an exported one, or a bare configuration in JSON.

        Parameters
        ----------
        import_path : str or Path
            At most 1 MB. Nothing in it is run or built.
        category, name : str, optional
            By default those in the file; for a bare configuration "general" and the name of the file.
        overwrite : bool
            As for `save_template`.

        Returns
        -------
        Path
            The file in this library.

        Raises
        ------
        TemplateNotFound
            There is no such file.
        InvalidInput
            It is not a template, or its name or category cannot be used.
        TemplateExists, WriteFailed, ReadOnlyStore
            As for `save_template`.
        """
        template = read_template(user_path(import_path), bare=True)
        template.category = check_name("category", category or template.category)
        template.name = check_name("template name", name or template.name)
        return self._folder.save(template, overwrite)
