"""Shell: structured logs, and the controller's own metrics.

Gauges are read from the engine when they are scraped, so there is no second bookkeeping that could disagree with it;
only what passes (a decision, a token, a push) is counted as it happens.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from controller.offload import PPM, State
from controller.record import Record

ACK_SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message, and the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: the fields stand behind the message."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={v}" for k, v in record.__dict__.items() if k not in _STANDARD)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{clock} {record.levelname.lower():7} {record.getMessage()}  {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure_logging(level: str, style: str) -> None:
    """Logs to standard error. `style`: 'json' or 'text'."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each change, and so do we


class Telemetry:
    """The metrics of one controller, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = Counter(
            "spillway_decisions_total",
            "Changes of state, by model, new state and reason.",
            ["model", "state", "reason"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "spillway_token_requests_total",
            "Token requests, by credential and outcome.",
            ["credential", "outcome"],
            registry=self.registry,
        )
        self.pushes = Counter(
            "spillway_xds_pushes_total", "xDS responses sent, by type.", ["type"], registry=self.registry
        )
        self.nacks = Counter(
            "spillway_xds_nacks_total", "xDS responses refused, by type.", ["type"], registry=self.registry
        )
        self.ack_seconds = Histogram(
            "spillway_xds_ack_seconds",
            "From a push to its ACK or NACK.",
            registry=self.registry,
            buckets=ACK_SECONDS_BUCKETS,
        )

    def watch(self, records: Callable[[], Iterable[Record]], streams: Callable[[], int]) -> None:
        """Reads gauges from here when scraped."""
        self.registry.register(_Gauges(records, streams))


class _Gauges(Collector):
    def __init__(self, records: Callable[[], Iterable[Record]], streams: Callable[[], int]) -> None:
        self._records = records
        self._streams = streams

    def collect(self) -> Iterator[GaugeMetricFamily]:
        share = GaugeMetricFamily(
            "spillway_share_ratio", "Share of the requests that leaves, 0 to 1.", labels=["model"]
        )
        state = GaugeMetricFamily("spillway_state", "1 for the state a model is in.", labels=["model", "state"])
        ready = GaugeMetricFamily("spillway_local_ready_replicas", "Ready local replicas.", labels=["model"])
        remote = GaugeMetricFamily(
            "spillway_remote_ready", "Whether a remote may take traffic.", labels=["model", "remote"]
        )
        ratio = GaugeMetricFamily("spillway_metric_ratio", "Metric value over its target.", labels=["model", "metric"])
        age = GaugeMetricFamily(
            "spillway_metric_age_seconds", "Age of the last known sample.", labels=["model", "metric"]
        )
        now = time.time()
        for record in self._records():
            share.add_metric([record.key], record.decision.share_ppm / PPM)
            for each in State:
                state.add_metric([record.key, each], float(record.decision.state is each))
            if record.replicas is not None:
                ready.add_metric([record.key], record.replicas)
            for known in record.remotes:
                remote.add_metric([record.key, known.spec.name], float(known.ready))
            for gauge in record.gauges:
                if gauge.ratio is not None:
                    ratio.add_metric([record.key, gauge.name], gauge.ratio)
                    age.add_metric([record.key, gauge.name], now - gauge.at_s)
        streams = GaugeMetricFamily("spillway_xds_streams", "Open xDS streams.")
        streams.add_metric([], self._streams())
        yield from (share, state, ready, remote, ratio, age, streams)
