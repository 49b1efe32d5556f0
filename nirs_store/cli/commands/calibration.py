"""``nirs-store screen``, ``suggest``, ``review``, ``diagnose`` and ``coefficients``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import FILE, Choice
from nirs_store.cli._output import (
    numbers,
    print_columns,
    print_csv,
    print_table,
    printed_json,
    refuse_json_with_csv,
    short_id,
)
from nirs_store.cli._spectra import read_file, reading_options, stored_name
from nirs_store.cli._workspace import exports_of, find, json_store_option, named_chain
from nirs_store.display import with_unit

if TYPE_CHECKING:
    from nirs_store.choosing import ComponentChoice
    from nirs_store.diagnosing import Diagnosis
    from nirs_store.store import WorkspaceStore


_RULES = ("one_se", "randomization", "wold", "min")
_TABLES = ("samples", "scores", "channels", "explained")
_FIGURES = ("t2-q", "influence", "scores", "loadings", "weights", "vip", "selectivity", "explained", "normal")


@click.command("suggest", cls=Command)
@click.argument("identifier", metavar="RUN|CHAIN")
@click.option("--rule", type=Choice(_RULES), default="one_se", help="Selection rule.")
@click.option("--alpha", type=float, default=0.01, help="Level of the randomization test.")
@click.option("--target", metavar="NAME", help="One target of chains that predict several.")
@json_store_option
def suggest(store: WorkspaceStore, identifier: str, rule: Any, alpha: float, target: str | None) -> None:
    """Suggest a number of latent variables for a run or for the family of a chain.

    A family is a set of chains in one run that differ only in the number of latent variables. Rules: one_se
    selects the fewest within one standard error of the lowest RMSECV, randomization the fewest whose
    errors are not significantly larger, wold stops when PRESS hardly falls, min selects the lowest
    RMSECV.
    """
    found = find(store, identifier, ["run", "chain"]).identifier
    given = store.suggest_components(found, rule, alpha=alpha, target=target)
    choices = given if isinstance(given, list) else [given]
    if printed_json([_choice(each) for each in choices]):
        return
    for index, each in enumerate(choices):
        if index:
            click.echo()
        _print_choice(each)


def _choice(choice: ComponentChoice) -> dict[str, Any]:
    names = ("components", "chain_id", "rule", "preprocessings", "target", "unit")
    return {name: getattr(choice, name) for name in names} | {"table": choice.table.to_dicts()}


def _print_choice(choice: ComponentChoice) -> None:
    what = with_unit(choice.target, choice.unit)
    click.echo(
        f"{what or 'target'}, {choice.preprocessings or 'no preprocessing'}: {choice.components} by {choice.rule}"
    )
    table = choice.table
    columns: dict[str, list[Any]] = {
        "LV": [str(n) for n in table["components"]],
        "RMSECV": numbers(table["rmsecv"].to_list()),
        "SE": numbers(table["se"].to_list()),
        "p": [f"{p:.2g}" if p == p else "" for p in table["p"]],
        "R": [f"{r:.2f}" if r == r else "" for r in table["wold_r"]],
        "": ["<" if each else "" for each in table["chosen"]],
        "chain": ["" if each is None else short_id(each) for each in table["chain_id"]],
    }
    print_columns(columns, numeric=["LV", "RMSECV", "SE", "p", "R"])


@click.command("review", cls=Command)
@click.argument("identifier", metavar="CHAIN")
@click.option(
    "--target",
    metavar="NAME",
    help="One target of a chain that predicts several; by default, each is checked.",
)
@json_store_option
def review(store: WorkspaceStore, identifier: str, target: str | None) -> None:
    """Check a chain for the common mistakes in a calibration.

    Each finding has a code; docs/review/<code>.md says why it matters and what to do. The exit code is 0
    even with findings; in a script, read `findings` of --json.
    """
    found = store.review(find(store, identifier, ["chain"]).identifier, target=target)
    if printed_json(found.to_dict()):
        return
    if not found.findings:
        click.echo(f"Nothing found in {len(found.checked)} checks.")
        return
    rows = [(each.code, each.severity, each.message) for each in found.findings]
    print_table(["code", "severity", "finding"], rows, flexible=["finding"])


@click.command("diagnose", cls=Command)
@click.argument("identifier", metavar="CHAIN")
@click.argument("file", type=FILE)
@click.option("--target", metavar="COLUMN", help="Column of the reference values.")
@click.option("--id", "id_column", metavar="COLUMN", help="Column of the sample names.")
@click.option("--calibration", type=FILE, help="Calibration spectra, if FILE contains other samples.")
@click.option("--alpha", type=float, default=0.05, help="Share of normal samples above a limit.")
@click.option("--all", "everything", is_flag=True, help="List every sample, not only the flagged ones.")
@click.option(
    "--csv",
    "table",
    type=Choice(_TABLES),
    help="Print a whole table as CSV: samples; scores; channels (loadings, weights, VIP, selectivity ratio); "
    "or explained variance.",
)
@click.option("--figure", type=Choice(_FIGURES), help=f"Also draw one of {', '.join(_FIGURES)}.")
@click.option("--output", "-o", type=FILE, help="File of the figure.")
@reading_options
@json_store_option
def diagnose(
    store: WorkspaceStore,
    identifier: str,
    file: Path,
    target: str | None,
    id_column: str | None,
    calibration: Path | None,
    alpha: float,
    everything: bool,
    table: Any,
    figure: str | None,
    output: Path | None,
    reading: dict[str, Any],
) -> None:
    """Diagnose the samples of FILE with a chain: T2, Q, leverage, residuals, outliers by name.

    FILE may be a stored data set, as in corn@v2.
    """
    if output is not None and figure is None:
        raise click.UsageError("--output needs --figure.")
    refuse_json_with_csv(table)

    def read(path: Path) -> Any:
        return stored_name(path) or read_file(path, reading, target=target, id_column=id_column)

    spectra = read(file)
    # Their reference values are not needed, and the column may have another name.
    fitted = None
    if calibration is not None:
        fitted = stored_name(calibration) or read_file(calibration, reading)
    label, chain_id = named_chain(store, identifier)
    fitted = store.datasets.get(fitted) if isinstance(fitted, str) else fitted
    several = ((store.get_chain(chain_id) or {}).get("metadata") or {}).get("target_names") or ()
    one = target if target in several else None
    found = store.diagnose(label, spectra, calibration=fitted, alpha=alpha, target=one)
    if figure is not None:
        from nirs_store.plots import save_figure

        path = save_figure(
            _draw(found, figure), output or exports_of(store) / f"{figure}_{chain_id[-8:]}.png"
        )
        click.echo(f"Figure: {path}", err=True)
    if table is not None:
        print_csv(getattr(found, table))
        return
    frame = found.samples if everything else found.outliers
    limits = found.limits
    if printed_json({"limits": limits, "space": found.space, "samples": frame.to_dicts()}):
        return
    q = "not known" if limits["q"] is None else f"{limits['q']:.4g}"
    click.echo(
        f"{found.samples.height} samples, {found.n_components} latent variables ({found.space}); "
        f"limits: T2 {limits['t2']:.4g}, Q {q}, leverage {limits['leverage']:.3g}"
    )
    if not frame.height:
        click.echo("No sample is flagged.")
        return
    shown = [
        name for name in ("t2", "q", "leverage", "predicted", "measured", "residual") if name in frame.columns
    ]
    columns = {"sample": frame["sample"].to_list()}
    columns |= {name: numbers(frame[name].to_list()) for name in shown if frame[name].dtype.is_numeric()}
    columns["flags"] = [", ".join(each) for each in frame["flags"].to_list()]
    print_columns(columns, numeric=shown, flexible=["sample", "flags"])


@click.command("coefficients", cls=Command)
@click.argument("identifier", metavar="CHAIN")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with all digits.")
@json_store_option
def coefficients(store: WorkspaceStore, identifier: str, as_csv: bool) -> None:
    """Print the regression coefficients of a chain's linear model, one row per channel.

    They belong to the spectra after all preprocessing, in units of the target per unit of signal. With fold models
    in the store, each fold has a column too.
    """
    refuse_json_with_csv(as_csv)
    frame = store.coefficients(named_chain(store, identifier)[0])
    if as_csv:
        print_csv(frame)
    elif not printed_json(frame.to_dicts()):
        columns = {
            name: numbers(frame[name].to_list())
            if frame[name].dtype.is_float()
            else [str(n) for n in frame[name]]
            for name in frame.columns
        }
        print_columns(columns, numeric=list(columns))


def _draw(found: Diagnosis, figure: str) -> Any:
    from nirs_store import plots

    drawings = {
        "t2-q": plots.t2_q,
        "influence": plots.influence,
        "scores": plots.scores,
        "loadings": plots.loadings,
        "weights": lambda each: plots.loadings(each, "weights"),
        "vip": plots.channel_importance,
        "selectivity": lambda each: plots.channel_importance(each, "selectivity_ratio"),
        "explained": plots.explained_variance,
        "normal": plots.normal_residuals,
    }
    return drawings[figure](found)


_SHOWN = 10


@click.command("screen", cls=Command)
@click.argument("file", type=FILE)
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
@click.option("--preprocess", default="raw,snv,sg1,sg2", help="Names, separated by commas.")
@click.option("--model", type=Choice(("pls", "pcr")), default="pls", help="The model.")
@click.option("--components", default="1-15", help="Numbers of components, as 1-15 or 2,4,8.")
@click.option("--cv", type=click.IntRange(2), default=8, help="Number of folds.")
@click.option("--seed", type=int, help="Shuffle the samples with this seed before they are split.")
@click.option("--rule", type=Choice(_RULES), default="one_se", help="Selection rule.")
@click.option("--keep", default="best", help="Which models to store: best, all, or a number.")
@click.option(
    "--test",
    "test_file",
    type=FILE,
    help="File of a test set, read as FILE is: the kept models predict it (RMSEP).",
)
@click.option("--name", metavar="TEXT", help="Name of the run.")
@click.option("--jobs", "-j", "n_jobs", type=int, default=1, help="Worker processes; -1 for all cores.")
@reading_options
@json_store_option
def screen(
    store: WorkspaceStore,
    file: Path,
    targets: tuple[str, ...],
    unit: str | None,
    groups: str | None,
    preprocess: str,
    components: str,
    cv: int,
    seed: int | None,
    rule: Any,
    keep: str,
    test_file: Path | None,
    reading: dict[str, Any],
    **options: Any,
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
            components=counts,
            cv=splitter,
            rule=rule,
            keep=kept,
            X_test=test,
            target=target if isinstance(test, str) else None,
            **options,
        )
    except KeyboardInterrupt:
        click.echo("Stopped. The same command continues with the candidates that are missing.", err=True)
        raise
    best = board.best()
    frame = board.frame
    found = {"run_id": board.run_id, "best": best, "rule": rule, "candidates": frame.to_dicts()}
    if printed_json(found):
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
    words = ("preprocessing", "model", "kept")
    print_columns(cells, numeric=[name for name in columns if name not in words])
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
