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
_OPTIONS: dict[str, dict[str, Any]] = {
    "--decimal": {"type": click.Choice([".", ","]), "help": "Decimal sign of the file [default: as found]."},
    "--delimiter": {
        "metavar": "CHARACTER",
        "help": "Separator of the file, or 'tab' [default: as found].",
    },
    "--encoding": {"metavar": "NAME", "help": "Encoding of the file, e.g. cp1252 [default: as found]."},
    "--orientation": {
        "type": click.Choice(["rows", "columns"]),
        "help": "One sample per row or per column [default: as found].",
    },
    "--header/--no-header": {"default": None, "help": "Whether the first row names the channels."},
    "--format": {
        "metavar": "NAME",
        "help": "text, parquet, excel, jcamp, spc, opus, asd, or that of another package [default: as found].",
    },
    "--sheet": {"metavar": "NAME", "help": "Sheet of an Excel workbook, by name or number."},
    "--block": {"metavar": "NAME", "help": "Spectrum of an OPUS file (AB, RE, ScSm), or JCAMP-DX block."},
    "--references": {
        "type": click.Path(),
        "metavar": "FILE",
        "help": "Table of reference values, joined by sample name.",
    },
    "--signal": {
        "metavar": "WORDS",
        "help": "Kind of values, if the file does not state it, e.g. 'reflectance (%)'.",
    },
    "--to": {
        "type": click.Choice(["absorbance", "reflectance", "transmittance"]),
        "help": "Convert the values to this kind [default: no conversion].",
    },
}


def reading_options(function: Function) -> Function:
    """Add the options of `nirs_store.read_spectra`; the command gets them as `reading`."""

    @functools.wraps(function)
    def command(**options: Any) -> Any:
        names = [flags.split("/")[0].removeprefix("--") for flags in _OPTIONS]
        reading = {name: options.pop(name) for name in names}
        if reading["delimiter"] in ("tab", "\\t"):
            reading["delimiter"] = "\t"
        return function(**options, reading=reading)

    wrapped: Any = command
    for flags, how in reversed(_OPTIONS.items()):
        wrapped = click.option(flags, **how)(wrapped)
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
