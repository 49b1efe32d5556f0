"""One screen is a function that takes a `Request` and returns a `View`; this file holds both, and the list entry."""

from __future__ import annotations

import secrets
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from nirs_store.errors import InvalidInput, UnknownFormat, quoted

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore
    from nirs_store.ui.table import Table

#: Bytes of one request; a hundred thousand spectra as CSV are sent in parts.
MOST_UPLOADED = 64 << 20
_LONGEST_VALUE = 20_000


def address(path: str, **values: Any) -> str:
    """Return an address within the page; empty values are left out, lists are repeated."""
    pairs = [
        (name, each)
        for name, value in values.items()
        for each in (value if isinstance(value, list | tuple) else [value])
        if each not in (None, "", False)
    ]
    return f"{path}?{urlencode(pairs)}" if pairs else path


def stamp(store: WorkspaceStore) -> str:
    """Return what changes with every transaction of the catalog."""
    found = store.sql("SELECT value FROM nirs_store_meta WHERE key = 'change_count'")
    return str(found["value"][0]) if found.height else ""


@dataclass(frozen=True)
class Upload:
    """A file that was sent, already on the disk, under what its name may hold on any disk."""

    name: str
    path: Path


class Kept:
    """What one page remembers between two requests: plans that wait to be confirmed, results of dropped files."""

    def __init__(self, most: int = 16) -> None:
        self._most, self._kinds = most, defaultdict[str, dict[str, Any]](dict)
        #: In what stands for a plan: no other page takes it for its own.
        self.secret = secrets.token_urlsafe(24)

    def put(self, kind: str, value: Any) -> str:
        """Keep a value; return the key that an address or a form names it by."""
        values, key = self._kinds[kind], secrets.token_urlsafe(12)
        values[key] = value
        while len(values) > self._most:
            del values[next(iter(values))]
        return key

    def get(self, kind: str, key: str) -> Any:
        """Return a value, or None."""
        return self._kinds[kind].get(key)

    def drop(self, kind: str, key: str) -> None:
        """Keep a value no longer."""
        self._kinds[kind].pop(key, None)


@dataclass(frozen=True)
class Request:
    """What a browser asked for."""

    store: WorkspaceStore
    path: str
    parts: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: Sequence[Upload] = ()
    may_change: bool = False  # whether the page was started with --allow-changes
    folder: Any = Path()  # or the address of a shared workspace
    static: bool = False  # a file is written: no forms, no live parts
    foreign: bool = False  # a link of another site was followed
    kept: Kept = field(default_factory=Kept)  # of this page, from request to request

    def text(self, name: str, default: str = "") -> str:
        """Return one value of the form or the address, cut where no user could have typed it."""
        found = self.form.get(name) or self.query.get(name) or [default]
        return found[0][:_LONGEST_VALUE]

    def texts(self, name: str) -> list[str]:
        """Return all values of a name, each once."""
        found = self.form.get(name) or self.query.get(name) or []
        return list(dict.fromkeys(each for each in found if each))

    @property
    def warning(self) -> str:
        """Say how old the answers are where a shared workspace is shown without its server."""
        if self.store._engine.settings.fresh or self.store.location.address is None:
            return ""
        found = self.store.location
        when = "an unknown time" if found.as_of is None else f"{found.as_of:%Y-%m-%d %H:%M}"
        return (
            f"This page shows this computer's replica, without the server: commits up to number {found.commit}, "
            f"up to date at {when}. Later ones are missing."
        )

    @property
    def is_sure(self) -> bool:
        """Whether a plan was confirmed."""
        return self.text("sure") == "1"

    def options(self, *names: str) -> dict[str, Any]:
        """Return one value of each name, None where it is empty."""
        return {name: self.text(name).strip() or None for name in names}

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number of the address within bounds."""
        text = self.text(name)
        if not text:
            return default
        try:
            return min(max(int(text), low), high)
        except ValueError:
            raise InvalidInput(f"{name}: expected a whole number, found {quoted(text)}.") from None

    def level(self, name: str, default: float) -> float:
        """Return a share between 0 and 1 of the form or the address."""
        text = self.text(name)
        try:
            value = float(text) if text else default
        except ValueError:
            value = -1.0
        if not 0 < value < 1:
            raise InvalidInput(f"{name}: expected a number between 0 and 1, found {quoted(text)}.")
        return value

    def here(self, **changed: Any) -> str:
        """Return the present address with some values changed."""
        return address(
            quote(self.path, safe="/@"),
            **{**{key: list(values) for key, values in self.query.items()}, **changed},
        )


@dataclass
class View:
    """One shown screen: a template with its values, and the same as data for programs."""

    template: str
    title: str
    values: dict[str, Any] = field(default_factory=dict)
    data: Any = None  # the answer to Accept: application/json; by default the rows of `table`
    table: Table | None = None  # what ?format=csv and ?format=parquet send
    refresh: int = 0  # seconds after which the parts marked data-live are asked for again
    status: int = 200


@dataclass(frozen=True)
class Download:
    """A file to keep."""

    name: str
    content: bytes

    @classmethod
    def chosen(
        cls, request: Request, stem: str, kinds: Mapping[str, tuple[str, Callable[[Path], Any]]]
    ) -> Download:
        """Save what is asked for; each kind has its suffix, and a function that saves it at a place."""
        kind = request.text("kind")
        if kind not in kinds:
            raise UnknownFormat(f"kind: expected one of {', '.join(kinds)}; found {quoted(kind)}.")
        suffix, save = kinds[kind]
        with tempfile.TemporaryDirectory(prefix="nirs_store-page-") as folder:
            save(path := Path(folder) / f"saved.{suffix}")
            return cls(f"{stem}.{suffix}", path.read_bytes())


@dataclass(frozen=True)
class Redirect:
    """Go there: the answer to a change that was made."""

    path: str


@dataclass(frozen=True)
class Screen:
    """One entry of the list of screens."""

    path: str
    show: Callable[[Request], View | Download | Redirect]
    label: str = ""  # in the navigation; empty for a screen that others lead to
    method: str = "GET"  # POST for what changes the workspace, or takes a file
    changes: bool = False  # only with --allow-changes
    keeps: bool = False  # follows from the catalog alone: given again until something changes
    aside: bool = False  # may take long: asks a store of its own while others are answered
