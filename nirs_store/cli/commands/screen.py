"""``nirs-store screen``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._options import store_option
from nirs_store.cli._output import numbers, print_json, print_table, short_id

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore

from nirs_store.cli._group import Command
from nirs_store.cli._options import Choice, json_option
from nirs_store.cli._spectra import read_file, reading_options, stored_name

_RULES = ("one_se", "randomization", "wold", "min")
_SHOWN = 10


@click.command("screen", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--target",
    "targets",
    required=True,
    multiple=True,
    metavar="COLUMN",
    help="The column of measured values; repeat it to predict several targets together.",
)
@click.option("--unit", metavar="TEXT", help="Unit of the target.")
@click.option("--groups", metavar="COLUMN", help="The column of samples that stay in one fold.")
@click.option(
    "--preprocess", default="raw,snv,sg1,sg2", show_default=True, help="Names, separated by commas."
)
@click.option("--model", type=Choice(("pls", "pcr")), default="pls", show_default=True, help="The model.")
@click.option(
    "--components", default="1-15", show_default=True, help="Numbers of components, as 1-15 or 2,4,8."
)
@click.option("--cv", type=click.IntRange(2), default=8, show_default=True, help="Number of folds.")
@click.option("--seed", type=int, help="Shuffle the samples with this seed before they are split.")
@click.option("--rule", type=Choice(_RULES), default="one_se", show_default=True, help="Selection rule.")
@click.option(
    "--keep", default="best", show_default=True, help="Which models to store: best, all, or a number."
)
@click.option(
    "--test",
    "test_file",
    type=click.Path(path_type=Path),
    help="File of a test set, read as FILE is: the kept models predict it (RMSEP).",
)
@click.option("--name", metavar="TEXT", help="Name of the run.")
@click.option(
    "--jobs", "-j", type=int, default=1, show_default=True, help="Worker processes; -1 for all cores."
)
@reading_options
@json_option
@store_option
def command(
    store: WorkspaceStore,
    file: Path,
    targets: tuple[str, ...],
    unit: str | None,
    groups: str | None,
    preprocess: str,
    model: str,
    components: str,
    cv: int,
    seed: int | None,
    rule: Any,
    keep: str,
    test_file: Path | None,
    name: str | None,
    jobs: int,
    reading: dict[str, Any],
    as_json: bool,
) -> None:
    """Cross-validate every preprocessing with every number of components, and keep the best model.

    FILE may be a stored data set, as in corn@v2.

    Names of preprocessings: raw, snv, msc, emsc, detrend, sg0, sg1, sg2, autoscale, center. sg1(11,3)
    sets window and polynomial order, snv+sg1 combines two. The same command resumes an interrupted screening.
    """
    from sklearn.model_selection import GroupKFold, KFold

    counts = _numbers(components)
    target = targets[0] if len(targets) == 1 else list(targets)
    kept: Any = int(keep) if keep.isdigit() else keep
    # A comma inside brackets belongs to the name.
    names = [each.strip() for each in re.split(r",(?![^(]*\))", preprocess) if each.strip()]

    def read(path: Path, groups: str | None) -> Any:
        return stored_name(path) or read_file(path, reading, target=target, unit=unit, groups=groups)

    # A test set is not split, so that it needs no groups.
    spectra, test = read(file, groups), None if test_file is None else read(test_file, None)
    shuffled = {} if seed is None else {"shuffle": True, "random_state": seed}
    splitter: Any = KFold(cv, **shuffled) if groups is None else GroupKFold(cv, **shuffled)
    if isinstance(spectra, str):
        if groups is not None:
            raise click.UsageError("--groups: a data set has its groups already; leave the option out.")
        spectra = store.datasets.get(spectra, target=target)
        splitter = splitter if spectra.groups is None else GroupKFold(cv, **shuffled)
    try:
        board = store.screen(
            spectra,
            preprocess=names,
            model=model,
            components=counts,
            cv=splitter,
            rule=rule,
            keep=kept,
            X_test=test,
            target=target if isinstance(test, str) else None,
            name=name,
            n_jobs=jobs,
        )
    except KeyboardInterrupt:
        click.echo("Stopped. The same command continues with the candidates that are missing.", err=True)
        raise
    best = board.best()
    frame = board.frame
    if as_json:
        print_json({"run_id": board.run_id, "best": best, "rule": rule, "candidates": frame.to_dicts()})
        return
    chosen = frame.filter(chain_id=best).row(0, named=True)
    shown = frame.head(_SHOWN).to_dicts()
    shown += [chosen] if chosen["rank"] > _SHOWN else []
    columns = [column for column in frame.columns if column != "chain_id"]
    cells = {
        column: numbers([row[column] for row in shown])
        if frame[column].dtype.is_float()
        else [row[column] for row in shown]
        for column in columns
    }
    cells["kept"] = ["yes" if row["kept"] else "" for row in shown]
    cells["chain"] = [short_id(row["chain_id"]) for row in shown]
    print_table(
        list(cells),
        zip(*cells.values(), strict=True),
        numeric=[c for c in columns if c not in ("preprocessing", "model", "kept")],
    )
    if frame.height > len(shown):
        click.echo(f"{frame.height} candidates in the run {short_id(board.run_id)}.")
    click.echo(
        f"Best by {rule}: {chosen['preprocessing']}, {chosen['model']} with {chosen['components']} components; "
        f"chain {short_id(best)}."
    )


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})(?:\s*-\s*([0-9]{1,4}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise click.UsageError(f"--components: expected numbers such as 1-15 or 2,4,8; found {text!r}.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found
