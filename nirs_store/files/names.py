"""Names of stored files, their versions and aliases: what may be one, and what each means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from nirs_store.errors import InvalidInput, PathEscapes, did_you_mean
from nirs_store.ids import is_id
from nirs_store.values import as_text, is_text, to_json, with_zone

# -- Rows of stored files: finding what a name means now, adding versions, aliases, types, processing runs.


#: Kinds of objects that a file can be made from.
SOURCE_KINDS = (
    "file", "chain", "artifact", "prediction", "run", "pipeline", "evaluation", "processing", "bundle",
)  # fmt: skip

LATEST = "latest"
_LONGEST = 1024
_LONGEST_PART = 255
_DRIVE = re.compile(r"[A-Za-z]:")
_VERSION = re.compile(r"[vV]?0*([1-9][0-9]{0,8})")
# Wider than what is read as a version: no user should have to guess whether "v1.0" is one.
_LOOKS_LIKE_VERSION = re.compile(r"[vV]?[0-9]+([._][0-9]+)*")
_ALIAS = re.compile(r"[\w][\w.+-]{0,99}")


def check_name(name: object, what: str = "name") -> str:
    """Return a hierarchical name if it stays in the store."""
    text = as_text(name, what)
    objection = _objection(text)
    if objection is not None:
        raise PathEscapes(
            f"{what}: {text!r} does not stay inside the store: {objection}. Nothing was changed. Write it as in "
            "'ensembl/GRCh37/positions.tsv'."
        )
    if (
        not text
        or len(text) > _LONGEST
        or any(len(part.encode()) > _LONGEST_PART for part in text.split("/"))
    ):
        raise InvalidInput(
            f"{what}: expected 1 to {_LONGEST} characters, at most {_LONGEST_PART} bytes between two '/', found "
            f"{len(text)} characters."
        )
    if is_id(text):
        raise InvalidInput(f"{what}: {text!r} would be taken for the id of a version. Give another name.")
    return text


def _objection(text: str) -> str | None:
    if "\\" in text:
        return "it holds a backslash; write '/'"
    if text.startswith(("/", "~")):
        return "it is absolute"
    if _DRIVE.match(text):
        return "it names a drive"
    if not text.isprintable():
        return "it holds a character that cannot be printed"
    parts = text.split("/")
    if any(part in ("..", ".") for part in parts):
        return "it climbs with '.' or '..'"
    if text and any(not part.strip() for part in parts):
        return "it has an empty part"
    return None


def check_label(text: object, what: str) -> str:
    """Return a test's name: if it is one part of a path."""
    label = check_name(text, what)
    if "/" in label:
        raise InvalidInput(f"{what}: expected a name without '/', found {label!r}.")
    return label


def check_alias(alias: object) -> str:
    """Return an alias if it cannot be taken for a version."""
    text = as_text(alias, "alias")
    if text.casefold() == LATEST or _LOOKS_LIKE_VERSION.fullmatch(text):
        raise InvalidInput(
            f"alias: {text!r} looks like a version, and would say what it is not. Nothing was changed. Write it "
            f"as in {'release-' + text.lstrip('vV') if text.casefold() != LATEST else 'newest'!r}."
        )
    if not _ALIAS.fullmatch(text):
        raise InvalidInput(f"alias: expected letters, digits, '.', '_', '+' or '-', found {text!r}.")
    return text


def parse_version(version: object) -> int | str | None:
    """Read which version is meant."""
    if version is None:
        return None
    if isinstance(version, int) and not isinstance(version, bool) and version > 0:
        return version
    if isinstance(version, str):
        if version.casefold() == LATEST:
            return None
        match = _VERSION.fullmatch(version)
        if match:
            return int(match[1])
        if _ALIAS.fullmatch(version) and not _LOOKS_LIKE_VERSION.fullmatch(version):
            return version
    raise InvalidInput(f"version: expected 'latest', a number as in 'v3', or an alias, found {version!r}.")


def file_ending(text: str) -> str:
    """Return the ending of a name for the file of its blob: letters and digits, or ``bin``."""
    ending = text.rpartition("/")[2].rpartition(".")
    found = ending[2].lower() if ending[0] else ""
    return found if re.fullmatch(r"[a-z0-9]{1,16}", found) else "bin"


# -- From names in the store to paths on this system, which may hold no such name or take it for something else.


_WINDOWS = os.name == "nt"
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]')
# Devices in every folder, also with an ending: what is written to nul.txt is gone.
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL
)


def check_member(name: str) -> None:
    """Refuse the name of a member that leads out of its folder, on whatever system."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise PathEscapes(
            f"The stored folder names {name!r}, which leads out of it. Nothing was written there. Do not trust "
            "where it came from."
        )
    if "\0" in name or not is_text(name):
        raise PathEscapes(
            f"The stored folder names {name!r}, which no file can be called. Nothing was written under it. Do not "
            "trust where it came from."
        )


def placed(folder: Path, name: str) -> Path:
    """Return the path of a name below a folder, if this system can hold it there."""
    check_member(name)
    objection = _objection_of_windows(name) if _WINDOWS else None
    if objection is not None:
        raise PathEscapes(
            f"The name {name!r} cannot be made on this system: {objection}. Nothing was written under it. Bring it "
            "out on Linux or macOS."
        )
    return folder / name


def _objection_of_windows(name: str) -> str | None:
    forbidden = _NOT_ON_WINDOWS.search(name)
    if forbidden is not None:
        # A colon names a drive at the beginning and a hidden stream of a file elsewhere.
        return f"Windows allows no {forbidden[0]!r} in the name of a file"
    for part in PurePosixPath(name).parts:
        if part.endswith((" ", ".")):
            return f"Windows drops the end of {part!r}"
        if _DEVICE.fullmatch(part):
            return f"{part!r} is a device of Windows"
    return None


# -- The fixed words of stored files: statuses, modes, coverages, compressions; and what is near a wrong one.


STATUSES = ("pending", "in_progress", "completed", "failed")
PRODUCTION, TEST = "production", "test"
MODES = (PRODUCTION, TEST)
#: How much of the whole a file covers. The first two are all of it.
COVERAGES = ("full", "full_genome", "chromosome", "gene_subset", "subset", "sample")
_WHOLE = COVERAGES[:2]
COMPRESSIONS = ("auto", "none", "gzip", "zip", "tar.gz", "zstd")
_SPELLINGS = {"gz": "gzip", "tgz": "tar.gz", "tar_gz": "tar.gz", "zst": "zstd", "no": "none"}


def check_word(value: object, what: str, known: Iterable[str]) -> str:
    """Return a word as it is spelt here; capitals and hyphens do not matter."""
    words = tuple(known)
    text = str(value)
    for candidate in (text, text.lower(), text.lower().replace("-", "_"), _SPELLINGS.get(text.lower(), text)):
        if candidate in words:
            return candidate
    raise InvalidInput(
        f"{what}: expected one of {', '.join(words)}, found {text!r}.{did_you_mean(text, words)} Nothing was changed."
    )


def mode_of(mode: str | None, coverage: str | None, test_name: str | None) -> str:
    """Return the mode: the one that was asked for, else production for full coverage and test for all else."""
    found = mode or (PRODUCTION if coverage in _WHOLE else TEST)
    if test_name is not None and found == PRODUCTION:
        raise InvalidInput(
            f"test_name: {test_name!r} is a test's, but the mode is production. Nothing was changed. Leave the "
            "name out, or say mode='test'."
        )
    return found


# -- What a stored file is: an open list of types, some of which say what their metadata must look like.


Schema = Mapping[str, Any]


@dataclass(frozen=True)
class FileType:
    """A type of files.

    Attributes
    ----------
    type : str
        How it is asked for.
    description : str
        One line.
    metadata_schema : dict, optional
        JSON Schema (draft 2020-12) of the metadata.
    built_in : bool
        Whether it comes with the library.
    """

    type: str
    description: str
    metadata_schema: dict[str, Any] | None = field(default=None)
    built_in: bool = True


def _numbers(*names: str, least: float = 0) -> Schema:
    return {"properties": {name: {"type": "number", "minimum": least} for name in names}}


_SPANS: Schema = {
    "properties": {
        "total_segments": {"type": "integer", "minimum": 0},
        "phi_segments": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "start": {"type": "number", "minimum": 0},
                    "end": {"type": "number", "minimum": 0},
                    "type": {"type": "string"},
                },
                "required": ["start", "end"],
            },
        },
    }
}

_TYPES: tuple[tuple[str, str, Schema | None], ...] = (
    # Fitted objects, of spectra as of anything else.
    ("model", "A fitted model.", None),
    ("transformer", "A fitted transformer.", None),
    ("splitter", "What divides samples into folds.", None),
    ("encoder", "A fitted encoder of labels or categories.", None),
    ("meta_model", "A model that predicts from the predictions of others.", None),
    ("model_checkpoint", "A state of a model during or after its training.", _numbers("epoch", "step")),
    # Data and what is made of them.
    ("dataset", "Samples as they came.", None),
    ("spectra", "Spectra, one sample per row.", None),
    ("features", "Features computed from data.", None),
    ("feature_matrix", "The features of a training set.", None),
    ("labels", "The labels of a training set.", None),
    ("training_set", "Features, labels and metadata that a model was trained on.", None),
    ("predictions", "What a model predicted.", None),
    ("analysis_sequences", "Sequences with the predictions of a base model.", None),
    ("splice_positions", "Splice sites, predicted and true.", None),
    ("splice_errors", "False and missed splice sites.", None),
    ("sampled_genes", "Which genes a test took.", None),
    # Video, audio and text, raw and de-identified.
    ("video", "A video.", _numbers("fps", "duration_seconds")),
    ("video_raw", "An original video.", _numbers("fps", "size_mb")),
    (
        "video_keypoints",
        "Positions of bodies and faces in a video.",
        _numbers("total_frames", "people_detected"),
    ),
    ("video_deid", "A de-identified video.", _numbers("faces_blurred")),
    ("audio_raw", "Original or extracted sound.", None),
    ("audio_phi_intervals", "Where sound identifies a person.", _SPANS),
    ("audio_deid", "De-identified sound.", None),
    ("text_raw", "An original text or transcript.", None),
    ("text_deid", "A de-identified text or transcript.", None),
    # What runs and evaluations leave.
    ("evaluation_result", "The outcome of an evaluation.", None),
    ("episode_data", "Episodes or samples of an evaluation, one a row.", None),
    ("trace", "Steps of an episode, for looking into a failure.", None),
    ("report", "A text for people.", None),
    ("plot", "A figure.", None),
    ("heatmap", "A figure of a matrix.", None),
    ("configuration", "Settings of a program.", None),
    ("metadata", "Metadata of another object.", None),
    ("log", "Lines that a program wrote.", None),
    ("archive", "Several files in one.", None),
    ("file", "Anything else.", None),
)
BUILT_IN: dict[str, FileType] = {
    name: FileType(name, words, None if schema is None else {"type": "object", **schema})
    for name, words, schema in _TYPES
}


def check_type_name(name: object, known: Mapping[str, FileType]) -> str:
    """Return a type as it is spelt here; capitals and hyphens do not matter."""
    text = str(name)
    plain = text.lower().replace("-", "_")
    for candidate in (text, plain):
        if candidate in known:
            return candidate
    raise InvalidInput(
        f"type: there is no type {text!r} of files.{did_you_mean(plain, known)} Nothing was stored. "
        "`store.files.types()` lists them; `store.files.declare_type(name)` adds one."
    )


def check_schema(schema: object) -> dict[str, Any]:
    """Return a metadata schema if it is one."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, Mapping):
        raise InvalidInput(f"metadata_schema: expected a dict, found {type(schema).__name__}.")
    plain = dict(schema)
    try:
        Draft202012Validator.check_schema(plain)
    except SchemaError as error:
        raise InvalidInput(
            f"metadata_schema: this is not a JSON Schema (draft 2020-12): {error.message}. Nothing was declared."
        ) from error
    return plain


def check_metadata(kind: FileType, metadata: Mapping[str, Any]) -> None:
    """Refuse metadata that do not fit what their type says of them."""
    if not kind.metadata_schema:
        return
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry: a schema that points elsewhere is never fetched from there.
    validator = Draft202012Validator(kind.metadata_schema, registry=Registry())
    try:
        errors: list[ValidationError] = sorted(
            validator.iter_errors(metadata), key=lambda each: each.json_path
        )
    except Unresolvable as error:
        raise InvalidInput(f"metadata: the schema of type {kind.type!r} points to {error}.") from error
    if errors:
        words = "; ".join(
            f"{each.json_path.removeprefix('$.').removeprefix('$') or 'the whole'}: {each.message}"
            for each in errors[:5]
        )
        more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise InvalidInput(
            f"metadata: they do not fit the type {kind.type!r}: {words}{more}. Nothing was stored."
        )


# -- What a caller says of a file, checked before anything is read or written; and what became of it.


_TEXTS = (
    "run_id", "model_id", "evaluation_id", "suite", "group", "episode", "module", "module_version", "processing_id",
    "message",
)  # fmt: skip
_KNOWN = frozenset(
    (
        *_TEXTS, "type", "sources", "tags", "metadata", "compression", "mode", "coverage", "test_name", "force",
        "status",
    )
)  # fmt: skip


@dataclass(frozen=True)
class FileVersion:
    """One version of a stored file.

    Attributes
    ----------
    version_id : str
        Names this version for ever; taken wherever a name is.
    name, test_name : str
        Its series.
    version : int
    type, kind, status, mode : str
        `kind` is file, folder, bytes, json, table, group or metadata.
    size_bytes, stored_bytes : int
        Before and after compression.
    compression, compression_note : str
        The action taken; the note says why a file was not compressed.
    content_hash : str or None
        SHA-256 of the content; None without content.
    artifact_id : str or None
        The blob.
    created_at : datetime
    added : bool
        False when the same content was there already.
    """

    version_id: str
    name: str
    test_name: str | None
    version: int
    type: str
    kind: str
    status: str
    mode: str
    size_bytes: int
    stored_bytes: int
    compression: str
    compression_note: str | None
    content_hash: str | None
    artifact_id: str | None
    created_at: datetime
    added: bool = True

    @classmethod
    def of(cls, row: Mapping[str, Any], *, added: bool = True) -> FileVersion:
        """Make it from a row of the catalog."""
        values = {
            each.name: row[each.name] for each in fields(cls) if each.name not in ("added", "created_at")
        }
        return cls(**values, created_at=with_zone(row["created_at"]), added=added)  # type: ignore[arg-type]

    def __str__(self) -> str:
        where = f" (test {self.test_name})" if self.test_name else ""
        note = f"; {self.compression_note}" if self.compression_note else ""
        return f"{self.name}{where} v{self.version}: {self.type}, {self.size_bytes:,} bytes, {self.compression}{note}"


@dataclass(frozen=True, slots=True)
class Request:
    """A file to be stored, as its caller described it: columns of its row, and what decides how it is stored."""

    row: dict[str, Any]
    sources: tuple[tuple[str, str], ...]
    compression: str
    mode_said: bool
    force: bool

    @property
    def name(self) -> str:
        """Its whole name."""
        return str(self.row["name"])

    def described(self) -> dict[str, Any]:
        """Return what is said of the content, by argument: the workspace's guard looks through it."""
        return {
            key: value for key, value in self.row.items() if key not in ("type", "mode", "coverage", "status")
        }


def check_request(name: object, about: Mapping[str, Any], types: Mapping[str, FileType]) -> Request:
    """Check everything that can be checked without looking at the catalog."""
    unknown = about.keys() - _KNOWN
    if unknown:
        raise InvalidInput(f"Unknown arguments: {', '.join(sorted(unknown))}. Nothing was stored.")
    if about.get("type") is None:
        raise InvalidInput("type: expected what the file is, as in 'report'. Nothing was stored.")

    def word(key: str, known: Sequence[str]) -> str | None:
        return None if about.get(key) is None else check_word(about[key], key, known)

    metadata = {} if about.get("metadata") is None else about["metadata"]
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata: expected a dict, found {type(metadata).__name__}. Nothing was stored.")
    kind = check_type_name(about["type"], types)
    check_metadata(types[kind], metadata)
    # Refuses metadata that are not plain data before anything is written.
    to_json(metadata, "metadata")
    test_name = None if about.get("test_name") is None else check_label(about["test_name"], "test_name")
    coverage, mode = word("coverage", COVERAGES), word("mode", MODES)
    texts = {key: None if about.get(key) is None else as_text(about[key], key) for key in _TEXTS}
    row = {
        "name": check_name(name),
        "test_name": test_name,
        "type": kind,
        "mode": mode_of(mode, coverage, test_name),
        "coverage": coverage,
        "status": word("status", STATUSES),
        "tags": list(tags_of(about.get("tags") or ())),
        "metadata": dict(metadata),
        "group_name": texts.pop("group"),
        **texts,
    }
    return Request(
        row,
        _sources(about.get("sources") or ()),
        word("compression", COMPRESSIONS) or "auto",
        mode_said=mode is not None or coverage is not None,
        force=bool(about.get("force")),
    )


def tags_of(tags: object) -> tuple[str, ...]:
    """Return tags without repetition."""
    if isinstance(tags, str):
        tags = (tags,)
    if not isinstance(tags, Iterable):
        raise InvalidInput(f"tags: expected texts, found {type(tags).__name__}. Nothing was stored.")
    found = tuple(dict.fromkeys(as_text(tag, "tags") for tag in tags))
    if any(not tag.strip() or not tag.isprintable() for tag in found):
        raise InvalidInput(f"tags: each tag must be a non-empty printable text; found {found!r}.")
    return found


def _sources(sources: object) -> tuple[tuple[str, str], ...]:
    """Read sources: a name, a version's id, a FileVersion, or a pair of kind and id."""
    if isinstance(sources, (str, FileVersion)) or not isinstance(sources, Sequence):
        sources = (sources,)
    found = []
    for source in sources:
        if isinstance(source, FileVersion):
            found.append(("file", source.version_id))
        elif isinstance(source, str):
            found.append(("file", as_text(source, "sources")))
        elif isinstance(source, Sequence) and len(source) == 2:
            found.append((check_word(source[0], "sources", SOURCE_KINDS), as_text(source[1], "sources")))
        else:
            raise InvalidInput(
                f"sources: expected names of files, ids of versions, or pairs as in ('chain', id); found {source!r}. "
                "Nothing was stored."
            )
    return tuple(dict.fromkeys(found))
