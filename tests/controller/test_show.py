"""The status as a table, and the command line's own errors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from controller.__main__ import address, main
from controller.show import show_status
from controller.status import report
from tests.controller.test_engine import deliver, with_oauth, world
from tests.controller.world import World
from xds import events as gateway_events

GATEWAY = {
    "gateway": "envoy-1",
    "version": "1.40.0",
    "types": [{"type": "RouteConfiguration", "subscribed": 3, "state": "ACK", "error": ""}],
}


def shown(found: World, **more: Any) -> str:
    models = report(found.engine.records, found.engine.refused.values(), found.engine.vault, ["envoy-1"], found.now)
    status = {"now_s": found.now, "models": models, "gateways": [GATEWAY], "problems": [], **more}
    return show_status(json.loads(json.dumps(status)))


def test_a_model_is_one_line_with_its_share_metric_and_remotes() -> None:
    found = world(behavior={"percentage": 50}).read(15, times=7)
    line = next(line for line in shown(found).splitlines() if line.startswith("default/llama "))
    for word in ("Overflowing", "50 %", "ThresholdReached", "queue_length 15/10", "remote ready"):
        assert word in line


def test_a_share_that_is_held_back_shows_both() -> None:
    text = shown(with_oauth(behavior={"percentage": 50}).read(15, times=7))
    assert "0 % (of 50 %)" in text
    assert "No remote can take requests" in text
    assert "RemoteReady=False (NotReady)" in text


def test_the_time_that_a_token_has_left_is_shown_and_never_the_token() -> None:
    found = with_oauth()
    deliver(found, expires_in_s=90)
    assert "remote ready (token for 90 s)" in shown(found)
    assert "token-value" not in shown(found)


def test_what_is_as_it_should_be_is_not_repeated() -> None:
    found = world().read(1)
    found.give(gateway_events.GatewayConnected("envoy-1", "1.40.0"))
    found.give(gateway_events.Programmed("envoy-1", frozenset({"default/llama"})))
    assert "Programmed" not in shown(found)


def test_no_gateway_is_said() -> None:
    assert "No gateway is connected." in shown(world(), gateways=[])


def test_limits_that_gateways_lend_each_other_are_listed() -> None:
    leased = {"default/llama": {"east": 7, "west": 1}}
    assert "Limits of default/llama: east 7, west 1" in shown(world(), leased_limits=leased).splitlines()


def test_problems_of_manifests_are_listed() -> None:
    problem = {"source": "a.yaml:3", "kind": "", "name": "", "field": "spec.model", "reason": "is required"}
    assert "a.yaml:3: spec.model: is required" in shown(world(), problems=[problem])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), (":8080", ("0.0.0.0", 8080))],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:70000"])
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        address(text)


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("spillway 0.")


def test_a_missing_directory_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing")
    assert main(["validate", missing]) == 1
    assert missing in capsys.readouterr().err


def test_a_missing_config_file_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "config.yaml")
    assert main(["validate", str(tmp_path), "--config", missing]) == 1
    assert f"spillway: {missing}: No such file or directory\n" in capsys.readouterr().err


def test_a_controller_that_does_not_answer_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--admin", "127.0.0.1:1"]) == 1
    assert "no controller answers at 127.0.0.1:1: Connection refused; its address" in capsys.readouterr().err


def test_a_wrong_call_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == 2
    assert "usage: spillway run" in capsys.readouterr().err
