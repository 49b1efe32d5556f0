"""Arrays of a bundle: read only after the header was compared with what is there."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_npy"]


def read_npy(data: bytes) -> NDArray[Any]:
    """Read an array in numpy's format; nothing of the size that its header states is allocated.

    Raises
    ------
    ValueError
        Not that format, a header that does not fit the length, or an array of Python objects.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except MemoryError:
        raise
    except Exception as exc:
        # numpy parses the header as Python text, and a broken one fails in the parser's many ways.
        raise ValueError(f"its header cannot be read ({type(exc).__name__}: {exc})") from exc
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("its header does not fit its length")
    found = np.frombuffer(data, dtype, offset=stream.tell())
    return found.reshape(shape[::-1]).T if fortran else found.reshape(shape)
