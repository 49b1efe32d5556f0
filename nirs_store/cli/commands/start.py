"""``nirs-store init``, ``demo``, ``ui`` and ``library``; ``share``, ``clone``, ``push`` and ``shared``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from nirs_store.addresses import is_shared
from nirs_store.cli._group import Command, Group
from nirs_store.cli._options import (
    FILE,
    WorkspacePlace,
    confirm,
    dry_run_option,
    given,
    json_option,
    offline_option,
    workspace_option,
    yes_option,
)
from nirs_store.cli._output import answer, moment, print_json, print_rows, printed_json, progress
from nirs_store.cli._spectra import read_file, reading_options
from nirs_store.cli._workspace import find, open_store, shared_settings
from nirs_store.display import byte_text, printable
from nirs_store.errors import InvalidInput, NirsStoreError

if TYPE_CHECKING:
    from nirs_store.library import PipelineLibrary


@click.command("share", cls=Command)
@click.argument("folder", type=FILE)
@click.argument("address")
@click.option(
    "--blobs", metavar="PLACE", help="Place of the blobs: s3://bucket/prefix, gs://, az:// or file:///folder."
)
@dry_run_option
@yes_option
@json_option
def share(folder: Path, address: str, blobs: str | None, dry_run: bool) -> None:
    """Make a shared workspace of FOLDER, at an ADDRESS such as postgresql://lab.example/nirs?workspace=corn.

    All rows and blobs are copied and compared. After that, FOLDER is read-only: record at ADDRESS.
    """
    from nirs_store.shared import moving
    from nirs_store.shared.address import parse

    place = parse(address, blobs=blobs)
    if not dry_run:
        plan = moving.share(folder, place, dry_run=True)
        words = f"{plan.rows:,} rows and {plan.blobs:,} blobs ({byte_text(plan.bytes)})"
        if not confirm(f"Copy {words} to {place}, and make the folder read-only?"):
            return
    with progress("Copying blobs") as show:
        _say(moving.share(folder, place, dry_run=dry_run, progress=show))


@click.command("clone", cls=Command)
@click.argument("address")
@click.argument("folder", type=FILE)
@dry_run_option
@json_option
def clone(address: str, folder: Path, dry_run: bool) -> None:
    """Copy the shared workspace at ADDRESS, as it is now, into an ordinary workspace in FOLDER."""
    from nirs_store.shared import moving
    from nirs_store.shared.address import parse

    with progress("Copying blobs") as show:
        _say(moving.clone(parse(address), folder, dry_run=dry_run, progress=show))


@click.command("push", cls=Command)
@click.argument("folder", type=FILE)
@click.argument("address")
@dry_run_option
@json_option
def push(folder: Path, address: str, dry_run: bool) -> None:
    """Add everything in FOLDER, a workspace recorded offline, to the shared workspace at ADDRESS.

    Rows and blobs that it already has are skipped, so you can push again after recording more. FOLDER does not change.
    """
    with TemporaryDirectory(prefix="nirs_store-") as scratch:
        archive = Path(scratch) / "push.tar.zst"
        with open_store(folder) as store:
            store.archive(archive)
        with open_store(address) as store, progress("Copying") as show:
            added = store.restore_archive(archive, dry_run=dry_run, progress=show)
    words = "Would add" if dry_run else "Added"
    answer(
        {"rows": added.rows, "blobs": added.blobs, "dry_run": dry_run},
        f"{words} {sum(added.rows.values()):,} rows and {added.blobs:,} blobs.",
    )


def _say(moved: Any) -> None:
    words = "Would copy" if moved.dry_run else "Copied"
    answer(
        moved,
        f"{words} {moved.rows:,} rows and {moved.blobs:,} blobs ({byte_text(moved.bytes)}) "
        f"from {printable(moved.source)} to {printable(moved.target)}.",
    )


@click.group("shared", cls=Group)
def shared() -> None:
    """Look after a workspace that several computers share."""


@shared.command("status")
@json_option
@workspace_option
def status(workspace: Path) -> None:
    """Show commits, who records now, and how far the computers are."""
    from nirs_store.shared import checking

    found = checking.status(_settings(workspace))
    if printed_json(found.to_dict()):
        return
    click.echo(
        f"{printable(found.workspace)}: {found.commits:,} commits, {byte_text(found.log_bytes)} in the log"
    )
    click.echo(
        f"Blobs: {found.n_blobs:,} ({byte_text(found.blob_bytes)}) in {printable(found.blobs)}; schema {found.schema}"
    )
    click.echo(f"Replica on this computer: {printable(found.replica)}")
    snapshot = "none" if found.snapshot is None else f"up to commit {found.snapshot:,}"
    click.echo(f"Snapshot: {snapshot}; the log begins after commit {found.floor:,}")
    for word, count in (("rejected commits", found.rejected), ("objects to be deleted", found.condemned)):
        if count:
            click.echo(f"{count:,} {word}")
    for living in found.living:
        click.echo(f"Recording: {printable(living)}")
    for each in found.computers:
        lag = "up to date" if not each.behind else f"{each.behind:,} commits behind"
        digest = "" if each.digest is None else f", digest {each.digest[:8]} at commit {each.compared:,}"
        click.echo(
            f"{printable(each.machine)}: {lag}, seen {moment(each.seen_at)}, nirs_store "
            f"{printable(each.library)}{digest}"
        )


@shared.command("snapshot")
@click.option(
    "--truncate", "days", type=click.FloatRange(min=0), metavar="DAYS",
    help="Also delete commits from the log that are older and in the snapshot.",
)  # fmt: skip
@workspace_option
def snapshot(workspace: Path, days: float | None) -> None:
    """Publish a copy of the catalog, from which new computers start."""
    from nirs_store.shared import snapshots
    from nirs_store.shared.opening import open_engine, parts_of

    engine = open_engine(_settings(workspace))
    try:
        log, backend = parts_of(engine)
        click.echo(f"Published a snapshot up to commit {snapshots.publish(engine, log, backend):,}.")
        if days is not None:
            count = snapshots.truncate(log.server, log.workspace_id, backend, older_than_days=days)
            click.echo(f"Deleted {count:,} commits from the log.")
    finally:
        engine.close()


@shared.command("migrate")
@dry_run_option
@yes_option
@workspace_option
def migrate_shared(workspace: Path, dry_run: bool) -> None:
    """Bring the workspace to the schema of this nirs_store, on every computer.

    Recording waits for a moment. Computers with an older nirs_store are refused from then on, and go on when
    nirs_store is upgraded there. A snapshot from before is kept.
    """
    from nirs_store.shared.migrating import migrate

    settings = _settings(workspace)
    plan = migrate(settings, dry_run=True)
    if not plan.steps:
        click.echo(f"Schema version {plan.from_version} is that of this nirs_store: nothing to migrate.")
        return
    click.echo(f"{printable(plan.workspace)}: from schema version {plan.from_version} to {plan.to_version}")
    for step in plan.steps:
        click.echo(f"  {step}")
    for living in plan.status.living:
        click.echo(f"Recording: {printable(living)}")
    for each in plan.status.computers:
        click.echo(f"{printable(each.machine)}: nirs_store {printable(each.library)}")
    if dry_run or not confirm("Migrate, and refuse computers with an older nirs_store from then on?"):
        return
    done = migrate(settings, dry_run=False)
    click.echo(f"Migrated. A snapshot from before, up to commit {done.snapshot:,}, is kept.")


@shared.command("grant")
@click.argument("role")
@click.argument("right", type=click.Choice(["reader", "writer", "admin"]))
@workspace_option
def grant(workspace: Path, role: str, right: str) -> None:
    """Grant an existing ROLE of PostgreSQL the rights of a reader, writer or admin, and revoke all others.

    A reader queries; a writer also records and changes; an admin also creates workspaces, publishes snapshots and
    deletes objects for good. The rights apply to all workspaces of the database.
    """
    from nirs_store.shared import pgschema
    from nirs_store.shared.pg import Server

    server = Server(_settings(workspace).shared)
    try:
        server.run(lambda con: pgschema.grant(con, role, right))
    finally:
        server.close()
    click.echo(f"{printable(role)} is {'an' if right == 'admin' else 'a'} {right} now.")


def _settings(workspace: Any) -> Any:
    found = shared_settings(workspace)
    if found is None:
        raise InvalidInput(
            f"--workspace: expected the address of a shared workspace (postgresql://...), found {str(workspace)!r}."
        )
    return found


@click.command("init", cls=Command)
@click.argument("directory", type=WorkspacePlace(), default=Path(), metavar="[DIR]")
@click.option(
    "--blobs",
    metavar="PLACE",
    help="Where fitted models and other blobs go instead of DIR: s3://bucket/prefix, gs://..., az://... or a folder.",
)
def init(directory: Path, blobs: str | None) -> None:
    """Create a workspace in DIR (default: this folder), with pipeline templates and a note.

    DIR may be the address of a shared workspace (postgresql://...), which needs --blobs when it is new. Existing files
    are not changed; a second call changes nothing.
    """
    from nirs_store.scaffold import copy_workspace_template
    from nirs_store.store import WorkspaceStore

    if is_shared(directory):
        with WorkspaceStore(directory, blobs=blobs) as store:
            click.echo(f"{printable(str(store._engine.settings.shared))} is a shared workspace.")
        return
    existed = os.path.exists(directory / "store.duckdb")  # noqa: PTH110 (Path.exists raises for a name that is too long)
    with WorkspaceStore(directory, blobs=blobs) as store:
        root = store.workspace_path
    written = copy_workspace_template(root)
    click.echo(f"{root} {'is a workspace already' if existed else 'is a workspace now'}.")
    for path in written:
        click.echo(f"  {path.relative_to(root).as_posix()}")


@click.command("demo", cls=Command)
@click.argument("directory", type=FILE, default=Path("nirs-store-demo"), metavar="[DIR]")
@click.option("--ui", "show", is_flag=True, help="Show the result in the browser.")
def demo(directory: Path, show: bool) -> None:
    """Cross-validate real meat spectra and show every feature once, in less than a minute.

    DIR (default: ./nirs-store-demo) must be new, empty, or a workspace, to which the demo adds a run.
    """
    from rich.console import Console

    from nirs_store.demo import run_demo

    run_demo(directory, console=Console(highlight=False))
    if show:
        from nirs_store.ui.server import serve

        click.echo()
        serve(directory, say=lambda line: click.echo(line))


@click.command("ui", cls=Command)
@click.option("--port", type=click.IntRange(0, 65535), help="Port [default: the first free one from 8423].")
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="Address to listen on; other machines then need a token.",
)
@click.option("--token", metavar="TEXT", help="Token that visitors need [default: generated if needed].")
@click.option(
    "--allow-changes", is_flag=True, help="Let the page change the workspace: tags, deletions, retention."
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@click.option("--export", "folder", type=FILE, help="Write the pages to a new folder instead.")
@workspace_option
@offline_option
def ui(allow_changes: bool, no_browser: bool, folder: Path | None, workspace: Path, **options: Any) -> None:
    """Show a workspace in the browser: leaderboards, chains with figures, runs, files, SQL.

    The page needs neither internet nor an account. Only this machine can reach it unless you pass --host, and it
    changes nothing unless you pass --allow-changes. Press Ctrl-C to stop it.
    """
    from nirs_store.ui.server import needed, serve

    if folder is not None:
        from nirs_store.store import WorkspaceStore

        with needed():
            from nirs_store.ui.export import export_pages
        with WorkspaceStore.to_look_at(workspace, fresh=not given("offline")) as store:
            export_pages(store, folder, lambda line: click.echo(line, err=True))
        return
    serve(
        workspace,
        may_change=allow_changes,
        browser=not no_browser,
        fresh=not given("offline"),
        say=lambda line: click.echo(line),
        **options,
    )


@click.group("library", cls=Group)
def library() -> None:
    """List, save, show and run pipeline templates."""


@library.command("list")
@click.option("--category", metavar="NAME", help="Only this category.")
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only templates with this tag (repeatable)."
)
@json_option
@workspace_option
def list_templates(category: str | None, tags: tuple[str, ...], workspace: Path) -> None:
    """List the templates of a workspace."""
    if not is_shared(workspace) and not (workspace / "library").is_dir():
        # Templates alone are enough; without any, a name mistyped must not look like an empty library.
        open_store(workspace).close()
    print_rows(
        _library(workspace).list_templates(category=category, tags=list(tags) or None),
        {
            "template": lambda each: f"{each['category']}/{each['name']}",
            "tags": lambda each: ", ".join(each["tags"]),
            "description": lambda each: each["error"] or each["description"],
        },
        empty="No templates." if category is None and not tags else "No templates fit.",
        flexible=["description", "tags"],
    )


@library.command("show")
@click.argument("template", metavar="TEMPLATE")
@workspace_option
def show_template(template: str, workspace: Path) -> None:
    """Print a template as JSON: its metadata and its configuration."""
    library = _library(workspace)
    name, category = _split(template)
    metadata = library.get_template_metadata(name, category)
    print_json({**metadata, "pipeline": library.load_template(name, category)})


@library.command("save")
@click.argument("source", metavar="PIPELINE|CHAIN|FILE")
@click.argument("name", required=False)
@click.option("--category", metavar="NAME", default=None, help="Category [default: general].")
@click.option("--description", help="One-line description.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag (repeatable).")
@click.option("--overwrite", is_flag=True, help="Replace a template with this name.")
@workspace_option
def save_template(
    source: str, name: str | None, category: str | None, overwrite: bool, workspace: Path, **about: Any
) -> None:
    """Save a template: the configuration of a recorded pipeline, or a JSON file.

    The id of a chain means its pipeline. Without NAME, a JSON file keeps its own name.
    """
    library = _library(workspace)
    if source.lower().endswith(".json"):
        if about["description"] or about["tags"]:
            raise click.UsageError(
                "--description and --tag go with a recorded pipeline; a file brings its own."
            )
        path = library.import_template(source, category, overwrite, name=name)
    else:
        if name is None:
            raise click.UsageError("Missing argument 'NAME': what the template of a pipeline is called.")
        with open_store(workspace) as store:
            found = find(store, source, ["pipeline", "chain"])
            path = library.copy_from_pipeline(
                store,
                found.record["pipeline_id"],
                name,
                category=category or "general",
                overwrite=overwrite,
                **about,
            )
    click.echo(path)


@library.command("run")
@click.argument("template", metavar="TEMPLATE")
@click.option("--data", type=FILE, required=True, help="File or folder of spectra.")
@click.option("--target", required=True, metavar="COLUMN", help="The column to predict.")
@click.option("--unit", default=None, metavar="UNIT", help="Unit of the target, for tables and figures.")
@click.option("--wavelength-unit", metavar="UNIT", help="nm or cm-1 [default: as the file says].")
@click.option("--groups", default=None, metavar="COLUMN", help="Samples that must stay in one fold.")
@click.option("--name", default=None, metavar="NAME", help="Name of the run.")
@click.option("--jobs", "-j", type=int, default=1, help="Worker processes; -1 for all cores.")
@click.option(
    "--allow",
    "packages",
    multiple=True,
    metavar="PACKAGE",
    help="A package other than scikit-learn and chemotools whose classes the template may name (repeatable).",
)
@reading_options
@workspace_option
def run_template(
    template: str,
    data: Path,
    target: str,
    unit: str | None,
    wavelength_unit: str | None,
    groups: str | None,
    name: str | None,
    jobs: int,
    packages: tuple[str, ...],
    reading: dict[str, Any],
    workspace: Path,
) -> None:
    """Cross-validate a template on a file of spectra and record it in the workspace.

    TEMPLATE is a name (or category/name) of the workspace's library, one that nirs_store ships, or a
    JSON file. A workspace is created if there is none. Samples without a target value are skipped.
    """
    from sklearn.base import is_classifier

    from nirs_store.estimators import build_cv, build_estimator
    from nirs_store.recording import record_cross_validation
    from nirs_store.recording.groups import grouped_twin
    from nirs_store.scores import score_label
    from nirs_store.store import WorkspaceStore

    config = _configuration(template, workspace)
    estimator = build_estimator(config, allow=packages)
    cv = build_cv(config, classifier=is_classifier(estimator), allow=packages)
    table = read_file(data, reading, groups=groups, wavelength_unit=wavelength_unit)
    measured = table.column(target)
    if is_classifier(estimator):
        y, known = measured.to_numpy(), measured.is_not_null().to_numpy()
    else:
        try:
            y = table.numbers(target)
        except InvalidInput as error:
            raise InvalidInput(
                f"{error} This template predicts numbers; classes need a classifier."
            ) from error
        known = y == y
    if not known.any():
        raise InvalidInput(f"{data.name}: the column {target!r} has no value at all.")
    if not known.all():
        click.echo(f"{(~known).sum()} samples without a value of {target!r} are left out.", err=True)
    if groups is not None:
        cv = grouped_twin(cv)
        click.echo(f"Samples of one {groups} stay in one fold: {cv}.", err=True)
    with WorkspaceStore(workspace) as store, progress("folds") as show, _fit_errors(template, data):
        result = record_cross_validation(
            store,
            estimator,
            table.X[known],
            y[known],
            cv=cv,
            groups=None if table.groups is None else table.groups[known],
            dataset_name=data.stem,
            name=name,
            wavelengths=table.wavelengths,
            wavelength_unit=table.unit,
            target=target,
            target_unit=unit,
            metric=config.get("metric"),
            n_jobs=jobs,
            progress=show,
        )
    label = score_label(result.metric)
    click.echo(
        f"{result.name}: {label} {result.value:.4g} (SD over {result.n_folds} folds {result.fold_sd:.2g})"
    )
    click.echo(f"chain {result.chain_id}")


def _library(workspace: Path) -> PipelineLibrary:
    from nirs_store.library import PipelineLibrary

    return PipelineLibrary(workspace)


def _split(template: str) -> tuple[str, str | None]:
    category, _, name = template.rpartition("/")
    return name, category or None


def _configuration(template: str, workspace: Path) -> dict[str, Any]:
    """Find a template: a JSON file, else in the workspace, else among those that are shipped."""
    from nirs_store.errors import TemplateNotFound
    from nirs_store.library import PipelineLibrary
    from nirs_store.library.template import read_template
    from nirs_store.scaffold import workspace_template

    if template.lower().endswith(".json"):
        return read_template(Path(template), bare=True).pipeline
    name, category = _split(template)
    if not is_shared(workspace) and workspace.is_dir():
        try:
            return _library(workspace).load_template(name, category)
        except TemplateNotFound:
            pass
    return PipelineLibrary(Path(str(workspace_template()))).load_template(name, category)


@contextmanager
def _fit_errors(template: str, data: Path) -> Iterator[None]:
    """Say in one line why an estimator does not take the spectra; --debug shows the traceback."""
    try:
        yield
    except (NirsStoreError, OSError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        short = reason if len(reason) <= 400 else f"{reason[:397]}..."
        raise InvalidInput(f"The template {template} cannot be fitted to {data.name}: {short}") from error
