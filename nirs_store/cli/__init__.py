"""The command line ``nirs-store``, also ``python -m nirs_store``.

One file a command under :mod:`nirs_store.cli.commands`, imported only when it is asked for: the
help of the program and an unknown command answer before numpy, DuckDB or scikit-learn are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    Parameters
    ----------
    args
        Arguments without the program's name; those of the process when None.
    """
    from nirs_store.cli._app import app

    app(args=args, prog_name="nirs-store")
