"""Options that say how a file of spectra is read, and the reading itself: what was understood goes to stderr."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nirs_store.display import printable

if TYPE_CHECKING:
    from nirs_store.reading import Spectra

Function = TypeVar("Function", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--decimal", type=click.Choice([".", ","]), help="Decimal sign of the file [default: as found]."
    ),
    click.option(
        "--delimiter", metavar="CHARACTER", help="Separator of the file, or 'tab' [default: as found]."
    ),
    click.option("--encoding", metavar="NAME", help="Encoding of the file, e.g. cp1252 [default: as found]."),
    click.option(
        "--orientation",
        type=click.Choice(["rows", "columns"]),
        help="One sample per row or per column [default: as found].",
    ),
    click.option("--header/--no-header", default=None, help="Whether the first row names the channels."),
    click.option(
        "--format",
        metavar="NAME",
        help="text, parquet, excel, jcamp, spc, opus, asd, or that of another package [default: as found].",
    ),
    click.option("--sheet", metavar="NAME", help="Sheet of an Excel workbook, by name or number."),
    click.option(
        "--block", metavar="NAME", help="Spectrum of an OPUS file (AB, RE, ScSm), or JCAMP-DX block."
    ),
    click.option(
        "--references",
        type=click.Path(),
        metavar="FILE",
        help="Table of reference values, joined by sample name.",
    ),
    click.option(
        "--signal",
        metavar="WORDS",
        help="Kind of values, if the file does not state it, e.g. 'reflectance (%)'.",
    ),
    click.option(
        "--to",
        type=click.Choice(["absorbance", "reflectance", "transmittance"]),
        help="Convert the values to this kind [default: no conversion].",
    ),
)


def reading_options(function: Function) -> Function:
    """Add the options of `nirs_store.read_spectra`; the command gets them as `reading`."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        names = (
            "decimal",
            "delimiter",
            "encoding",
            "orientation",
            "header",
            "format",
            "sheet",
            "block",
            "references",
            "signal",
            "to",
        )
        reading = {name: given.pop(name) for name in names}
        if reading["delimiter"] in ("tab", "\\t"):
            reading["delimiter"] = "\t"
        return function(**given, reading=reading)

    wrapped: Any = command
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def stored_name(file: Path) -> str | None:
    """Return the name of a stored data set that is given where a file is expected, as in corn@v2."""
    return str(file) if "@" in file.name and not file.exists() else None


def read_file(path: Path | Sequence[Path], reading: dict[str, Any] | None = None, **more: Any) -> Spectra:
    """Read a file of spectra and say on stderr what was understood."""
    from nirs_store.reading import read_spectra

    spectra = read_spectra(path, **(reading or {}), **more)
    click.echo(f"{spectra.source.path.name}: {printable(spectra.understood)}", err=True)
    return spectra
