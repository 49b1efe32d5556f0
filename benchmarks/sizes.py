"""How much of each workload a run does."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.fixture import FULL, SMALL, TINY, Shape


@dataclass(frozen=True)
class Size:
    """Counts of one form of the benchmarks."""

    shape: Shape
    small: Shape
    pipelines: int  # W1, W10
    saves: int  # W2
    predictions: tuple[int, ...]  # W3
    repeats: int  # W4, W5, W8
    runs: int  # W6: pipelines in each of two runs
    seconds: float  # W7: how long readers watch a writer
    writers: tuple[int, ...]
    writer_pipelines: int
    growth: int  # W9
    screened: tuple[int, int]  # W11: preprocessings and numbers of components
    diagnosed: int  # W12: spectra
    points: int  # W13
    spectra: int  # W14
    measured: int  # W15: logged predictions
    peer_predictions: int = 100_000
    safe: bool = True  # W5: bundles without pickles as well
    looked: int = 6667  # W16: chains, of fifteen predictions each

    @property
    def starts(self) -> int:
        """How many whole processes of a kind are timed, after one to warm up."""
        return max(1, self.repeats // 2)


SIZES = {
    "full": Size(
        FULL,
        SMALL,
        200,
        500,
        (100_000, 1_000_000),
        20,
        100,
        20.0,
        (4, 8),
        25,
        2000,
        (50, 20),
        10_000,
        1_000_000,
        100_000,
        1_000_000,
    ),
    "short": Size(
        FULL,
        SMALL,
        20,
        50,
        (20_000,),
        2,
        10,
        2.0,
        (4,),
        3,
        100,
        (5, 12),
        10_000,
        20_000,
        10_000,
        100_000,
        20_000,
        safe=False,
    ),
    "tiny": Size(
        TINY, TINY, 3, 3, (1000,), 1, 2, 0.2, (2,), 1, 3, (2, 3), 50, 100, 50, 2000, 1000, looked=30
    ),
}
