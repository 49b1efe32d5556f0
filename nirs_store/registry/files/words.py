"""The fixed words of stored files: statuses, modes, coverages, compressions; and what is near a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from nirs_store.errors import InvalidInput

__all__ = [
    "COMPRESSIONS",
    "COVERAGES",
    "MODES",
    "PRODUCTION",
    "STATUSES",
    "TEST",
    "check_word",
    "mode_of",
    "near",
]

STATUSES = ("pending", "in_progress", "completed", "failed")
PRODUCTION, TEST = "production", "test"
MODES = (PRODUCTION, TEST)
#: How much of the whole a file covers. The first two are all of it.
COVERAGES = ("full", "full_genome", "chromosome", "gene_subset", "subset", "sample")
_WHOLE = COVERAGES[:2]
COMPRESSIONS = ("auto", "none", "gzip", "zip", "tar.gz", "zstd")
_SPELLINGS = {"gz": "gzip", "tgz": "tar.gz", "tar_gz": "tar.gz", "zst": "zstd", "no": "none"}


def check_word(value: object, what: str, known: Iterable[str]) -> str:
    """Give a word back as it is spelt here; capitals and hyphens do not matter.

    Raises
    ------
    InvalidInput
        It is none of `known`; the nearest is named.
    """
    words = tuple(known)
    text = str(value)
    for candidate in (text, text.lower(), text.lower().replace("-", "_"), _SPELLINGS.get(text.lower(), text)):
        if candidate in words:
            return candidate
    raise InvalidInput(
        f"{what}: expected one of {', '.join(words)}, found {text!r}.{near(text, words)} Nothing was changed."
    )


def near(text: str, words: Iterable[str]) -> str:
    """Name the nearest word in a sentence of its own, or give nothing."""
    found = difflib.get_close_matches(text.lower(), list(words), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def mode_of(mode: str | None, coverage: str | None, test_name: str | None) -> str:
    """Give the mode: the one that was asked for, else production for full coverage and test for all else.

    Raises
    ------
    InvalidInput
        A test's name on production content.
    """
    found = mode or (PRODUCTION if coverage in _WHOLE else TEST)
    if test_name is not None and found == PRODUCTION:
        raise InvalidInput(
            f"test_name: {test_name!r} is a test's, but the mode is production. Nothing was changed. Leave the "
            "name out, or say mode='test'."
        )
    return found
