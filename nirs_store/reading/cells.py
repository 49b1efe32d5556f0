"""Numbers, channels and text in the cells of a table, as people, instruments and spreadsheets write them.

Uses the standard library only: scripts that predict on their own carry the source of this module.
"""

from __future__ import annotations

import math
import re

# fmt: off
MISSING = frozenset({
    "", "na", "n/a", "n.a.", "nan", "null", "none", "nil", "-", "--", "---", ".", "?", "n.d.", "nd",
    "#n/a", "#n/a!", "#nv", "#na", "#null!", "#value!", "#wert!", "#div/0!", "#ref!", "#bezug!",
    "#num!", "#zahl!", "#name?", "1.#inf", "-1.#inf", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
    "1.#snan", "inf", "+inf", "-inf", "infinity", "-infinity",
})
# fmt: on
"""What instruments and spreadsheets write where there is no number, in lower case."""

_BLANKS = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000"
_CHARACTERS: dict[int, str | None] = {ord(blank): " " for blank in _BLANKS}
_CHARACTERS |= {ord(hidden): None for hidden in "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"}
_CHARACTERS |= {ord(minus): "-" for minus in "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d\u207b"}
_CHARACTERS |= {ord(quote): "'" for quote in "\u2018\u2019\u02bc"} | {0xB9: "1", 0x3BC: "\u00b5"}

_PLAIN = {
    sign: re.compile(rf"[+-]?(?:[0-9]+{re.escape(sign)}?[0-9]*|{re.escape(sign)}[0-9]+)(?:[eE][+-]?[0-9]+)?")
    for sign in ".,"
}
_GROUPED = {
    sign: re.compile(
        rf"[+-]?[1-9][0-9]{{0,2}}(?P<group>[ '{other}])[0-9]{{3}}(?:(?P=group)[0-9]{{3}})*(?:{re.escape(sign)}[0-9]*)?"
    )
    for sign, other in ((".", ","), (",", "."))
}
_NANOMETRES = r"nm|nanomet(?:er|re)s?"
_WAVENUMBERS = r"cm ?\^? ?[({]?-1[)}]?|1 ?/ ?cm|/cm|cm\.{1,2}1|wave ?numbers?"
_MICROMETRES = r"[u\u00b5]m|microns?|micromet(?:er|re)s?"
_UNIT = rf"(?P<nm>{_NANOMETRES})|(?P<cm>{_WAVENUMBERS})|(?P<um>{_MICROMETRES})"
_PREFIX = r"x|wl|wn|nm|spc|spec|nir|abs|absorbance|refl|reflectance|wavelength|wavenumber|lambda|\u03bb"
_CHANNEL = re.compile(
    rf"(?:(?P<prefix>{_PREFIX})[ ._:-]*)?(?P<number>[0-9][0-9 '.,]*?(?:e[+-]?[0-9]+)?)"
    rf"(?:[ ._-]*[\[(]? ?(?:{_UNIT}) ?[\])]?\.?)?",
    re.IGNORECASE,
)


FARTHEST_NM = 3500
"""No near-infrared wavelength in nm lies above; a grid that does holds wavenumbers, or its unit is not known."""


def tidy(text: str) -> str:
    """Replace blanks, minus signs and quotes of typesetting by plain ones; drop hidden characters and outer blanks."""
    return text.translate(_CHARACTERS).strip()


def is_missing(text: str) -> bool:
    """Tell whether a cell says that there is no number."""
    return tidy(text).lower() in MISSING


def parse_number(text: str, decimal: str = ".") -> float | None:
    """Read a number with this decimal sign; groups of three digits may be separated by a blank, ' or the other
    sign.
    """
    text = tidy(text)
    if _PLAIN[decimal].fullmatch(text):
        value = float(text.replace(",", "."))
    elif _GROUPED[decimal].fullmatch(text):
        other = "," if decimal == "." else "."
        value = float(text.replace(other, "").replace(" ", "").replace("'", "").replace(",", "."))
    else:
        return None
    return value if math.isfinite(value) else None


def parse_channel(text: object, decimal: str | None = None) -> tuple[float, str | None] | None:
    """Read the header of a spectral column as a number and its unit."""
    match = _CHANNEL.fullmatch(tidy(str(text)))
    if match is None:
        return None
    prefix = (match["prefix"] or "").lower()
    unit = "nm" if match["nm"] or match["um"] or prefix == "nm" else "cm-1" if match["cm"] else None
    signs = ".," if decimal is None else decimal
    found = [value for value in (parse_number(match["number"], sign) for sign in signs) if value is not None]
    if " " in match["number"]:  # "850 852" is a range, not a number of six digits
        found = [value for value in found if value < 1e5]
    if not found:
        return None
    value = found[0]
    if len(found) == 2 and found[1] != value and "," in match["number"]:
        # "1,000": as decimal it would be found[1]; a thousand of it only where that alone can be a channel.
        value = found[1] if match["um"] or found[1] >= 100 else value
    return (round(value * 1000, 6) if match["um"] else value), unit


def parse_unit(text: object) -> str | None:
    """Read the unit of a grid, however it is spelled: "nm", "cm-1", "um", or None for any other."""
    found = parse_channel(f"1000 {text}")
    return None if found is None or found[1] is None else "um" if found[0] != 1000 else found[1]


def safe_cell(text: str) -> str:
    """Write text so that no spreadsheet takes it for a formula: with a quote before = + - @, tab or line end."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and text else text
