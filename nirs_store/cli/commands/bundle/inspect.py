"""``nirs-store bundle inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option


@click.command("inspect", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """Show members, types and card of a bundle, and what opening it would ask of you.

    Nothing of it is loaded. What the card says was written by whoever made the bundle.
    """
    from dataclasses import asdict

    from nirs_store.bundle.inspection import inspect_bundle
    from nirs_store.cli._output import human_bytes, print_fields, print_json, print_table

    found = inspect_bundle(bundle)
    if as_json:
        print_json({**asdict(found), "members": [{"name": n, "size": size} for n, size in found.members]})
        return
    pickles = found.kind == "joblib"
    print_fields(
        {
            "file": found.path,
            "kind": "joblib: holds pickles, which run code" if pickles else "safe: holds no pickles",
            "to open": found.verdict,
            "to be trusted": "\n".join(found.needs_trust),
            "pickles name" if pickles else "made of": "\n".join(found.types),
            "written by": found.writer,
            "format": found.format_version,
            "content": found.content_hash,
            "notes": "\n".join(found.notes),
        }
    )
    click.echo()
    print_table(
        ["member", "size"], [[name, human_bytes(size)] for name, size in found.members], numeric=["size"]
    )
    if found.card is not None:
        click.echo(f"\n{found.card.rstrip()}")
