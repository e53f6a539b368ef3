"""Shell: the flags of `spillway simulate`. What a flag's value cannot be, argparse says, with the flag's name."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from controller.settings import INTERVAL_MIN_S
from controller.simulate.meter import Signal
from controller.simulate.score import SLO_S, Price
from controller.simulate.workload import LOCAL, REMOTE

PICTURES = (".svg", ".png", ".pdf")
_PRICE = re.compile(r"([\d.]+)(?:/(h)|(?::([\d.]+))?/(1k))")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `spillway simulate`."""
    add = parser.add_argument
    add("--trace", type=Path, required=True, metavar="FILE", help="CSV: TIMESTAMP,ContextTokens,GeneratedTokens")
    add("--policy", type=Path, required=True, metavar="PATH", help="a ModelDeployment: a file, or a directory")
    add("--config", type=Path, metavar="FILE", help="config.yaml: default remote, where metrics come from, how often")
    add("--speed", type=factor, default=1.0, metavar="X", help="the same load X times as dense (%(default)g)")
    add("--slo", type=amount, default=SLO_S, metavar="SECONDS", help="until the first byte (%(default)g)")
    add("--gateways", type=gateways, default=(1.0,), metavar="N", help="how many, or their parts: 40:30:20:10 (1)")
    servers = parser.add_argument_group("servers").add_argument
    servers("--replicas", type=count, metavar="N", help="(default: the manifests' ready endpoints, or 1)")
    servers("--slots", type=count, metavar="N", help="requests a replica serves at a time (default: its localLimit)")
    servers(
        "--context-ms",
        type=amount,
        default=1000 * LOCAL.context_token_s,
        metavar="MS",
        help="to read a token (%(default)g)",
    )
    servers(
        "--token-ms",
        type=amount,
        default=1000 * LOCAL.generated_token_s,
        metavar="MS",
        help="to write one (%(default)g)",
    )
    servers("--remote-latency", type=amount, default=REMOTE.base_s, metavar="SECONDS", help="of remotes (%(default)g)")
    servers(
        "--remote-context-ms", type=amount, default=1000 * REMOTE.context_token_s, metavar="MS", help="(%(default)g)"
    )
    servers(
        "--remote-token-ms", type=amount, default=1000 * REMOTE.generated_token_s, metavar="MS", help="(%(default)g)"
    )
    metrics = parser.add_argument_group("metrics").add_argument
    metrics("--interval", type=interval, metavar="SECONDS", help="between two queries (default: as in --config)")
    metrics("--scrape-interval", type=interval, default=15.0, metavar="SECONDS", help="of Prometheus (%(default)g)")
    metrics(
        "--signal", type=signal, action="append", default=[], metavar="NAME=MEANING",
        help=f"what a metric means that simulated servers do not know: {', '.join(Signal)}",
    )  # fmt: skip
    prices = parser.add_argument_group("prices", "AMOUNT/h of having it, or AMOUNT/1k tokens, or READ:WRITTEN/1k")
    prices.add_argument("--price-local", type=price, metavar="PRICE", help="of all local replicas together")
    prices.add_argument("--price-remote", type=price, metavar="PRICE", help="of all remotes together")
    add("--seed", type=int, default=1, help="of the gateways' dice (%(default)s)")
    add("--plot", type=picture, metavar="FILE", help=f"draw it: {', '.join(PICTURES)}")
    add("--output", choices=("table", "json"), default="table", help="(default: %(default)s)")


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return value

    return parse


amount = _number(0.0, 3600.0)
factor = _number(0.001, 1000.0)
interval = _number(INTERVAL_MIN_S, 3600.0)


def count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 10000")
    return int(text)


def gateways(text: str) -> tuple[float, ...]:
    """How many, or the part of each: '4' is '1:1:1:1'."""
    if ":" not in text:
        return (1.0,) * count(text)
    return tuple(factor(part) for part in text.split(":"))


def signal(text: str) -> tuple[str, Signal]:
    name, _, meaning = text.rpartition("=")
    if not name or meaning not in list(Signal):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MEANING, with one of {', '.join(Signal)}")
    return name, Signal(meaning)


def price(text: str) -> Price:
    found = _PRICE.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        first, hour, second, _ = found.groups()
        return Price(hour=float(first)) if hour else Price(0.0, float(first), float(second or first))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price: 4/h, 0.002/1k or 0.0005:0.0015/1k") from None


def picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {', '.join(PICTURES)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    return path
