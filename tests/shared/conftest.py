"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def wire(server: Any) -> Iterator[Any]:
    """A wire to the server that can be cut."""
    from faultkit import Wire

    made = Wire(server.port)
    yield made
    made.close()
