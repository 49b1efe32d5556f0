"""Options that say how a file of spectra is read, and the reading itself: what was understood goes to stderr."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from nirs_store.reading import Spectra

__all__ = ["read_file", "reading_options"]

Function = TypeVar("Function", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--decimal", type=click.Choice([".", ","]), help="Decimal sign of the file [default: as found]."
    ),
    click.option("--delimiter", metavar="SIGN", help="Separator of the file, or 'tab' [default: as found]."),
    click.option("--encoding", metavar="NAME", help="Encoding of the file, e.g. cp1252 [default: as found]."),
    click.option(
        "--orientation",
        type=click.Choice(["rows", "columns"]),
        help="One sample per row or per column [default: as found].",
    ),
    click.option("--header/--no-header", default=None, help="Whether the first row names the channels."),
)


def reading_options(function: Function) -> Function:
    """Add the options of `nirs_store.read_spectra` for text files; the command gets them as `reading`."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        names = ("decimal", "delimiter", "encoding", "orientation", "header")
        reading = {name: given.pop(name) for name in names}
        if reading["delimiter"] in ("tab", "\\t"):
            reading["delimiter"] = "\t"
        return function(**given, reading=reading)

    wrapped: Any = command
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def read_file(path: Path, reading: dict[str, Any] | None = None, **more: Any) -> Spectra:
    """Read a file of spectra and say on stderr what was understood."""
    from nirs_store.reading import read_spectra

    spectra = read_spectra(path, **(reading or {}), **more)
    click.echo(f"{path.name}: {spectra.understood}", err=True)
    return spectra
