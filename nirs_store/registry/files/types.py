"""What a stored file is: an open list of types, some of which say what their metadata must look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.registry.files.words import near

__all__ = ["BUILT_IN", "FileType", "check_metadata", "check_schema", "check_type_name"]

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
    ("spectra", "Spectra, a sample a row.", None),
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
    ("audio_phi_intervals", "Where sound identifies somebody.", _SPANS),
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
    ("metadata", "What is known about something else.", None),
    ("log", "Lines that a program wrote.", None),
    ("archive", "Several files in one.", None),
    ("file", "Anything else.", None),
)
BUILT_IN: dict[str, FileType] = {
    name: FileType(name, words, None if schema is None else {"type": "object", **schema})
    for name, words, schema in _TYPES
}


def check_type_name(name: object, known: Mapping[str, FileType]) -> str:
    """Give a type as it is spelt here; capitals and hyphens do not matter.

    Raises
    ------
    InvalidInput
        There is no such type; the nearest is named.
    """
    text = str(name)
    plain = text.lower().replace("-", "_")
    for candidate in (text, plain):
        if candidate in known:
            return candidate
    raise InvalidInput(
        f"type: there is no type {text!r} of files.{near(plain, known)} Nothing was stored. "
        "`store.files.types()` lists them; `store.files.declare_type(name)` adds one."
    )


def check_schema(schema: object) -> dict[str, Any]:
    """Give a metadata schema back if it is one.

    Raises
    ------
    InvalidInput
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, Mapping):
        raise InvalidInput(f"metadata_schema: expected a dict, found {type(schema).__name__}.")
    plain = dict(schema)
    try:
        Draft202012Validator.check_schema(plain)
    except SchemaError as error:
        raise InvalidInput(
            f"metadata_schema: this is no JSON Schema (draft 2020-12): {error.message}. Nothing was declared."
        ) from error
    return plain


def check_metadata(kind: FileType, metadata: Mapping[str, Any]) -> None:
    """Compare metadata with what their type says of them.

    Raises
    ------
    InvalidInput
        They do not fit; every place that does not is named.
    """
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
