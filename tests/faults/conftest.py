"""The runner's modules find one another, in pytest and as programs; and a bench for all tests of a worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fault_bench import Bench


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """A zygote that has imported everything, and the prepared workspaces."""
    with Bench() as opened:
        yield opened
