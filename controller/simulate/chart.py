"""Pure: bars in a terminal: one column for each value, in eighths of a character."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"


def bars(values: Sequence[float], top: float, width: int, height: int) -> list[str]:
    """`height` lines of `width` columns, the upper line first. `top` fills a column; too many values: the newest."""
    eighths = [_eighths(value, top, height) for value in list(values)[-width:]]
    lines = ("".join(BLOCKS[min(8, max(0, count - 8 * row))] for count in eighths) for row in reversed(range(height)))
    return [line.ljust(width) for line in lines]


def _eighths(value: float, top: float, height: int) -> int:
    """What is not nothing is seen."""
    if value <= 0 or top <= 0:
        return 0
    return max(1, round(min(1.0, value / top) * height * 8))
