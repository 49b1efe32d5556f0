"""Room on the stack for calls that import a library.

CPython allots the frames of Python functions in pieces of 16 KB. Where the border of a piece lies between a function
and one that it calls again and again, each of these calls asks the system for memory and gives it back. To import a
large library is to make such calls: importing scikit-learn in the middle of a replay did so 13,000 times, which was a
tenth of what the whole process took. How often depends on nothing but how deep the caller happens to be.

A frame that is larger than a piece gets a piece of twice its size or less, and what it calls finds room beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

__all__ = ["with_room"]

T = TypeVar("T")

# Values that a frame has room for, of 8 bytes each: with what belongs to it, half of a megabyte is allotted, of which
# hardly two fifths stay for others; memory that nobody touches costs nothing.
_VALUES = 40_000


def with_room(call: Callable[[], T]) -> T:
    """Call a function that may import something large.

    Examples
    --------
    >>> with_room(lambda: 1 + 1)
    2
    """
    return call()


if sys.implementation.name == "cpython":
    with_room.__code__ = with_room.__code__.replace(co_stacksize=_VALUES)
