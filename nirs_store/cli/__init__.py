"""The command line ``nirs-store``, also ``python -m nirs_store``.

One file per command under :mod:`nirs_store.cli.commands`, imported only when it is asked for: the
help of the program and an unknown command answer before numpy, DuckDB or scikit-learn are loaded.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    Parameters
    ----------
    args
        Arguments without the program's name; those of the process when None.
    """
    from nirs_store.cli._app import app

    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        app(args=args, prog_name="nirs-store")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning without the line of code that it comes from."""
    from nirs_store.display import printable

    print(f"warning: {printable(str(message))}", file=sys.stderr if file is None else file)
