"""Files of spectra in the dialects that instruments, spreadsheets and R write: read right, or refused with the place.

Each file is read twice: by the library, and by the code that a script of a bundle carries.
"""

from __future__ import annotations

import gzip
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nirs_store.bundle.script import _reader_source
from nirs_store.errors import InvalidInput
from nirs_store.reading import read_spectra

GRID = [850.0 + 2 * k for k in range(12)]
TABLE = [[round(0.1 + 0.01 * k + 0.1 * s + 0.00003 * (k * k % 7), 5) for k in range(12)] for s in range(3)]


def text_of(
    delimiter: str = ",", decimal: str = ".", names: Any = None, first: str = "id", end: str = "\n"
) -> str:
    head = [str(w) for w in GRID] if names is None else names
    lines = [delimiter.join([first, "fat", *(name.replace(".", decimal) for name in head)])]
    for s, row in enumerate(TABLE):
        lines.append(
            delimiter.join([f"S.{s}", *(f"{v:.5f}".replace(".", decimal) for v in [10.5 + s, *row])])
        )
    return end.join(lines) + end


def turned(delimiter: str, corner: str, decimal: str = ".", units: bool = False) -> str:
    lines = [delimiter.join([corner, "S.0", "S.1", "S.2"])]
    lines += [delimiter.join(["[nm]", "[AU]", "[AU]", "[AU]"])] if units else []
    for k, wavelength in enumerate(GRID):
        cells = [f"{wavelength:.1f}", *(f"{row[k]:.5f}" for row in TABLE)]
        lines.append(delimiter.join(cell.replace(".", decimal) for cell in cells))
    return "\n".join(lines) + "\n"


def innospectra() -> str:
    lines = ["***Scan Config Information***,,,,,,,***Reference Scan Information***,,,,,,,,"]
    lines += [
        "Scan Config Name:,Column 1,,,,,,Scan Config Name:,Built-in,,,,,,",
        "Serial Number:,SN123,,,,,,,,,,,,,",
    ]
    lines += ["***Scan Data***,,,,,,,,,,,,,,,"]
    lines += ["Wavelength (nm),Absorbance (AU),Reference Signal (unitless),Sample Signal (unitless)"]
    lines += [
        f"{w:.6f},{v:.5f},{1000 + k:.1f},{900 + k}"
        for k, (w, v) in enumerate(zip(GRID, TABLE[0], strict=True))
    ]
    return "\n".join([*lines, "***End of Scan Data***", "cotton,60.0"]) + "\n"


PLAIN = text_of()
GERMAN = text_of(";", ",")
THOUSANDS = [f"{994 + 2 * k:,.1f}" for k in range(12)]
READ: dict[str, Any] = {
    "commas": PLAIN,
    "semicolons": text_of(";"),
    "tabs": text_of("\t"),
    "bars": text_of("|"),
    "blanks": text_of("  "),
    "comma and blank": text_of(", "),
    "decimal commas": GERMAN,
    "tabs and decimal commas": text_of("\t", ","),
    "bars and decimal commas": text_of("|", ","),
    "CRLF": text_of(end="\r\n"),
    "CR": text_of(end="\r"),
    "no last line end": PLAIN.rstrip("\n"),
    "quotes": "\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in PLAIN.splitlines()),
    "decimal commas in quotes": "\n".join(
        ",".join(f'"{c.replace(".", ",")}"' if c[:1].isdigit() else c for c in line.split(","))
        for line in PLAIN.splitlines()
    ),
    "UTF-8 BOM": PLAIN.encode("utf-8-sig"),
    "UTF-16 with BOM": GERMAN.encode("utf-16"),
    "UTF-16 big-endian BOM": b"\xfe\xff" + GERMAN.encode("utf-16-be"),
    "UTF-16 without BOM": PLAIN.encode("utf-16-le"),
    "UTF-16 big-endian without BOM": PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "cp1252": text_of(first="Pr\u00fcfnummer").encode("cp1252"),
    "latin-1 with controls": text_of(first="a\x81\u00fc").encode("latin-1"),
    "gzip": gzip.compress(PLAIN.encode()),
    "sep line": "sep=;\n" + GERMAN,
    "quoted sep line": '"sep=;"\n' + GERMAN,
    "comment above": "# exported 2024\n" + PLAIN,
    "comment with cells": "# a,b\n# 1,2\n" + PLAIN,
    "header as a comment": "# " + PLAIN,
    "blank lines": "\n\n" + PLAIN.replace("\n", "\n\n") + "\n \n",
    "lines of separators": ",,\n" + PLAIN + ",,,,,\n",
    "title above": "Export of 3 samples\nInstrument: X100, serial 5\n\n" + PLAIN,
    "padded preamble": "Title;;;;;\nSerial number;123;;;;\n" + GERMAN,
    "units above": ";%;" + ";".join(["nm"] * 12) + "\n" + GERMAN,
    "comment below": PLAIN + "# end\n",
    "words below": PLAIN + "\nEnd of data\n",
    "empty columns": "\n".join(line + ";;" for line in GERMAN.splitlines()),
    "empty columns below": "\n".join(
        line + (";;" if k else "") for k, line in enumerate(GERMAN.splitlines())
    ),
    "nm in the header": text_of(names=[f"{w} nm" for w in GRID]),
    "nm in brackets": text_of(names=[f"{w} [nm]" for w in GRID]),
    "X of R": text_of(names=[f"X{w}" for w in GRID]),
    "X and unit of R": text_of(names=[f"X{w}.nm" for w in GRID]),
    "micrometres": text_of(names=[f"{w / 1000:.3f} um" for w in GRID]),
    "spoilt only by a unit": text_of(names=[*map(str, GRID[:5]), "860.0 nm", *map(str, GRID[6:])]),
    "decimal commas in the header alone": text_of(";", names=[str(w).replace(".", ",") for w in GRID]),
    "no-break blanks": GERMAN.replace(";", "\u00a0;\u202f"),
    "hidden characters": PLAIN.replace(",8", ",\u200b8"),
    "exponents": PLAIN.replace("0.10000", "1.0E-01"),
    "leading plus": PLAIN.replace(",0.", ",+0."),
    "no zero before the point": PLAIN.replace(",0.", ",."),
    "names of rows of R": '"fat",'
    + PLAIN.split(",fat,", 1)[1].replace("S.0", "1").replace("S.1", "2").replace("S.2", "3"),
    "transposed": turned(",", "nm"),
    "transposed, decimal commas": turned(";", "Wellenl\u00e4nge", ","),
    "transposed without a corner": turned("\t", ""),
    "transposed with units below the names": turned(";", "Wavelength ", ",", units=True),
    "transposed below a preamble": "Integration time [ms]: 105,000\nScans: 2\n"
    + turned(";", "Wavelength", ","),
}


@pytest.fixture(scope="module")
def script() -> Any:
    """The reader as a script of a bundle carries it."""
    module = types.ModuleType("carried")
    exec(compile(_reader_source(), "carried", "exec"), module.__dict__)
    return module


def write(folder: Path, content: str | bytes, name: str = "s.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("kind", READ)
def test_dialects_are_read_with_all_their_channels(kind: str, tmp_path: Path, script: Any) -> None:
    path = write(tmp_path, READ[kind])
    found = read_spectra(path)
    assert np.array_equal(found.X, np.array(TABLE))
    assert found.X.flags.c_contiguous
    assert found.wavelengths is not None
    assert np.allclose(found.wavelengths, GRID, atol=1e-9)
    assert found.unit == "nm"
    assert len(found) == 3
    if "transposed" not in kind:
        assert read_spectra(path, target="fat").y.tolist() == [10.5, 11.5, 12.5]  # type: ignore[union-attr]
        assert kind.startswith("names") or list(found.column(found.labels[0])) == ["S.0", "S.1", "S.2"]
    carried = script.read_text(path.read_bytes())
    assert np.array_equal(carried.X, found.X)
    assert np.array_equal(carried.wavelengths, found.wavelengths)
    assert script.describe(carried) == found.understood


def body(*cells: str, head: str = "id;850;852;854") -> str:
    return "\n".join([head, *cells]) + "\n"


REFUSED: dict[str, tuple[Any, str]] = {
    "empty": ("", "is empty"),
    "only blanks": (" \n\n", "is empty"),
    "comments only": ("# a\n# b\n", "comments only|no spectr"),
    "one line longer": ("id,850,852\nS1,0.1,0.2\nS2,0.3,0.4,,,,,,9\n", "line 3 has 9 cells"),
    "two lines longer": (
        "id,850,852\na,1,2\nb,3,4,,,,,,9\nc,3,4,,,,,,9\n",
        "line 1 .* looks like a part of the table",
    ),
    "header alone": ("id,850,852\n", "no spectra below it"),
    "no channels": ("id,absorbance\na,1\n", "no spectral columns.*Found: id, absorbance"),
    "channels of another name": ("id,w0,w1\na,1,2\n", "no spectral columns.*channels="),
    "twice": ("id,850,852,850\na,1,2,3\n", "850 twice"),
    "twice next to each other": ("id,850,850.0,852\na,1,2,3\n", "850.* twice"),
    "disorder": ("id,850,852,851,853\na,1,2,3,4\n", "after 852 comes 851"),
    "two units": ("id,900 nm,9086 cm-1\na,1,2\n", "in nm and in cm-1"),
    "spoilt within": (PLAIN.replace("860.0", "860.0*"), r"'860.0\*' between the channels 858.0 and 862.0"),
    "spoilt first": (PLAIN.replace("850.0", "850.0*"), r"'850.0\*' seems to be a channel"),
    "spoilt last": (PLAIN.replace("872.0", "872.0 (?)"), r"'872.0 \(\?\)' seems to be a channel"),
    "no name within": (PLAIN.replace("860.0", ""), "between the channels 858.0 and 862.0 has no name"),
    "year behind": (
        "\n".join(line + (",2024" if k == 0 else ",1") for k, line in enumerate(PLAIN.splitlines())),
        "'2024' lies far",
    ),
    "number before": (PLAIN.replace("fat", "7"), "'7' lies far"),
    "number apart": (PLAIN.replace("id,fat", "5,fat"), "'5' .*does not belong to the channels"),
    "year and falling grid": ("id,12,9090,9086,9082,9078\na,1,2,3,4,5\n", "after 12 comes 9090"),
    "words in a spectrum": (
        body("a;1;2;3", "b;1;saturated;3"),
        r"sample 2 \(line 3\): the column 852 .*'saturated'",
    ),
    "detection limit in a spectrum": (body("a;<0,5;2;3"), "'<0,5'"),
    "underscore": (body("a;1_0;2;3"), "'1_0'"),
    "gap": (body("a;1;2;3", "b;;2;3"), r"1 missing .*sample 2 \(line 3\) at 850"),
    "gap at the end": (body("a;1;2;"), "1 missing .*at 854"),
    "NA": (body("a;1;NA;3"), "missing"),
    "dash": (body("a;1;-;3"), "missing"),
    "error of a spreadsheet": (body("a;1;#N/A;3", "b;1;#DIV/0!;3"), "2 missing"),
    "infinity": (body("a;1;1.#INF;3"), "missing"),
    "too large": (body("a;1;1e999;3"), "1e999|too large"),
    "cut off": (body("a;1;2;3", "b;1"), "line 3 has 2 cells"),
    "too long": (body("a;1;2;3;4"), "line 2 has 5 cells, the header in line 1"),
    "words between rows": (body("a;1;2;3", "second day", "b;1;2;3"), "line 3"),
    "two decimal signs": (body("a;0.5;1,25;1"), "two decimal signs.*0.5.*1,25.*--decimal"),
    "thousands or decimals": (body("a;1,234;2,345;3,456"), "1,234.*decimal=','.*--decimal"),
    "thousands next to decimals": (body("a;1.234;0,5;0,25"), "two decimal signs"),
    "quote missing": ('id,850,852\n"a,1,2\nb,3,4\n', "line 2 on .*quote"),
    "label twice": ("id,id,850,852\na,b,1,2\n", "names the column 'id' twice"),
    "workbook": (b"PK\x03\x04....", "workbook.*CSV"),
    "old workbook": (b"\xd0\xcf\x11\xe0....", "xls.*CSV"),
    "picture": (b"\x89PNG\r\n\x1a\n\x00", "picture"),
    "zero bytes": (b"\x00\x01\x02abc" * 10, "not a text file"),
    "JSON": ('{"850": [1, 2]}', "JSON"),
    "web page": ("<!DOCTYPE html><html><td>850</td></html>", "HTML"),
    "half a gzip": (gzip.compress(PLAIN.encode())[:-12], "gzip"),
    "counts or a header": ("1200,1310,1450\n1190,1330,1420\n", "header=True or header=False"),
    "names or wavelengths": ("".join(f"{101 + k},0.{k}1,0.{k}2\n" for k in range(12)), "orientation="),
    "columns of many quantities": (
        "Wavelength (nm),Reference Signal,Sample Signal\n" + "".join(f"{w},1,2\n" for w in GRID),
        "keep the one",
    ),
    "channels in no order": (
        "858,850,856,852,854,860\n" + ",".join(["0.5"] * 6) + "\n" + ",".join(["-0.2"] * 6) + "\n",
        "rise or fall",
    ),
    "points for thousands below decimal commas": (
        body("a;12.345;1.200;150.000", head="id;850,5;852,5;854,5"),
        "'12.345'.*--decimal",
    ),
    "points for thousands after decimal commas": (
        body("a;3,5;12.345;1.200;150.000", head="id;fat;850;852;854"),
        "'12.345'.*--decimal",
    ),
    "decimal commas between commas": (
        "850,852,854\n0,51,0,52,0,53\n0,61,0,62,0,63\n",
        "line 1 .* decimal commas",
    ),
    "decimal commas between commas, turned": (
        "nm,a\n" + "".join(f"{w:.0f},0,0{k}\n" for k, w in enumerate(GRID)),
        "line 1 has 2 cells, others 3",
    ),
    "decimal commas between commas, no header": (
        "".join(f"{w:.0f},0,{k:02}\n" for k, w in enumerate(GRID)),
        "'01'.*decimal commas",
    ),
    "a row that counts above the wavelengths": (
        "id,"
        + ",".join(map(str, range(1, 13)))
        + "\n,"
        + PLAIN.split("\n", 1)[0].split(",", 2)[2]
        + "\na"
        + ",0.5" * 12
        + "\n",
        "line 2 .* holds wavelengths",
    ),
    "header twice": (PLAIN + PLAIN, "line 5 .* holds wavelengths"),
    "another instrument below": (PLAIN + PLAIN.replace(",8", ",18"), "line 5 .* holds wavelengths"),
    "irregular wavelengths without a header": (
        "".join(f"{900 + k**1.7:.1f},0.1,0.2,0.3\n" for k in range(20)),
        "no header.*orientation=",
    ),
    "broken axis": (turned(",", "nm").replace("860.0", "60.0"), "after 858.0 comes 60.0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_for_sure_is_refused_with_its_place(
    kind: str, tmp_path: Path, script: Any
) -> None:
    content, words = REFUSED[kind]
    path = write(tmp_path, content)
    with pytest.raises(InvalidInput, match=words) as refused:
        read_spectra(path)
    with pytest.raises(ValueError, match=words) as carried:
        script.read_text(path.read_bytes())
    assert str(refused.value) == f"s.csv: {carried.value}"


@pytest.mark.parametrize(
    ("content", "options", "X", "wavelengths"),
    [
        (body("a;1,234;3,456;2,345"), {"decimal": ","}, [[1.234, 3.456, 2.345]], [850, 852, 854]),
        (body("a;1,234;3,456;2,345"), {"decimal": "."}, [[1234, 3456, 2345]], [850, 852, 854]),
        ("1200,1310,1450\n1190,1330,1420\n", {"header": True}, [[1190, 1330, 1420]], [1200, 1310, 1450]),
        ("1200,1310,1450\n1190,1330,1420\n", {"header": False}, [[1200, 1310, 1450], [1190, 1330, 1420]], None),
        ("x:850:852\na:1:2\n", {"delimiter": ":"}, [[1, 2]], [850, 852]),
        ("nm,S1\n850,1\n852,2\n854,3\n", {"orientation": "columns"}, [[1, 2, 3]], [850, 852, 854]),
        ("id,w0,w1\na,1,2\n", {"channels": ["w0", "w1"]}, [[1, 2]], None),
        ("id,860,2024\na,1,2\n", {"channels": ["860"]}, [[1]], [860]),
        ("0.1,0.5,0.2\n0.3,0.1,0.2\n", {}, [[0.1, 0.5, 0.2], [0.3, 0.1, 0.2]], None),
        ("S1,0.1,0.5,0.2\nS2,0.3,0.1,0.2\n", {}, [[0.1, 0.5, 0.2], [0.3, 0.1, 0.2]], None),
        ("id,1,2,3\na,0.5,0.7,0.6\n", {}, [[0.5, 0.7, 0.6]], None),
        ("9000,8000\n1,2\n", {}, [[1, 2]], [9000, 8000]),
        ("850\n1\n2\n", {}, [[1], [2]], [850]),
        ("".join(f"{850 + 2 * k}\t0,{k + 1}5\n" for k in range(4)), {"orientation": "columns"}, [[0.15, 0.25, 0.35, 0.45]], [850, 852, 854, 856]),
        (innospectra(), {}, [TABLE[0]], GRID),
        (body("a;1.234,5;12.000,25;3"), {}, [[1234.5, 12000.25, 3]], [850, 852, 854]),
        ("id;" + ";".join(n.replace(",", " ").replace(".", ",") for n in THOUSANDS) + "\na" + ";0,5" * 12, {}, [[0.5] * 12], [994 + 2 * k for k in range(12)]),
        ("id\t" + "\t".join(THOUSANDS) + "\na" + "\t0.5" * 12, {}, [[0.5] * 12], [994 + 2 * k for k in range(12)]),
        ("id;" + ";".join(n.translate({44: ".", 46: ","}) for n in THOUSANDS) + "\na" + ";1" * 12, {}, [[1] * 12], [994 + 2 * k for k in range(12)]),
        ("id,850,852,20_24\na,1,2,3\n", {}, [[1, 2]], [850, 852]),
        ("0,0,0,0\n0.5,0.5,0.5,0.5\n0.1,0.5,0.2,0.3\n", {}, [[0] * 4, [0.5] * 4, [0.1, 0.5, 0.2, 0.3]], None),
        ("a;1;1;1\nb;0,3;0,1;0,2\n", {}, [[1, 1, 1], [0.3, 0.1, 0.2]], None),
        ("id,X1,850,852,854\na,7,1,2,3\n", {}, [[1, 2, 3]], [850, 852, 854]),
    ],
)  # fmt: skip
def test_options_decide_and_special_tables_are_read(
    content: str, options: Any, X: Any, wavelengths: Any, tmp_path: Path, script: Any
) -> None:
    path = write(tmp_path, content)
    found = read_spectra(path, **options)
    assert found.X.tolist() == X
    assert (None if found.wavelengths is None else found.wavelengths.tolist()) == wavelengths
    assert np.array_equal(script.read_text(path.read_bytes(), **options).X, found.X)


@st.composite
def tables(draw: Any) -> Any:
    n, p = draw(st.integers(1, 5)), draw(st.integers(4, 12))
    start, step = draw(st.sampled_from([(900, 3), (994, 2), (9090.91, -7.72), (12000, -16), (1350.5, 0.5)]))
    grid = [round(start + step * k, 2) for k in range(p)]
    number = st.integers(-40_000, 400_000).map(lambda k: k / 100_000)
    X = [[draw(number) for _ in range(p)] for _ in range(n)]
    X[0][0] = 0.12345  # a table of whole numbers has no decimal sign to be found
    fat = [draw(st.one_of(st.none(), st.integers(0, 9_000_000).map(lambda k: k / 1000))) for _ in range(n)]
    return grid, X, fat


@given(
    table=tables(),
    signs=st.sampled_from([(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ","), ("|", ",")]),
    group=st.sampled_from(["", " ", "\u202f", "'", "other"]),
    form=st.sampled_from(["{}", "X{}", "{} cm-1", "{}nm", "{} [nm]"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    around=st.sampled_from(["plain", "sep", "preamble", "comment", "empty columns", "footer", "turned"]),
    packed=st.booleans(),
)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_is_written_in_any_dialect_is_read_back(
    tmp_path: Path,
    table: Any,
    signs: Any,
    group: str,
    form: str,
    end: str,
    encoding: str,
    around: str,
    packed: bool,
) -> None:
    grid, X, fat = table
    delimiter, decimal = signs
    group = {"other": "." if decimal == "," else ","}.get(group, group)
    group = "" if delimiter == group or (encoding == "cp1252" and group == "\u202f") else group

    def text(value: float | None, digits: int) -> str:
        plain = "" if value is None else f"{value:,.{digits}f}"
        return plain.translate({44: group, 46: decimal})

    rows = [["Pr\u00fcfnummer", "fat", *(form.format(text(w, 2)) for w in grid)]]
    rows += [[f"=S {k}", text(fat[k], 3), *(text(v, 5) for v in row)] for k, row in enumerate(X)]
    if around == "turned":
        rows = [list(column) for column in zip(*rows, strict=True)]
        rows[0][0] = "wavelength"
    if around == "empty columns":
        rows = [[*row, "", ""] for row in rows]
    lines = [delimiter.join(row) for row in rows]
    lines = {
        "sep": [f"sep={delimiter}", *lines],
        "preamble": ["Instrument X", f"Serial{delimiter}123", "", *lines],
        "comment": ["# exported", *lines],
        "footer": [*lines, "", "End"],
    }.get(around, lines)
    data = (end.join(lines) + end).encode(encoding)
    path = tmp_path / "any.csv"
    path.write_bytes(gzip.compress(data) if packed else data)
    found = read_spectra(path)
    assert found.X.tolist() == X
    assert found.wavelengths.tolist() == grid  # type: ignore[union-attr]
    assert found.unit == ("cm-1" if "cm" in form else "nm" if "nm" in form else found.unit)
    values = found.numbers("fat")
    assert np.array_equal(values, np.array(fat, dtype=float), equal_nan=True)
