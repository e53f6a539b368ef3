"""Logs and metrics: structured, complete, and without secrets."""

from __future__ import annotations

import json
import logging

import pytest
from prometheus_client import generate_latest

from controller.telemetry import JsonFormatter, Telemetry, TextFormatter, configure_logging
from tests.controller.test_engine import with_oauth, world


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord("spillway", logging.WARNING, "file", 1, "the %s moved", ("share",), None)
    made.__dict__.update(extra)
    return made


def test_a_json_line_holds_the_message_and_the_fields() -> None:
    line = json.loads(JsonFormatter().format(record(model="default/llama", reason="Returned")))
    assert line["level"] == "warning"
    assert line["message"] == "the share moved"
    assert (line["model"], line["reason"]) == ("default/llama", "Returned")
    assert line["time"].endswith("Z")


def test_a_text_line_holds_the_same() -> None:
    assert TextFormatter().format(record(model="m")).endswith("warning the share moved  model=m")


def test_the_level_is_respected(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure_logging("warning", "json")
        logging.getLogger("spillway").info("quiet")
        logging.getLogger("spillway").warning("loud")
    finally:
        logging.getLogger().handlers[:], level = before
        logging.getLogger().setLevel(level)
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["loud"]


def test_gauges_show_what_the_engine_knows() -> None:
    found = world(behavior={"percentage": 50}).read(15, times=7)
    telemetry = Telemetry()
    telemetry.watch(found.engine.records.values, lambda: 2)
    text = generate_latest(telemetry.registry).decode()
    assert 'spillway_share_ratio{model="default/llama"} 0.5' in text
    assert 'spillway_state{model="default/llama",state="Overflowing"} 1.0' in text
    assert 'spillway_state{model="default/llama",state="Standby"} 0.0' in text
    assert 'spillway_metric_ratio{metric="queue_length",model="default/llama"} 1.5' in text
    assert 'spillway_remote_ready{model="default/llama",remote="remote"} 1.0' in text
    assert "spillway_xds_streams 2.0" in text


def test_no_secret_reaches_a_metric() -> None:
    found = with_oauth()
    telemetry = Telemetry()
    telemetry.watch(found.engine.records.values, lambda: 0)
    assert "s3cret" not in generate_latest(telemetry.registry).decode()
