"""Groups: files that belong together and have versions together, such as training sets and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirs_store.audit.trail import attempting
from nirs_store.db.database import Connection
from nirs_store.errors import InvalidInput
from nirs_store.files.content import FolderContent, content_of, listing_hash
from nirs_store.files.find import get
from nirs_store.files.names import FileVersion, check_name
from nirs_store.files.put import Item, check, prepared, protected, record, refuse_other_content, transact
from nirs_store.files.rows import find_version
from nirs_store.files.runs import remove_scratch, scratch
from nirs_store.files.scope import Scope, note_versions
from nirs_store.lazy import polars as pl
from nirs_store.values import one_kind

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


def put_group(
    scope: Scope, name: str, members: Mapping[str, Any] | str | Path, type: str, about: Mapping[str, Any]
) -> FileVersion:
    """Store files as one version of a group, in one transaction."""
    engine, whole = scope.engine, scope.name(name)
    if isinstance(members, Mapping):
        given = {check_name(each, "members"): source for each, source in members.items()}
    else:
        content = content_of(members, "members")
        if not isinstance(content, FolderContent):
            raise InvalidInput(
                f"members: expected a dict or a folder, found {members!r}. Nothing was stored."
            )
        given = {each: file.path for each, file in content.files}
    of_members = {key: value for key, value in about.items() if key != "metadata"}
    wanted = [
        (source, f"{name}/{each}", {**of_members, "type": _MEMBER_TYPES.get(each, type)})
        for each, source in given.items()
    ]
    with attempting(engine, "put_group", "file", whole):
        if not given:
            raise InvalidInput(f"members: the group {whole!r} would be empty. Nothing was stored.")
        group = Item(check(scope, whole, {**about, "type": type}), "group", members={})
        with prepared(scope, wanted) as items:
            hashes = [(each, i.stored.content_hash) for each, i in zip(given, items, strict=True) if i.stored]
            if len(hashes) < len(given):
                raise InvalidInput("members: a member of a group has content. Nothing was stored.")
            group.content_hash = listing_hash(hashes)

            def work(con: Connection) -> tuple[FileVersion, list[FileVersion]]:
                head = find_version(con, group.request.name, None, group.request.row["test_name"])
                if (
                    head
                    and protected(head)
                    and not group.request.force
                    and head["content_hash"] != group.content_hash
                ):
                    refuse_other_content(head, group)
                versions = record(con, engine, items)
                group.members = {each: v.version_id for each, v in zip(given, versions, strict=True)}
                return record(con, engine, [group])[0], versions

            version, versions = transact(engine, work)
    note_versions(engine, "put", [vars(each) for each in (*versions, version) if each.added])
    return version


@contextmanager
def create_group(scope: Scope, name: str, type: str, about: Mapping[str, Any]) -> Iterator[Path]:
    """Return an empty folder, and store what the caller has written there as a group at the end."""
    folder = scratch(scope.engine)
    try:
        yield folder
        put_group(scope, name, folder, type, about)
    finally:
        remove_scratch(folder)


def put_training_set(
    scope: Scope,
    name: str,
    features: Any,
    labels: Any,
    metadata: Mapping[str, Any] | None,
    about: Mapping[str, Any],
) -> FileVersion:
    """Store features, labels and metadata as a group."""
    labels = _as_table(labels)
    rows = [getattr(each, "shape", (None,))[0] for each in (features, labels)]
    if None in rows or rows[0] != rows[1]:
        raise InvalidInput(
            f"features, labels: expected two data frames of as many rows, found {rows[0]} and {rows[1]}. Nothing was "
            "stored."
        )
    members = {_FEATURES: features, _LABELS: labels, _METADATA: dict(metadata or {})}
    return put_group(scope, name, members, "training_set", about)


def get_training_set(
    scope: Scope, name: str, version: int | str | None, test_name: str | None
) -> TrainingSet:
    """Return a training set as it was stored."""
    row = scope.row(name, version, test_name)
    if set(row["members"] or {}) != {_FEATURES, _LABELS, _METADATA}:
        raise InvalidInput(f"{row['name']!r} is not a training set but a {row['type']} ({row['kind']}).")
    found = get(scope, row["version_id"], None, None, None, None)
    return TrainingSet(found[_FEATURES], found[_LABELS], found[_METADATA], FileVersion.of(row, added=False))


def _as_table(labels: Any) -> Any:
    """Make a table of one column from a series, an array or a list of labels; leave anything else as it is."""
    if hasattr(labels, "to_frame"):  # a series of polars or of pandas
        named = getattr(labels, "name", None) not in (None, "")
        return labels.to_frame() if named else labels.to_frame("label")
    if isinstance(labels, list) or getattr(labels, "ndim", None) == 1:
        try:
            return pl.DataFrame({"label": one_kind(labels, "labels") if isinstance(labels, list) else labels})
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InvalidInput(
                f"labels: expected one value of one kind per row, found otherwise: {reason}. Nothing was stored."
            ) from error
    return labels
