"""The ZIP file, piece by piece."""

from __future__ import annotations

import io
import zipfile

import pytest

from nirs_store.bundle.container import Entry, stored_archive

_LARGE = bytes(range(256)) * 300

CASES: dict[str, list[Entry]] = {
    "nothing": [],
    "one": [("manifest.json", b"{}")],
    "empty member": [("a", b""), ("b", b"x")],
    "large at the end": [("a", b"first"), ("artifacts/b", _LARGE)],
    "large ones side by side": [("a", _LARGE), ("b", _LARGE[1:]), ("c", b"last")],
}


@pytest.mark.parametrize("members", CASES.values(), ids=CASES.keys())
def test_the_bytes_are_those_that_the_standard_library_writes(members: list[Entry]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data)
    assert b"".join(stored_archive(members)) == buffer.getvalue()


def test_a_name_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        list(stored_archive([("ä", b"")]))
