"""The two ways to trust a bundle, worded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from nirs_store.errors import UntrustedBundle

__all__ = ["as_options", "trust_options"]

Function = TypeVar("Function", bound=Callable[..., Any])


def trust_options(function: Function) -> Function:
    """Add ``--allow-pickle`` and ``--trust TYPE``."""
    trust = click.option(
        "--trust",
        "trusted_types",
        multiple=True,
        metavar="TYPE",
        help="Full name of a type that a bundle without pickles may hold as well (repeatable).",
    )
    allow = click.option(
        "--allow-pickle",
        is_flag=True,
        help="Load a bundle that holds pickles. Pickles run code: only for bundles from people you trust.",
    )
    return allow(trust(function))


@contextmanager
def as_options() -> Iterator[None]:
    """Name the options beside the arguments that an error speaks of."""
    try:
        yield
    except UntrustedBundle as error:
        raise UntrustedBundle(
            f"{error} On the command line these are --allow-pickle and --trust TYPE."
        ) from error
