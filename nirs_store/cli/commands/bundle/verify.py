"""``nirs-store bundle verify``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option
from nirs_store.cli.commands.bundle._trust import as_options, trust_options


@click.command("verify", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@trust_options
@json_option
def command(bundle: Path, allow_pickle: bool, trusted_types: tuple[str, ...], as_json: bool) -> None:
    """Check a bundle wholly: archive, hashes, types, and that it predicts what it says.

    The last needs loading it, so a bundle with pickles fails without --allow-pickle.
    """
    import warnings

    from nirs_store.bundle.inspection import inspect_bundle
    from nirs_store.bundle.reader import load_bundle
    from nirs_store.cli._output import print_json

    found = inspect_bundle(bundle)
    with as_options(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = load_bundle(bundle, allow_pickle=allow_pickle, trusted_types=trusted_types)
    told = [str(entry.message) for entry in caught]
    probed = opened.record is not None and opened.record.probe is not None
    if as_json:
        print_json(
            {
                "path": found.path,
                "content_hash": found.content_hash,
                "probe_agrees": probed or None,
                "warnings": told,
            }
        )
        return
    for text in told:
        click.secho(f"Warning: {text}", fg="yellow", err=True)
    words = (
        "its probe spectra give the stored predictions" if probed else "it has no probe spectra to compare"
    )
    click.echo(f"Intact: {len(found.members)} members, hashes and types as they should be; {words}.")
