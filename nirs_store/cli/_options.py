"""Options that several commands take, worded once.

Commands do not get flags such as ``--json`` as parameters: what prints, asks or opens looks for them by `given`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from nirs_store.addresses import is_shared
from nirs_store.errors import InvalidInput, UntrustedBundle, did_you_mean

# -- A choice between words that answers a misspelled one with the nearest.


class Choice(click.Choice[str]):
    """As `click.Choice`, with a suggestion."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return `value` when it is one of the words, else fail with the nearest."""
        if value in self.choices:
            return value
        hint = did_you_mean(value, self.choices)
        self.fail(f"{value!r} is none of {', '.join(self.choices)}.{hint}", param, ctx)


# -- Asking before something is destroyed.


FOR_GOOD = "This cannot be undone."
"""The last line of a plan that does not go through the trash."""


def confirm(question: str) -> bool:
    """Ask on a terminal; elsewhere only ``--yes``, with which nothing is asked, is a yes."""
    if given("yes"):
        return True
    if not asks():
        raise InvalidInput(
            "No terminal for a question: add --yes to continue, or --dry-run to see the plan. Nothing was changed."
        )
    return click.confirm(question)


def asks() -> bool:
    """Tell whether a user can answer."""
    return sys.stdin is not None and sys.stdin.isatty()


Function = TypeVar("Function", bound=Callable[..., Any])


# -- Flags.


def flag(*names: str, words: str) -> Callable[[Function], Function]:
    """Return an option without a value, which `given` looks for by its name."""

    def note(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:  # of a group and its command, either may have it
            ctx.meta[f"nirs_store.{parameter.name}"] = True

    return click.option(*names, is_flag=True, expose_value=False, callback=note, help=words)


def given(name: str) -> bool:
    """Tell whether the command that runs has a flag: debug, json, offline or yes."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and f"nirs_store.{name}" in ctx.meta


FILE = click.Path(path_type=Path)
"""The type of an option or argument that names a file or folder."""

debug_option = flag("--debug", words="Show the traceback of an error.")
json_option = flag("--json", words="Print JSON.")
yes_option = flag("--yes", "-y", words="Do not ask for confirmation.")
offline_option = flag(
    "--offline", words="Query this computer's replica of a shared workspace without its server."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing file.")
now_option = click.option("--now", is_flag=True, help="Delete without the trash; this cannot be undone.")


# -- The workspace.


class WorkspacePlace(click.Path):
    """A folder, or the address of a shared workspace: as a path, that would lose a slash."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Leave an address as it is."""
        return value if is_shared(value) else super().convert(value, param, ctx)


def workspace_option(function: Function) -> Function:
    """Add ``--workspace/-w``: the folder of the store, also from ``NIRS_STORE_WORKSPACE``."""
    return click.option(
        "--workspace",
        "-w",
        type=WorkspacePlace(),
        default=Path(),
        envvar="NIRS_STORE_WORKSPACE",
        show_envvar=True,
        show_default="this folder",
        metavar="DIR",
        callback=_named_before,
        help="Folder of the workspace, or address of a shared one.",
    )(function)


WORKSPACE = "nirs_store.workspace"
"""Where the program keeps the workspace that was named before the command."""


def _named_before(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """Return the workspace that was named before the command, where the command names none itself."""
    before: Path | None = ctx.meta.get(WORKSPACE)
    if before is None or ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
        return value
    return before


# -- The two ways to trust a bundle, worded once.


def trust_options(function: Function) -> Function:
    """Add ``--allow-pickle`` and ``--trust TYPE``."""
    trust = click.option(
        "--trust",
        "trusted_types",
        multiple=True,
        metavar="TYPE",
        help="Full name of an additional type to accept in a bundle without pickles (repeatable).",
    )
    allow = click.option(
        "--allow-pickle",
        is_flag=True,
        help="Load a bundle that holds pickles. Pickles run code: use this only for bundles from people you trust.",
    )
    return allow(trust(function))


@contextmanager
def as_options() -> Iterator[None]:
    """Name the options in addition to the arguments that an error speaks of."""
    try:
        yield
    except UntrustedBundle as error:
        raise UntrustedBundle(
            f"{error} On the command line these are --allow-pickle and --trust TYPE."
        ) from error
