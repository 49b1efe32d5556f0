"""``nirs-store calibrations``: names, versions, aliases, signatures, dossiers."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Group
from nirs_store.cli._options import FILE, FOR_GOOD, Choice, confirm, given, now_option
from nirs_store.cli._output import (
    answer,
    cell_text,
    moment,
    numbers,
    print_aliases,
    print_columns,
    print_fields,
    print_rows,
    printed_json,
    short_id,
)
from nirs_store.cli._workspace import exports_of, find, json_store_option, plan_options, store_option
from nirs_store.cli.commands import service
from nirs_store.display import counted, printable

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore

_MEANINGS = ("authorship", "review", "responsibility", "approval")
_SCOPE = ("matrix", "instruments", "range", "wavelengths")
_which = click.argument("calibration", metavar="NAME@VERSION")
_by = click.option("--by", "user", metavar="NAME", help="Who does it [default: the user of the system].")
_reason = click.option("--reason", "-m", metavar="TEXT", help="Why; kept in the history.")


@click.group("calibrations", cls=Group)
def calibrations() -> None:
    """Manage named calibrations: versions, aliases, signatures, dossiers.

    NAME@VERSION is fat@v3, fat@production, fat@latest, or fat, which means fat@production.
    """


for _each in (service.monitor, service.correct, service.update, service.challenge):
    calibrations.add_command(_each)


@calibrations.command("list")
@json_store_option
def list_calibrations(store: WorkspaceStore) -> None:
    """List the calibrations."""
    print_rows(
        store.calibrations.list(),
        {
            "name": "name",
            "latest": lambda row: f"v{row['latest']}",
            "aliases": "aliases",
            "target": "target",
            "registered": lambda row: moment(row["created_at"]),
        },
        empty="No calibrations. Register a chain: nirs-store calibrations register NAME CHAIN",
        flexible=["name", "aliases"],
    )


@calibrations.command("show")
@click.argument("calibration", metavar="NAME[@VERSION]")
@json_store_option
def show(store: WorkspaceStore, calibration: str) -> None:
    """Show the versions of a name with its aliases, or one version with its signatures."""
    read, show_it = (_version, _print_version) if "@" in calibration else (_name, _print_name)
    facts = read(store, calibration)
    if not printed_json(facts):
        show_it(facts)


def _version(store: WorkspaceStore, calibration: str) -> dict[str, Any]:
    found = store.calibrations.get(calibration)
    label = found.label
    return found.to_dict() | {
        "label": label,
        "correction": _corrections(store, found.name).get(found.version),
        "dataset": _dataset(store, found.dataset_version_id),
        "signatures": [each.to_dict() for each in store.calibrations.signatures(label)],
    }


def _corrections(store: WorkspaceStore, name: str) -> dict[int, str]:
    """Say in words how each version is corrected now."""
    return {
        each.version: each.words for each in store.calibrations.corrections(name) if each.retired_at is None
    }


def _name(store: WorkspaceStore, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "versions": store.calibrations.versions(name).to_dicts(),
        "aliases": store.calibrations.aliases(name),
        "corrections": {f"v{version}": words for version, words in _corrections(store, name).items()},
        "rules": {alias: str(rule) for alias, rule in store.calibrations.rules(name).items()},
        "history": [vars(each) for each in store.calibrations.history(name)],
    }


def _dataset(store: WorkspaceStore, identifier: str | None) -> str | None:
    """Name the version of a data set, such as ``corn@v2``."""
    from nirs_store.errors import UnknownDataset

    if identifier is None:
        return None
    try:
        return store.datasets.version(identifier).reference
    except UnknownDataset:
        return f"{identifier} (deleted)"


def _print_name(facts: dict[str, Any]) -> None:
    rows = facts["versions"]
    figures = [json.loads(row["figures"]) for row in rows]
    table = {
        "version": [f"v{row['version']}" for row in rows],
        "aliases": [row["aliases"] for row in rows],
        "SECV": numbers([each.get("secv") for each in figures]),
        "SEP": numbers([each.get("sep") for each in figures]),
        "signed": [row["signatures"] or "" for row in rows],
        "chain": [short_id(row["chain_id"]) + ("" if row["chain_exists"] else " (deleted)") for row in rows],
        "author": [row["author"] for row in rows],
        "registered": [moment(row["created_at"]) for row in rows],
        "note": [row["note"] for row in rows],
    }
    print_columns(table, numeric=["SECV", "SEP", "signed"], flexible=["note", "aliases"])
    for version, words in facts["corrections"].items():
        click.echo(f"{version} is {words}.")
    for alias, rule in facts["rules"].items():
        click.echo(f"The alias {printable(alias)!r} demands {rule}.")
    if facts["history"]:
        click.echo()
        print_rows(
            reversed(facts["history"]),
            {
                "alias": "alias",
                "from": lambda each: _number(each["previous"]),
                "to": lambda each: _number(each["version"]),
                "by": "set_by",
                "when": lambda each: moment(each["set_at"]),
                "reason": "reason",
            },
            flexible=["reason"],
        )


def _number(version: int | None) -> str:
    return "-" if version is None else f"v{version}"


def _print_version(facts: dict[str, Any]) -> None:
    from nirs_store.service.versions import labelled

    print_fields(
        {
            "calibration": facts["label"],
            "aliases": ", ".join(facts["aliases"]),
            "chain": facts["chain_id"] + ("" if facts["chain_exists"] else " (deleted)"),
            "data set": facts["dataset"],
            "correction": facts["correction"],
            "scope": "; ".join(f"{key}: {_words(value)}" for key, value in facts["scope"].items()),
            "author": facts["author"],
            "registered": _time(facts["created_at"]),
            "note": facts["note"],
        }
    )
    click.echo()
    print_fields({name: cell_text(value) for name, value in labelled(facts["figures"]).items()})
    if facts["signatures"]:
        click.echo()
        print_rows(
            facts["signatures"],
            {
                "meaning": "meaning",
                "signer": "signer",
                "when": lambda each: _time(each["signed_at"]),
                "key": "key_id",
                "note": "note",
            },
            flexible=["note"],
        )
        click.echo(f"Check them with: nirs-store calibrations verify {quote(printable(facts['label']))}")


def _time(text: str) -> str:
    return f"{text[:19].replace('T', ' ')}Z"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items())
    if isinstance(value, list) and len(value) == 2 and not isinstance(value[0], str):
        return f"{value[0]:g} to {value[1]:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@calibrations.command("register")
@click.argument("name")
@click.argument("chain", metavar="CHAIN")
@click.option("--alias", metavar="WORD", help="Alias to point to the new version, e.g. candidate.")
@click.option("--matrix", multiple=True, metavar="TEXT", help="Scope: what may be measured (repeatable).")
@click.option(
    "--instrument", "instruments", multiple=True, metavar="TEXT", help="Scope: an instrument (repeatable)."
)
@click.option("--range", nargs=2, type=float, metavar="LOW HIGH", help="Scope: predicted values.")
@click.option(
    "--wavelengths", nargs=2, type=float, metavar="LOW HIGH", help="Scope: first and last wavelength."
)
@click.option("--dataset", metavar="ID", help="Version of a data set that it was fitted on.")
@click.option("--author", metavar="NAME", help="Author [default: the user of the system].")
@click.option("--note", "-m", metavar="TEXT", help="Free text.")
@click.option(
    "--fact", "facts", multiple=True, metavar="KEY=TEXT", help="A fact for the dossier (repeatable)."
)
@json_store_option
def register(
    store: WorkspaceStore,
    name: str,
    chain: str,
    alias: str | None,
    dataset: str | None,
    author: str | None,
    note: str | None,
    facts: tuple[str, ...],
    **scope: Any,
) -> None:
    """Register a chain as the next version of NAME.

    Facts that the dossier asks for: reference_method, reference_error, instrument, sampling, sample_preparation,
    purpose. Example:

    \b
    nirs-store calibrations register fat 3fd52bb4 --range 0 60 --fact "reference_method=ISO 1443"
    """  # noqa: D301 (click reads the escape)
    pairs = [each.partition("=") for each in facts]
    if any(not sign or not key.strip() for key, sign, _ in pairs):
        raise click.UsageError("--fact: expected KEY=TEXT, e.g. reference_method=ISO 1443.")
    found = store.calibrations.register(
        name,
        find(store, chain, ["chain"]).identifier,
        scope={key: list(scope[key]) for key in _SCOPE if scope[key]},
        note=note,
        author=author,
        dataset=dataset,
        metadata={key.strip(): value.strip() for key, _, value in pairs},
        alias=alias,
    )
    aliases = f" ({', '.join(found.aliases)})" if found.aliases else ""
    answer(found.to_dict() | {"label": found.label}, f"Registered {printable(found.label + aliases)}")


@calibrations.command("alias")
@click.argument("name")
@click.argument("alias", required=False)
@click.argument("version", required=False)
@click.option("--remove", is_flag=True, help="Remove the alias; its history stays.")
@_reason
@_by
@json_store_option
def alias(
    store: WorkspaceStore,
    name: str,
    alias: str | None,
    version: str | None,
    remove: bool,
    reason: str | None,
    user: str | None,
) -> None:
    """Point ALIAS of NAME to VERSION (v3, latest, another alias). Without ALIAS, list the aliases."""
    if remove and (alias is None or version is not None):
        raise click.UsageError("--remove takes a name and an alias.")
    if alias is not None and version is None and not remove:
        raise click.UsageError("Name the version: v3, latest, or another alias.")
    if remove and alias is not None:
        store.calibrations.remove_alias(name, alias, reason=reason, user=user)
    elif alias is not None:
        store.calibrations.set_alias(name, alias, version, reason=reason, user=user)
    print_aliases(store.calibrations.aliases(name))


@calibrations.command("rule")
@click.argument("name")
@click.argument("alias")
@click.option("--signatures", type=click.IntRange(1), default=2, help="Different signers.")
@click.option("--others", type=click.IntRange(0), default=1, help="Signers who are not the author.")
@click.option(
    "--meaning", "meanings", multiple=True, type=Choice(_MEANINGS), help="Only these count (repeatable)."
)
@click.option("--remove", is_flag=True, help="Remove the rule.")
@_by
@store_option
def rule(
    store: WorkspaceStore, name: str, alias: str, remove: bool, user: str | None, **options: Any
) -> None:
    """Require signatures of a version before ALIAS of NAME may point to it."""
    if remove:
        there = store.calibrations.remove_rule(name, alias, user=user)
        click.echo("Removed." if there else "There was no rule.")
        return
    store.calibrations.set_rule(name, alias, user=user, **options)
    click.echo(f"The alias {printable(alias)!r} demands {store.calibrations.rules(name)[alias]}.")


@calibrations.command("sign")
@_which
@click.option("--meaning", type=Choice(_MEANINGS), required=True, help="What the signature says.")
@click.option("--signer", metavar="NAME", help="Printed name [default: the user of the system].")
@click.option("--note", "-m", metavar="TEXT", help="Free text.")
@click.option("--key-file", "key", type=FILE, help="File with a secret of at least 16 bytes.")
@json_store_option
def sign(store: WorkspaceStore, calibration: str, **options: Any) -> None:
    """Sign a version: bind name, time and meaning to its content.

    Without a key, anyone with write access to the workspace can make such a signature.
    """
    found = store.calibrations.sign(calibration, **options)
    words = f"{found.meaning} of {found.name}@v{found.version} by {found.signer}, {moment(found.signed_at)}"
    answer(found.to_dict(), printable(words))


@calibrations.command("verify")
@_which
@click.option("--key-file", "key_files", multiple=True, type=FILE, help="File with a secret (repeatable).")
@json_store_option
@click.pass_context
def verify(ctx: click.Context, store: WorkspaceStore, calibration: str, key_files: tuple[Path, ...]) -> None:
    """Check the signatures of a version, what was signed, and the audit trail; exit code 4 if anything is wrong."""
    found = store.calibrations.verify_signatures(calibration, key_files)
    if printed_json(found.to_dict()):
        pass
    elif not (found.valid or found.problems or found.unchecked):
        click.echo(f"{printable(found.calibration)} has no signatures.")
    else:
        for line in repr(found).splitlines():
            click.echo(printable(line))
        if found.unchecked:
            click.echo(
                f"{counted(len(found.unchecked), 'signature')} with a key that was not given: --key-file checks them."
            )
    ctx.exit(0 if found.ok else 4)


@calibrations.command("dossier")
@_which
@click.option("--output", "-o", type=FILE, help="A .html, .pdf or .json file.")
@click.option("--no-figures", is_flag=True, help="Draw no figures.")
@click.option(
    "--key-file",
    "key_files",
    multiple=True,
    type=FILE,
    help="File with a secret, to check signatures (repeatable).",
)
@json_store_option
def dossier(
    store: WorkspaceStore,
    calibration: str,
    output: Path | None,
    no_figures: bool,
    key_files: tuple[Path, ...],
) -> None:
    """Write one page with what a validation asks for about a version; the page marks what is missing.

    Without --output, the file is written to the folder exports/ of the workspace. It collects records; it does not
    state that a standard or regulation is met.
    """
    version = store.calibrations.get(calibration)
    only_printed = given("json") and output is None
    drawn = not (no_figures or only_printed)
    found = store.calibrations.dossier(version.label, keys=key_files, figures=drawn)
    if output is None and not only_printed:
        output = exports_of(store) / f"dossier_{version.version_id[-8:]}.html"
    written = None if output is None else found.save(output)
    if printed_json(found.to_dict() | {"path": None if written is None else str(written)}):
        return
    click.echo(written)
    if found.missing:
        click.echo(f"{counted(len(found.missing), 'item')} missing:", err=True)
        for each in found.missing:
            click.echo(f"  {printable(each)}", err=True)


@calibrations.command("delete")
@_which
@click.option("--reason", "-m", metavar="TEXT", help="Why; required for a signed version.")
@now_option
@plan_options
def delete(store: WorkspaceStore, calibration: str, reason: str | None, now: bool, dry_run: bool) -> None:
    """Delete a version with its signatures; its chain stays, and its number is not used again.

    'nirs-store trash restore ID' undoes this within 30 days, unless --now was given. A version that an alias
    points to is refused.
    """
    plan = store.calibrations.plan_delete(calibration)
    signatures = store.calibrations.signatures(plan.label)
    if not given("json"):
        click.echo(f"{printable(plan.label)} with {counted(len(signatures), 'signature')}; its chain stays")
        if now:
            click.echo(FOR_GOOD)
    if not dry_run:
        if not confirm("Delete this?"):
            return
        store.calibrations.delete(plan.version_id, reason=reason, now=now)
    facts = {"label": plan.label, "dry_run": dry_run, "signatures": len(signatures)}
    if not printed_json(plan.to_dict() | facts) and not dry_run:
        click.echo("Deleted.")
        if not now:
            click.echo(f"Undo it with: nirs-store trash restore {plan.version_id}")
