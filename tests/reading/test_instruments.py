"""JCAMP-DX, SPC, OPUS and ASD: what writers of the tests' own, and other readers, make of the same bytes."""

from __future__ import annotations

import itertools
import random
import struct
from pathlib import Path
from typing import Any

import brukeropus
import numpy as np
import pytest

from nirs_store.errors import InvalidInput
from nirs_store.reading import read_spectra

GRID = np.linspace(9000.0, 4000.0, 11)
Y = np.round(0.3 + 0.1 * np.sin(np.arange(11.0)), 6)

# -- Writers, after the layouts of the formats; they share nothing with the readers.

SQZ = {
    **dict(zip("0123456789", "@ABCDEFGHI", strict=True)),
    **dict(zip("123456789", "abcdefghi", strict=True)),
}


def squeezed(value: int, plus: str, minus: str) -> str:
    digits = str(abs(value))
    return (minus[int(digits[0]) - 1] if value < 0 else plus[int(digits[0])]) + digits[1:]


def jcamp_lines(
    values: list[int], form: str, per_line: int = 4, first: int = 9000, step: int = -500
) -> list[str]:
    """Write ordinates in one of the forms of McDonald and Wilks (1988)."""
    lines, place = [], 0
    while place < len(values):
        x = first + step * place
        part = values[place : place + per_line + (form in ("DIF", "DIFDUP"))]
        if form == "AFFN":
            lines.append(f"{x} " + " ".join(map(str, part)))
        elif form == "PAC":
            lines.append(str(x) + "".join(f"{value:+d}" for value in part))
        elif form == "SQZ":
            lines.append(str(x) + "".join(squeezed(value, "@ABCDEFGHI", "abcdefghi") for value in part))
        else:
            coded = [squeezed(b - a, "%JKLMNOPQR", "jklmnopqr") for a, b in itertools.pairwise(part)]
            text, k = squeezed(part[0], "@ABCDEFGHI", "abcdefghi"), 0
            while k < len(coded):
                same = 1
                while form == "DIFDUP" and k + same < len(coded) and coded[k + same] == coded[k]:
                    same += 1
                text += coded[k] + ("" if same == 1 else "STUVWXYZs"[same - 1])
                k += same
            lines.append(f"{x}{text}")
            if place + len(part) == len(values):
                # The last line repeats the last ordinate as its check.
                lines.append(
                    f"{first + step * (len(values) - 1)}{squeezed(values[-1], '@ABCDEFGHI', 'abcdefghi')}"
                )
                return lines
            place += per_line
            continue
        place += per_line
    return lines


def jcamp(values: list[int], form: str = "DIFDUP", title: str = "wheat", **labels: Any) -> str:
    head = {
        "TITLE": title, "JCAMP-DX": "4.24 $$ a comment", "DATA TYPE": "INFRARED SPECTRUM", "XUNITS": "1/CM",
        "YUNITS": "ABSORBANCE", "FIRSTX": 9000, "LASTX": 9000 - 500 * (len(values) - 1), "NPOINTS": len(values),
        "XFACTOR": 1, "YFACTOR": 0.001, "SPECTROMETER/DATA SYSTEM": "NIR 7", **labels,
    }  # fmt: skip
    lines = [f"##{name}={value}" for name, value in head.items()]
    return "\n".join([*lines, "##XYDATA=(X++(Y..Y))", *jcamp_lines(values, form), "##END=", ""])


def spc(
    rows: list[np.ndarray], x: np.ndarray | None = None, exponent: int = -128, short: bool = False,
    x_type: int = 1, y_type: int = 2, end: str = "<", own: bool = False, log: bytes = b"",
    year: int = 2024,
) -> bytes:  # fmt: skip
    n = len(rows[0])
    flags = short * 0x01 | (len(rows) > 1) * 0x04 | (x is not None) * 0x80 | own * 0x40
    body = b"" if x is None or own else struct.pack(f"{end}{n}f", *x)
    for k, row in enumerate(rows):
        body += struct.pack(f"{end}BbHfffIIf4x", 0, exponent, k, k * 1.5, 0, 0, n if own else 0, 0, 0)
        if own and x is not None:
            body += struct.pack(f"{end}{n}f", *x)
        if exponent == -128:
            body += struct.pack(f"{end}{n}f", *row)
        else:
            bits = 16 if short else 32
            body += struct.pack(
                f"{end}{n}{'h' if short else 'i'}",
                *(int(v) for v in np.round(row * 2.0 ** (bits - exponent))),
            )
    at = 512 + len(body) if log else 0
    date = year << 20 | 5 << 16 | 17 << 11 | 13 << 6 | 45
    head = struct.pack(
        f"{end}BBBbIddIBBBBI9s9sH32s130s30sIIBBHf48sfIfB187x", flags, 0x4B if end == "<" else 0x4C, 0, exponent,
        0 if own else n, GRID[0], GRID[-1], len(rows), x_type, y_type, 0, 0, date, b"8 cm-1", b"NIRVANA", 0,
        bytes(32), b"a comment", bytes(30), at, 0, 0, 0, 0, 0.0, b"", 0.0, 0, 0.0, 0,
    )  # fmt: skip
    tail = struct.pack(f"{end}IIIII44x", 64 + len(log), 4096, 64, 0, 0) + log if log else b""
    return head + body + tail


def old_spc(row: np.ndarray, exponent: int = 4) -> bytes:
    head = struct.pack(
        "<BBhfffBBHBBBB8sHH28x130s30s", 0, 0x4D, exponent, len(row), GRID[0], GRID[-1], 1, 2, 1992, 5, 14, 20, 19,
        b"8", 0, 1, b"old", bytes(30),
    )  # fmt: skip
    words = b""
    for value in np.round(row * 2.0 ** (32 - exponent)):
        high, low = divmod(int(value) & 0xFFFFFFFF, 65536)
        words += struct.pack("<HH", high, low)
    return head + bytes(32) + words


def opus_parameters(values: dict[str, Any]) -> bytes:
    out = b""
    for key, value in values.items():
        if isinstance(value, int):
            kind, raw = 0, struct.pack("<i", value)
        elif isinstance(value, float):
            kind, raw = 1, struct.pack("<d", value)
        else:
            raw = value.encode("latin-1") + b"\0"
            kind, raw = 2, raw + bytes(len(raw) % 2)
        out += key.encode() + b"\0" + struct.pack("<HH", kind, len(raw) // 2) + raw
    out += b"END\0" + bytes(4)
    return out + bytes(-len(out) % 4)


def opus(blocks: list[tuple[int, int, np.ndarray, dict[str, Any]]] | None = None) -> bytes:
    """Write blocks (kind of data, sample or ratio, values, more parameters) with their status blocks."""
    if blocks is None:
        blocks = [(1, 1, 100 * Y, {}), (1, 2, 200 * Y, {}), (4, 3, Y, {})]
    parts = [
        (2 << 4, opus_parameters({"INS": "MPA", "SRN": "2593"})),
        (10 << 4, opus_parameters({"SNM": "wheat 7", "OPR": "x", "RES": 8.0})),
    ]
    for data, sample, y, more in blocks:
        # A ratio is the complex kind 3, as instruments write it.
        code = data << 10 | sample << 2 | 3
        told = {
            "DPF": 1, "NPT": len(y), "FXV": float(GRID[0]), "LXV": float(GRID[-1]), "CSF": 1.0,
            "MXY": float(np.float32(y.max())), "MNY": float(np.float32(y.min())), "DXU": "WN",
            "DAT": "17/05/2024", "TIM": "13:45:00", **more,
        }  # fmt: skip
        parts.append((code, struct.pack(f"<{len(y)}f", *y) + bytes(8)))
        parts.append((code | 1 << 4, opus_parameters(told)))
    start = 24 + 12 * 40
    directory, body = struct.pack("<Iii", 13 << 10, 12 * 40 // 4, 24), b""
    for code, raw in parts:
        directory += struct.pack("<Iii", code | 0x40000000, len(raw) // 4, start + len(body))
        body += raw
    head = b"\n\n\xfe\xfe" + struct.pack("<dIII", 920622.0, 24, 40, len(parts) + 1)
    return head + directory + bytes(start - 24 - len(directory)) + body


def asd(y: np.ndarray, white: np.ndarray | None = None, kind: int = 1, form: int = 2) -> bytes:
    head = bytearray(484)
    head[:3] = b"as7"
    head[3:12] = b"a comment"
    struct.pack_into("<6h", head, 160, 29, 39, 12, 21, 6, 109)
    head[186] = kind
    struct.pack_into("<ff", head, 191, 350.0, 1.0)
    head[199] = form
    struct.pack_into("<H", head, 204, len(y))
    struct.pack_into("<IHHHH", head, 390, 68, 0, 0, 0, 6355)
    struct.pack_into("<H", head, 429, 10)
    head[431] = 4
    code = "fid"[form]
    out = bytes(head) + struct.pack(f"<{len(y)}{code}", *(y if form != 1 else y.astype(int)))
    if white is not None:
        words = b"white plate"
        out += struct.pack("<Hdd", 0xFFFF, 0, 0) + struct.pack("<H", len(words)) + words
        out += struct.pack(f"<{len(y)}{code}", *white)
    return out


def save(folder: Path, name: str, data: bytes | str) -> Path:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder / name


# -- JCAMP-DX.

VALUES = [300, 384, 391, 391, 391, 314, 224, -4, 0, 0, 0, 210, 341, 399, 354]


@pytest.mark.parametrize("form", ["AFFN", "PAC", "SQZ", "DIF", "DIFDUP"])
@pytest.mark.parametrize(
    "values", [VALUES, VALUES[:5], [7, 7], [-12, 123456, 0, -99, -99, -99, -99, -99, -99, -99]]
)
def test_jcamp_is_read_in_all_its_forms(form: str, values: list[int], tmp_path: Path) -> None:
    found = read_spectra(save(tmp_path, "w.jdx", jcamp(values, form)))
    assert np.allclose(found.X, [np.array(values) * 0.001])
    assert found.wavelengths is not None
    assert np.array_equal(found.wavelengths, 9000.0 - 500 * np.arange(len(values)))
    assert (found.unit, found.signal, found.ids.tolist()) == ("cm-1", "absorbance", ["w"])  # type: ignore[union-attr]
    assert found.instrument["spectrometerdatasystem"] == "NIR 7"
    assert found.references["title"].to_list() == ["wheat"]


def test_the_difdup_example_of_the_ion_mobility_standard_is_decoded(tmp_path: Path) -> None:
    # Compressed and plain form of one spectrum, as the package jcamp (MIT) ships them.
    plain = """0 0 0 0 2 4 4 4 7 5 4 4 5 5 7 10 11 11 6 5 7 6 9 9 7 10 10 9 10 11 12 15 16 16 14 17
    38 38 35 38 42 47 54 59 66 75 78 88 96 104 110 121 128"""
    head = "##TITLE=x\n##XUNITS=MILLISECONDS\n##YUNITS=NANOAMPERES\n##XFACTOR=1\n##YFACTOR=0.1\n##FIRSTX=4\n##LASTX=56\n"
    body = "##NPOINTS=53\n##XYDATA=(X++(Y..Y)\n4@VKT%TLkj%J%KLJ%njKjL%kL%jJULJ%kLK1%lLMNPNPRLJ0QTOJ1P\n56A28\n##END=\n"
    found = read_spectra(save(tmp_path, "ims.dx", head + body))
    assert np.allclose(found.X[0], np.array(plain.split(), float) * 0.1)
    assert (found.unit, found.signal) == (None, "NANOAMPERES")


def test_blocks_are_samples_or_are_chosen(tmp_path: Path) -> None:
    link = "##TITLE=all\n##DATA TYPE=LINK\n##BLOCKS=2\n"
    a, b = jcamp(VALUES, title="a", DATE="1"), jcamp(VALUES[::-1], "SQZ", title="b", DATE="2")
    found = read_spectra(save(tmp_path, "two.jdx", link + a + b + "##END=\n"))
    assert found.ids.tolist() == ["a", "b"]  # type: ignore[union-attr]
    assert np.allclose(found.X[1], found.X[0, ::-1])
    assert found.references["date"].to_list() == ["1", "2"]
    c = jcamp(VALUES[:9], title="c")
    with pytest.raises(InvalidInput, match=r"'c' .line \d+. has another grid than 'a'"):
        read_spectra(save(tmp_path, "three.jdx", link + a + c + "##END=\n"))
    assert read_spectra(tmp_path / "three.jdx", block="c").X.shape == (1, 9)
    assert read_spectra(tmp_path / "three.jdx", block="1").X.shape == (1, 15)


def test_pairs_micrometres_and_exponents_are_read(tmp_path: Path) -> None:
    text = (
        "##TITLE=p\n##XUNITS=MICROMETERS\n##YUNITS=% TRANSMITTANCE\n##XFACTOR=1\n##YFACTOR=1\n##NPOINTS=3\n"
        "##XYPOINTS=(XY..XY)\n1.1,1.5E+01; 1.2,20\n1.4 30\n##END=\n"
    )
    found = read_spectra(save(tmp_path, "p.txt", text), to="absorbance")
    assert found.wavelengths is not None
    assert np.allclose(found.wavelengths, [1100, 1200, 1400])
    assert np.allclose(found.X, -np.log10([[0.15, 0.2, 0.3]]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("J", "K"), "check of the line above fails"),
        (("7000", "6000"), r"begins at X = 6000; by the lines above it should be 7000"),
        (("NPOINTS=15", "NPOINTS=14"), "NPOINTS"),
        (("##END=", ""), "no ##END="),
        (("YFACTOR=0.001", "YFACTOR=big"), "##YFACTOR= must be a number"),
        (("XYDATA", "NTUPLES"), "no spectrum .* but NTUPLES"),
        (("(X++(Y..Y))", "(R..I)"), "expected the form"),
        (("7000", "7000?"), "expected a number, found '?"),
        (("NPOINTS=15", "NPOINTS=30000000"), "from 1 to 1048576; found 3e"),
    ],
)
def test_jcamp_that_fails_a_check_is_refused(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    text = jcamp(VALUES, "DIF")
    head, body = text.split("##XYDATA")
    text = head + "##XYDATA" + body.replace(*change, 1) if change[0] in body else text.replace(*change)
    with pytest.raises(InvalidInput, match=words):
        read_spectra(save(tmp_path, "w.jdx", text))


# -- Galactic SPC.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"end": ">"},
        {"exponent": 3},
        {"exponent": -2},
        {"exponent": 1, "short": True},
        {"x": GRID + np.sqrt(np.arange(11))},
        {"x": GRID, "own": True},
        {"log": b"MODEL=NIRSystems 5000\r\nSCANS=32\r\n"},
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_spc_is_read_in_its_layouts(count: int, options: dict[str, Any], tmp_path: Path) -> None:
    rows = [Y / 10 * (k + 1) for k in range(count)]
    found = read_spectra(save(tmp_path, "w.spc", spc(rows, **options)))
    assert np.allclose(found.X, rows, atol=2e-5 if options.get("short") else 1e-7)
    assert np.allclose(found.wavelengths, options.get("x", GRID))  # type: ignore[arg-type]
    assert (found.unit, found.signal) == ("cm-1", "absorbance")
    assert found.ids.tolist() == (["w"] if count == 1 else ["1", "2", "3"])  # type: ignore[union-attr]
    assert found.instrument["measured"] == "2024-05-17 13:45"
    if "log" in options:
        assert found.instrument["MODEL"] == "NIRSystems 5000"


def test_a_year_of_spc_counted_from_1900_is_read(tmp_path: Path) -> None:
    found = read_spectra(save(tmp_path, "w.spc", spc([Y], year=117)))
    assert found.instrument["measured"] == "2017-05-17 13:45"


def test_the_old_spc_and_micrometres_are_read(tmp_path: Path) -> None:
    y = Y - 0.35
    found = read_spectra(save(tmp_path, "old.spc", old_spc(y)))
    assert np.allclose(found.X, [y], atol=1e-7)
    assert np.allclose(found.wavelengths, GRID)  # type: ignore[arg-type]
    assert found.instrument["measured"] == "1992-05-14 20:19"
    x = np.linspace(1.1, 2.5, 11)
    found = read_spectra(save(tmp_path, "um.spc", spc([Y], x, x_type=2, y_type=129)))
    assert np.allclose(found.wavelengths, x * 1000)  # type: ignore[arg-type]
    assert (found.unit, found.signal) == ("nm", "reflectance")


# -- Bruker OPUS; brukeropus reads the same files.


@pytest.mark.parametrize(
    ("blocks", "key", "signal"),
    [
        (None, "a", "absorbance"),
        ([(12, 3, Y, {}), (1, 1, 9 * Y, {})], "r", "reflectance"),
        ([(5, 3, Y, {"CSF": 0.5, "MXY": 0.5 * float(Y.max())})], "t", "transmittance"),
        ([(15, 3, Y, {})], "logr", "absorbance"),
        ([(1, 1, 9 * Y, {}), (1, 2, 8 * Y, {})], "sm", "raw"),
        ([(4, 3, Y, {}), (4, 3, 2 * Y, {})], "a", "absorbance"),
    ],
)
def test_opus_is_read_as_brukeropus_reads_it(blocks: Any, key: str, signal: str, tmp_path: Path) -> None:
    path = save(tmp_path, "wheat.0", opus(blocks))
    found, theirs = read_spectra(path), getattr(brukeropus.read_opus(path), key)
    assert np.allclose(found.X[0], theirs.y, rtol=1e-6)
    assert np.allclose(found.wavelengths, theirs.x)  # type: ignore[arg-type]
    assert (found.unit, found.signal, found.ids.tolist()) == ("cm-1", signal, ["wheat.0"])  # type: ignore[union-attr]
    assert found.references["sample name"].to_list() == ["wheat 7"]
    assert found.instrument["serial number"] == "2593"
    assert found.instrument["measured"] == "17/05/2024 13:45:00"


def test_the_block_of_an_opus_file_can_be_chosen(tmp_path: Path) -> None:
    path = save(tmp_path, "wheat.0", opus())
    assert np.allclose(read_spectra(path, block="ScRf").X, [200 * Y])
    with pytest.raises(InvalidInput, match="no spectrum 'TR'; it holds AB, ScSm, ScRf"):
        read_spectra(path, block="TR")
    with pytest.raises(InvalidInput, match="interferograms only"):
        read_spectra(save(tmp_path, "ig.0", opus([(2, 1, Y, {})])))


# -- ASD.


@pytest.mark.parametrize("form", [0, 2])
def test_asd_gives_reflectance_to_its_white_reference(form: int, tmp_path: Path) -> None:
    y, white = 1000 * Y, np.linspace(900.0, 1100.0, 11)
    found = read_spectra(save(tmp_path, "s.asd", asd(y, white, 1, form)))
    assert np.allclose(found.X, [y / white])
    assert np.array_equal(found.wavelengths, 350.0 + np.arange(11))  # type: ignore[arg-type]
    assert (found.unit, found.signal) == ("nm", "reflectance")
    assert found.instrument["measured"] == "2009-07-21 12:39:29"
    raw = save(tmp_path, "s.000", asd(y, white, 0, form))
    assert np.allclose(read_spectra(raw).X, [y])
    assert read_spectra(raw).signal == "raw"
    assert np.allclose(read_spectra(raw, to="absorbance").X, [-np.log10(y / white)])
    alone = save(tmp_path, "alone.asd", asd(y, None, 0, form))
    with pytest.raises(InvalidInput, match="values are raw; there is no conversion"):
        read_spectra(alone, to="absorbance")
    white[3] = 0
    with pytest.raises(InvalidInput, match="white reference is 0 at channel 4"):
        read_spectra(save(tmp_path, "s.asd", asd(y, white, 1, form)))


# -- Damaged files.

WHOLE = {
    "w.jdx": jcamp(VALUES).encode(),
    "link.dx": ("##TITLE=l\n##DATA TYPE=LINK\n" + jcamp(VALUES, "PAC", "a") + jcamp(VALUES, "SQZ", "b") + "##END=\n").encode(),
    "w.spc": spc([Y, 2 * Y], log=b"A=1\r\n"),
    "own.spc": spc([Y, 2 * Y], GRID, own=True),
    "old.spc": old_spc(Y),
    "w.0": opus(),
    "w.asd": asd(1000 * Y, 900 * Y),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_damaged_files_are_refused_and_nothing_else_comes_out(name: str, tmp_path: Path) -> None:
    """Cuts, flipped bytes, extreme numbers: either spectra that are finite, or InvalidInput."""
    whole, chance = WHOLE[name], random.Random(name)
    refused = 0
    for k in range(400):
        data = bytearray(whole)
        if k % 4 == 0:
            del data[chance.randrange(len(data)) :]
        for _ in range(chance.choice([1, 2, 8])):
            if len(data) > 8:
                place = chance.randrange(len(data) - 4)
                if k % 4 == 1:
                    data[place : place + 4] = chance.choice(
                        [b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff\xff\xff\xff"]
                    )
                elif k % 4 == 2:
                    data[place] = chance.randrange(256)
                elif k % 4 == 3:
                    data[place : place + 1] = chance.choice([b"9" * 12, b"Zs9", b"", b"\0", b"e308", b"##"])
        path = save(tmp_path, name, bytes(data))
        try:
            found = read_spectra(path)
        except InvalidInput:
            refused += 1
        else:
            assert np.isfinite(found.X).all()
            assert found.X.size <= 2**25
    assert refused > 80
