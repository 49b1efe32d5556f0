"""Groups: files that belong together and have versions together, such as training sets and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirs_store.catalog.guard import check_guard
from nirs_store.errors import InvalidInput
from nirs_store.registry.files.auditing import attempting, note_versions
from nirs_store.registry.files.changing import ChangeMethods
from nirs_store.registry.files.content import FolderContent, content_of
from nirs_store.registry.files.intake import listing_hash
from nirs_store.registry.files.making import MakeMethods
from nirs_store.registry.files.names import check_name
from nirs_store.registry.files.record import Item, record_group
from nirs_store.registry.files.request import FileVersion, check_request, told
from nirs_store.registry.files.workplace import remove_workplace, workplace

__all__ = ["GroupMethods", "TrainingSet"]

_FEATURES, _LABELS, _METADATA = "feature_matrix.parquet", "labels.parquet", "metadata.json"
# Members are what their names say; any other is of the group's own type.
_MEMBER_TYPES = {
    _FEATURES: "feature_matrix",
    _LABELS: "labels",
    _METADATA: "metadata",
    "config.json": "configuration",
}


@dataclass(frozen=True)
class TrainingSet:
    """What a model was trained on.

    Attributes
    ----------
    features, labels : polars.DataFrame
        Rows belong together.
    metadata : dict
    version : FileVersion
        Of the group.
    """

    features: Any
    labels: Any
    metadata: dict[str, Any]
    version: FileVersion


class GroupMethods(MakeMethods, ChangeMethods):
    """Groups, training sets, checkpoints."""

    def put_group(
        self, name: str, members: Mapping[str, Any] | str | Path, *, type: str, **about: Any
    ) -> FileVersion:
        """Store files that belong together, in one transaction, as one version of the group.

        Each member is a file ``<name>/<member>`` with versions of its own; one that has not changed is not stored
        again. The group's version holds them: nothing of it is cleaned away while the group is there.

        Parameters
        ----------
        name : str
        members : dict, or path of a folder
            What `put` takes, by the member's name; of a folder every file.
        type : str
            Of the group, as in ``model_checkpoint``.
        **about
            As for `put`; holds for the group and its members. `metadata` are the group's.

        Returns
        -------
        FileVersion
            ``kind`` is group.

        Raises
        ------
        OverwriteRefused
            A production group has other members already.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     files = {"model.pt": b"weights", "config.json": {"lr": 0.1}}
        ...     _ = store.files.put_group("models", files, type="model_checkpoint")
        ...     store.files.get("models", version="v1")["config.json"]
        {'lr': 0.1}
        >>> folder.cleanup()
        """
        whole = self._name(name)
        given = _members(members)
        items: list[Item] = []
        metadata = about.pop("metadata", None)
        said = self._said({**about, "type": type})
        with attempting(self._engine, "put_group", whole):
            if not given:
                raise InvalidInput(f"members: the group {whole!r} would be empty. Nothing was stored.")
            request = check_request(whole, {**said, "metadata": metadata}, self._known_types(type))
            check_guard(self._engine, told(request))
            try:
                wanted = [
                    (source, f"{name}/{member}", {**about, "type": _MEMBER_TYPES.get(member, type)})
                    for member, source in given.items()
                ]
                self._prepare(wanted, items)
                hashes = [
                    (each, i.stored.content_hash) for each, i in zip(given, items, strict=True) if i.stored
                ]
                if len(hashes) < len(given):
                    raise InvalidInput("members: a member of a group has content. Nothing was stored.")
                group = Item(request, "group", content_hash=listing_hash(hashes))
                version, new = record_group(self._engine, group, dict(zip(given, items, strict=True)))
            finally:
                for item in items:
                    if item.stored is not None:
                        item.stored.draft.discard()
        note_versions(self._engine, "put", [*new, *([version] if version.added else [])])
        return version

    @contextmanager
    def create_group(self, name: str, *, type: str, **about: Any) -> Iterator[Path]:
        """Give an empty folder for code that writes its own files, and store them as a group at the end.

        Raises
        ------
        InvalidInput
            The folder is empty at the end. After an exception in the block nothing is stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     with store.files.create_group("models", type="model_checkpoint") as path:
        ...         _ = (path / "model.pt").write_bytes(b"weights")
        ...     store.files.versions("models")["version"].to_list()
        [1]
        >>> folder.cleanup()
        """
        place = workplace(self._engine)
        try:
            yield place
            self.put_group(name, place, type=type, **about)
        finally:
            remove_workplace(place)

    def put_training_set(
        self, name: str, features: Any, labels: Any, metadata: Mapping[str, Any] | None = None, **about: Any
    ) -> FileVersion:
        """Store what a model is trained on: a version of features, labels and metadata together.

        Parameters
        ----------
        features, labels : data frame
            As many rows each.
        metadata : dict, optional

        Raises
        ------
        InvalidInput
            No frames, or other numbers of rows.

        Examples
        --------
        >>> import polars as pl, tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     X, y = pl.DataFrame({"gc": [0.4, 0.6]}), pl.DataFrame({"site": [1, 0]})
        ...     _ = store.files.put_training_set("training_data", X, y, {"genes": 2})
        ...     store.files.get_training_set("training_data").features.shape
        (2, 1)
        >>> folder.cleanup()
        """
        rows = [getattr(each, "shape", (None,))[0] for each in (features, labels)]
        if None in rows or rows[0] != rows[1]:
            raise InvalidInput(
                f"features, labels: expected two data frames of as many rows, found {rows[0]} and {rows[1]}. Nothing "
                "was stored."
            )
        members = {_FEATURES: features, _LABELS: labels, _METADATA: dict(metadata or {})}
        return self.put_group(name, members, type="training_set", **about)

    def get_training_set(
        self, name: str, *, version: int | str | None = None, test_name: str | None = None
    ) -> TrainingSet:
        """Give a training set as it was stored.

        Raises
        ------
        UnknownFile
        InvalidInput
            It is something else.
        """
        row = self._row(name, version, test_name)
        if set(row["members"] or {}) != {_FEATURES, _LABELS, _METADATA}:
            raise InvalidInput(f"{row['name']!r} is no training set but a {row['type']} ({row['kind']}).")
        found = self.get(row["version_id"])
        return TrainingSet(
            found[_FEATURES], found[_LABELS], found[_METADATA], FileVersion.of(row, added=False)
        )


def _members(members: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    if isinstance(members, Mapping):
        return {check_name(name, "members"): source for name, source in members.items()}
    content = content_of(members, "members")
    if not isinstance(content, FolderContent):
        raise InvalidInput(f"members: expected a dict or a folder, found {members!r}. Nothing was stored.")
    return {name: member.path for name, member in content.files}
