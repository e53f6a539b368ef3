"""Shell: the flags of `spillway demo`, apart from it: they can be listed where the packages it needs are missing."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `spillway demo`."""
    add, default = parser.add_argument, Path("spillway-demo.png")
    add("--short", action="store_true", help="one overflow instead of two, in about half a minute")
    add("--plain", action="store_true", help="lines instead of a live view, as where there is no terminal")
    add("--output", type=Path, default=default, metavar="FILE", help="the timeline, a PNG (default: %(default)s)")
