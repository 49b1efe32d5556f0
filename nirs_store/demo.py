"""The first half minute with nirs_store: real spectra, from cross-validation to a shared bundle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nirs_store.addresses import user_path
from nirs_store.datasets import load_tecator
from nirs_store.errors import InvalidInput, NotAWorkspace
from nirs_store.lazy import polars as pl
from nirs_store.recording import CrossValidationResult, record_cross_validation
from nirs_store.scores import regression_scores
from nirs_store.store import WorkspaceStore

_TARGET, _UNIT, _FOLDS, _HELD_OUT = "fat", "%", 10, 43
_COMPONENTS = (4, 7, 10, 13, 16)


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo recorded and where it put it.

    Attributes
    ----------
    workspace, bundle, figure, spectra
        The workspace; the exported best chain; its predicted-against-measured plot; the held-out
        spectra as CSV, to try the command line on.
    run_id
        The run that holds the chains.
    chains
        One result per chain, best RMSECV first.
    rmsep
        RMSE of the best chain on the held-out samples, in percent fat.
    bundle_difference
        Largest difference between the predictions of workspace and bundle.
    seconds
        How long it took.
    """

    workspace: Path
    run_id: str
    chains: tuple[CrossValidationResult, ...]
    rmsep: float
    bundle_difference: float
    bundle: Path
    figure: Path
    spectra: Path
    seconds: float

    @property
    def best(self) -> CrossValidationResult:
        """The chain with the lowest RMSECV."""
        return self.chains[0]


@dataclass(frozen=True, eq=False)
class _Samples:
    """The Tecator spectra, parted into those to calibrate with and those held out."""

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    X_test: NDArray[np.float64]
    y_test: NDArray[np.float64]
    names: list[str]
    names_test: list[str]
    wavelengths: NDArray[np.float64]


def run_demo(directory: str | Path, *, console: Console | None = None) -> DemoResult:
    """Cross-validate 16 chains on the Tecator meat spectra and walk through what a workspace does.

    Raw, SNV and derivative spectra, each with PLS of five sizes, and a support vector machine are
    recorded with 10 folds; the best is replayed on 43 samples that no model has seen, exported,
    and the bundle is read back.

    Parameters
    ----------
    directory
        A new or empty folder, or a workspace, which gets another run.
    console
        Where to print; the standard output when None. A progress bar is shown on a terminal only.

    Returns
    -------
    DemoResult

    Raises
    ------
    NotAWorkspace
        The folder holds something else; nothing was written.
    InvalidInput
        chemotools or matplotlib is not installed.
    """
    began = time.perf_counter()
    console = Console(highlight=False) if console is None else console
    folder = user_path(directory)
    _check_folder(folder)
    estimators = _estimators()
    samples = _samples()
    console.print(
        f"[bold]Fat in meat from near-infrared spectra[/] (Tecator)\n"
        f"{len(samples.y)} samples to calibrate with, {len(samples.y_test)} held out; "
        f"{len(estimators)} chains, {_FOLDS}-fold cross-validation\n",
        soft_wrap=True,
    )
    with WorkspaceStore(folder) as store:
        run_id, recorded = _record(store, estimators, samples, console)
        chains = tuple(sorted(recorded, key=lambda result: result.value))
        _print_leaderboard(store.top_chains(None, run_id=run_id), console)
        best = chains[0]
        predicted = store.replay_chain(best.chain_id, samples.X_test, wavelengths=samples.wavelengths)
        scores = regression_scores(samples.y_test, predicted)
        _print_replay(best, scores, console)
        bundle, difference = _share(store, best, samples.X_test, predicted, console)
        figure = _draw(store, best, folder)
    spectra = _write_spectra(samples, folder)
    result = DemoResult(
        workspace=folder,
        run_id=run_id,
        chains=chains,
        rmsep=float(scores["rmse"]),
        bundle_difference=difference,
        bundle=bundle,
        figure=figure,
        spectra=spectra,
        seconds=time.perf_counter() - began,
    )
    _print_closing(result, console)
    return result


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotAWorkspace(f"{folder} is a file; name a folder for the demo. Nothing was changed.")
    if not folder.is_dir() or (folder / "store.duckdb").exists() or (folder / "journal").is_dir():
        return
    missing = sorted(path.name for path in folder.iterdir())
    if missing:
        raise NotAWorkspace(
            f"{folder} is not empty and not a workspace (it holds {missing[0]!r}). "
            "Name a new folder, for example: nirs-store demo my-first-workspace. Nothing was changed."
        )


def _estimators() -> dict[str, Any]:
    """Return the chains to compare by name, from the plainest to the most demanding."""
    try:
        from chemotools.derivative import SavitzkyGolay
        from chemotools.scatter import StandardNormalVariate

        # Drawn with at the very end: better said now than after the work.
        import_module("matplotlib.figure")
    except ModuleNotFoundError as missing:
        raise InvalidInput(
            f"The demo draws figures and needs matplotlib ({missing}). Install it with: "
            'pip install "nirs-store[demo]"'
        ) from missing
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    preprocessings = {
        "": [],
        "SNV > ": [StandardNormalVariate()],
        "SG(deriv=2) > ": [SavitzkyGolay(window_length=11, polyorder=2, deriv=2)],
    }
    chains = {
        f"{words}PLS({count})": make_pipeline(*steps, PLSRegression(n_components=count))
        for words, steps in preprocessings.items()
        for count in _COMPONENTS
    }
    chains["SNV > SVR"] = make_pipeline(StandardNormalVariate(), StandardScaler(), SVR(C=100.0))
    return chains


def _samples() -> _Samples:
    from sklearn.model_selection import train_test_split

    tecator = load_tecator()
    calibration, aside = train_test_split(np.arange(len(tecator.fat)), test_size=_HELD_OUT, random_state=42)
    return _Samples(
        X=tecator.X[calibration],
        y=tecator.fat[calibration],
        X_test=tecator.X[aside],
        y_test=tecator.fat[aside],
        names=[tecator.sample_names[row] for row in calibration],
        names_test=[tecator.sample_names[row] for row in aside],
        wavelengths=tecator.wavelengths,
    )


def _record(
    store: WorkspaceStore, estimators: dict[str, Any], samples: _Samples, console: Console
) -> tuple[str, list[CrossValidationResult]]:
    from sklearn.model_selection import KFold

    config = {"chains": list(estimators), "folds": _FOLDS, "held_out": len(samples.y_test)}
    results: list[CrossValidationResult] = []
    # The spectra are kept as well: chains name the version that they were fitted on, and the page draws them.
    store.datasets.add(
        "tecator",
        samples.X,
        references={_TARGET: samples.y},
        ids=samples.names,
        wavelengths=samples.wavelengths,
        unit="nm",
        units={_TARGET: _UNIT},
    )
    kept = store.datasets.get("tecator", target=_TARGET)
    with (
        store.run("tecator fat demo", config, [{"name": "tecator", "n_samples": len(samples.y)}]) as run,
        _progress(console, len(estimators)) as show,
    ):
        for name, estimator in estimators.items():
            show(len(results), name)
            results.append(
                record_cross_validation(
                    store,
                    estimator,
                    kept,
                    X_test=samples.X_test,
                    y_test=samples.y_test,
                    cv=KFold(_FOLDS, shuffle=True, random_state=0),
                    dataset_name="tecator",
                    name=name,
                    run_id=run.run_id,
                    wavelengths=samples.wavelengths,
                    wavelength_unit="nm",
                    target=_TARGET,
                    target_unit=_UNIT,
                )
            )
            show(len(results), name)
        best = min(results, key=lambda result: result.value)
        run.summary.update(
            total_pipelines=len(results), best_chain_id=best.chain_id, best_chain=best.name, rmsecv=best.value
        )
    return run.run_id, results


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    """Show a bar that is gone when it is full; nothing at all without a terminal."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, words: bar.update(task, completed=done, description=words)


def _print_leaderboard(ranked: pl.DataFrame, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("chain", no_wrap=True)
    for name in ("RMSECV", "SD", "bias", "R²", "RPD", "RMSEP"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("chain id", style="dim", no_wrap=True)
    for rank, row in enumerate(ranked.iter_rows(named=True), start=1):
        table.add_row(
            str(rank),
            row["pipeline_name"],
            f"{row['rmsecv']:.3f}",
            f"{row['score_sd']:.2f}",
            f"{row['bias']:+.3f}",
            f"{row['r2']:.3f}",
            f"{row['rpd']:.1f}",
            f"{row['rmsep']:.3f}",
            row["chain_id"][-8:],
            style="bold" if rank == 1 else None,
        )
    console.print(
        f"[bold]Leaderboard[/], {_TARGET} in {_UNIT}; SD of the folds; bias is predicted - measured"
    )
    console.print(table)
    console.print()


def _print_replay(best: CrossValidationResult, scores: dict[str, Any], console: Console) -> None:
    console.print(
        f"[bold]Replay[/] of {best.name} on {scores['n']} samples that no model has seen:\n"
        f"  [bold]RMSEP {scores['rmse']:.3f} {_UNIT}[/], bias (predicted - measured) {scores['bias']:+.3f}, "
        f"R² {scores['r2']:.3f}, RPD {scores['rpd']:.1f}",
        soft_wrap=True,
    )


def _share(
    store: WorkspaceStore,
    best: CrossValidationResult,
    X: NDArray[np.float64],
    replayed: NDArray[np.float64],
    console: Console,
) -> tuple[Path, float]:
    """Export the best chain, read the bundle back and compare."""
    from nirs_store.bundle.reader import load_bundle

    path = store.export_chain(best.chain_id, store.workspace_path / "exports" / "tecator_fat.n4a")
    # This process wrote the file a moment ago; one that came by mail would deserve a thought.
    predicted = load_bundle(path, allow_pickle=True).predict(X)
    difference = float(np.abs(np.asarray(predicted) - replayed).max())
    verdict = "identical" if difference == 0.0 else f"different by at most {difference:.2g} {_UNIT}"
    console.print(
        f"[bold]Bundle[/] {path.name} ({path.stat().st_size / 1000:.0f} kB) written and read back:\n"
        f"  its predictions are [bold]{verdict}[/]",
        soft_wrap=True,
    )
    return path, difference


def _draw(store: WorkspaceStore, best: CrossValidationResult, folder: Path) -> Path:
    from nirs_store.plots import chain_predicted_vs_measured, save_figure

    figure = chain_predicted_vs_measured(store, best.chain_id)
    return save_figure(figure, folder / "exports" / "tecator_fat.png")


def _write_spectra(samples: _Samples, folder: Path) -> Path:
    """Write the held-out spectra as an instrument would export them: names, then wavelengths."""
    columns: dict[str, Any] = {"sample": samples.names_test, _TARGET: samples.y_test}
    columns |= {f"{wavelength:.2f}": samples.X_test[:, i] for i, wavelength in enumerate(samples.wavelengths)}
    path = folder / "exports" / "tecator_held_out.csv"
    pl.DataFrame(columns).write_csv(path)
    return path


def _print_closing(result: DemoResult, console: Console) -> None:
    folder, best = result.workspace, result.best.chain_id[-8:]
    console.print(f"\nDone in {result.seconds:.0f} s. Everything is in [bold]{folder}[/]:", soft_wrap=True)
    for path, words in (
        ("store.duckdb", "the catalog: runs, chains, predictions, logs"),
        ("artifacts/", "every fitted object, once, named by its SHA-256"),
        (f"exports/{result.bundle.name}", "the best chain, to share"),
        (f"exports/{result.figure.name}", "predicted against measured"),
        (f"exports/{result.spectra.name}", "the held-out spectra"),
    ):
        console.print(f"  {path:<30} {words}", soft_wrap=True)
    console.print("\n[bold]Next, type[/]")
    for line in (
        f"cd {_quoted(folder)}",
        "nirs-store top",
        f"nirs-store show {best}",
        f"nirs-store predict {best} exports/{result.spectra.name}",
        f"nirs-store predict exports/{result.bundle.name} exports/{result.spectra.name} --allow-pickle",
        f"nirs-store plot components {best}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _quoted(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if " " in text else text
