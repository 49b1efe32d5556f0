"""The file of a pipeline template: strict, bounded JSON that any text editor can read."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nirs_store.errors import InvalidInput, PathEscapes, TemplateNotFound
from nirs_store.ids import utcnow

_VERSION = 1
_MARK = "nirs_store_template"
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 50
_MAX_NAME = 100
_ALLOWED = re.compile(r"[\w\-+.() ]+")
# Windows opens a device for these, whatever the suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass
class Template:
    """A configuration and what is known about it; the fields are the keys of the file."""

    name: str
    category: str
    pipeline: dict[str, Any]
    description: str = ""
    tags: list[str] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    notes: str = ""
    created_at: str = field(default_factory=lambda: utcnow().isoformat())
    modified_at: str = ""
    source: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        pipeline: Any,
        name: Any,
        category: Any,
        description: Any = "",
        tags: Any = None,
        metrics: Any = None,
        notes: Any = "",
    ) -> Template:
        """Make a template of checked values."""
        return cls(
            name=check_name("template name", name),
            category=check_name("category", category),
            pipeline=_configuration(pipeline),
            description=_text("description", description),
            tags=_tags(tags),
            metrics=_metrics(metrics),
            notes=_text("notes", notes),
        )

    def metadata(self) -> dict[str, Any]:
        """Return everything but the configuration."""
        return {key: value for key, value in vars(self).items() if key != "pipeline"}


def check_name(kind: str, name: Any) -> str:
    """Return a name that is safe as a file name on every platform, or refuse it."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"The {kind} is empty or not a text: {name!r}. Give it a name.")
    normal = nfc(name)
    if any(mark in normal for mark in "/\\:\0") or normal in (".", ".."):
        raise PathEscapes(f"The {kind} {name!r} could lead out of the library: use a plain name, not a path.")
    if (
        not _ALLOWED.fullmatch(normal)
        or normal[0] in ". "
        or normal[-1] in ". "
        or "\n" in normal
        or _DEVICE.fullmatch(normal)
        or len(normal.encode()) > _MAX_NAME
    ):
        raise InvalidInput(
            f"The {kind} {name!r} cannot be a file name on every platform: use letters, digits, spaces and "
            f"_ - + . ( ), up to {_MAX_NAME} bytes, neither beginning nor ending with a dot or space."
        )
    return normal


def nfc(name: str) -> str:
    """Return a name in its composed Unicode form: some file systems give it back decomposed."""
    return unicodedata.normalize("NFC", name)


def same_name(first: str, second: str) -> bool:
    """Compare names as file systems do that do not tell upper from lower case."""
    return nfc(first).casefold() == nfc(second).casefold()


def template_bytes(template: Template) -> bytes:
    """Return the content of a template's file."""
    document = {_MARK: _VERSION, **template.metadata(), "pipeline": template.pipeline}
    data = (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if len(data) > _MAX_BYTES:
        raise InvalidInput(
            f"The template {template.name!r} would take {len(data):,} bytes, but at most {_MAX_BYTES:,} are "
            "allowed. A template holds parameters, not data."
        )
    return data


def read_template(path: Path, *, bare: bool = False) -> Template:
    """Read and check a template's file."""
    document = _parse(path)
    if isinstance(document, Mapping) and _MARK in document:
        version = document[_MARK]
        if version != _VERSION:
            raise InvalidInput(
                f"{path} is a template of version {version!r}; this nirs_store reads version {_VERSION}. "
                "Update nirs_store."
            )
    elif not bare:
        raise InvalidInput(f"{path} is not a pipeline template: it lacks the key {_MARK!r}.")
    else:
        return Template.make(document, path.stem, "general")
    try:
        template = Template.make(
            document["pipeline"],
            document["name"],
            document["category"],
            *(document.get(key) for key in ("description", "tags", "metrics", "notes")),
        )
    except KeyError as error:
        raise InvalidInput(f"{path} is a damaged template: it lacks the key {error}.") from None
    except InvalidInput as error:
        raise type(error)(f"{path} is a damaged template. {error}") from error
    template.created_at = str(document.get("created_at") or "")
    template.modified_at = str(document.get("modified_at") or "")
    source = document.get("source") or {}
    template.source = (
        {str(key): str(value) for key, value in source.items()} if isinstance(source, dict) else {}
    )
    return template


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise TemplateNotFound(f"There is no file {path} to read a template from.") from None
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror or error}. Give a template's file."
        ) from error
    if len(data) > _MAX_BYTES:
        raise InvalidInput(f"{path} is larger than {_MAX_BYTES:,} bytes: it is not a template.")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not a template: it is not strict JSON ({error}).") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _configuration(pipeline: Any) -> dict[str, Any]:
    if isinstance(pipeline, Sequence) and not isinstance(pipeline, (str, bytes)):
        pipeline = {"steps": pipeline} if pipeline else {}
    if not isinstance(pipeline, Mapping) or not pipeline:
        raise InvalidInput(
            f"A template needs a configuration with at least one step, but has {pipeline!r}. Pass a dict, or "
            "describe_estimator(estimator) from nirs_store.estimators."
        )
    plain = _plain(pipeline, "configuration", depth=0)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any, where: str, *, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidInput(f"{where} is nested deeper than {_MAX_DEPTH} levels, or holds itself.")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{where} is {value}, which JSON cannot say: write {{'float': '{value}'}}.")
        return float(value)
    if isinstance(value, Mapping):
        if unnamed := [key for key in value if not isinstance(key, str)]:
            raise InvalidInput(f"{where} has the key {unnamed[0]!r}, but keys of a configuration are texts.")
        return {str(key): _plain(item, f"{where}.{key}", depth=depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth=depth + 1) for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy, without importing it
        return _plain(value.tolist(), where, depth=depth + 1)
    raise InvalidInput(
        f"{where} is a {type(value).__name__}, but a template holds plain values only. For scikit-learn "
        "objects use describe_estimator(estimator) from nirs_store.estimators."
    )


def _text(what: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"The {what} of a template is a text, but is {value!r}.")
    return value or ""


def _tags(tags: Any) -> list[str]:
    if tags is None:
        return []
    if (
        isinstance(tags, str)
        or not isinstance(tags, Sequence)
        or not all(isinstance(t, str) and t for t in tags)
    ):
        raise InvalidInput(f"Tags are a list of texts, such as ['pls', 'nirs'], but are {tags!r}.")
    return list(dict.fromkeys(tags))


def _metrics(metrics: Any) -> dict[str, float | None]:
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise InvalidInput(f"Metrics are a mapping of names to numbers, but are {metrics!r}.")
    found: dict[str, float | None] = {}
    for name, value in metrics.items():
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            raise InvalidInput(f"The metric {name!r} is not a number: {value!r}.") from None
        found[str(name)] = number if math.isfinite(number) else None
    return found
