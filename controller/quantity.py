"""Pure: Kubernetes quantities ('500m', '2Gi', '1e3', 0.5), read exactly.

A quantity is a decimal number with either a suffix of ten (n u m k M G T P E), one of two (Ki Mi Gi Ti Pi Ei) or a
decimal exponent. It becomes a Fraction, so that 500m is one half and a comparison with a target never depends on
rounding.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SUFFIXES = {
    "": Fraction(1),
    **{suffix: Fraction(10) ** power for suffix, power in zip("num", (-9, -6, -3), strict=True)},
    **{suffix: Fraction(10) ** (3 * place) for place, suffix in enumerate("kMGTPE", start=1)},
    **{suffix + "i": Fraction(2) ** (10 * place) for place, suffix in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,3})|([numkMGTPE]|[KMGTPE]i)?)", re.ASCII)
_LENGTH_MAX = 60
_LIMIT = Fraction(1.7976931348623157e308)
"""What is compared in the end is a float."""
_WRONG = "must be a quantity such as 500m, 2, 0.5 or 1Gi (suffixes: n u m k M G T P E Ki Mi Gi Ti Pi Ei)"


def parse_quantity(value: object) -> Fraction:
    """The exact value of a quantity, written as text or as a plain number.

    Raises ValueError, with a reason that never repeats the input, if it is not a quantity.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Fraction):
        raise ValueError(_WRONG)
    if isinstance(value, int | Fraction):
        return _bounded(Fraction(value))
    text = value if isinstance(value, str) else repr(value)
    match = _QUANTITY.fullmatch(text)
    if match is None or len(text) > _LENGTH_MAX:
        raise ValueError(
            "must be a quantity such as 500m, 2, 0.5 or 1Gi (suffixes: n u m k M G T P E Ki Mi Gi Ti Pi Ei)"
        )
    sign, digits, exponent, suffix = match.groups()
    number = Fraction(digits) * (Fraction(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""])
    return _bounded(-number if sign == "-" else number)


def _bounded(number: Fraction) -> Fraction:
    if abs(number) > _LIMIT:
        raise ValueError("is too large")
    return number
