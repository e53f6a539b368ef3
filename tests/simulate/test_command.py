"""`spillway simulate`, as it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.__main__ import main
from controller.simulate.flags import price
from controller.simulate.score import Price
from controller.simulate.trace import bursty, save

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMITED = EXAMPLES / "concurrency-limit"


@pytest.fixture
def load(tmp_path: Path) -> Path:
    path = tmp_path / "load.csv"
    path.write_text(save(bursty(1, 300, 6.0)))
    return path


def call(load: Path, policy: Path, *flags: str) -> int:
    return main(["simulate", "--trace", str(load), "--policy", str(policy), *flags])


def scores(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["scores"]
    return found


def test_it_shows_what_would_have_happened(load: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(load, LIMITED, "--price-local", "4/h", "--price-remote", "0.0005:0.0015/1k") == 0

    shown = capsys.readouterr().out
    assert "Local: 2 x 16 slots" in shown
    for label in (
        "first byte within 2 s",
        "went remote, of requests",
        "cost",
        "arrivals",
        "share decided",
        "all local",
    ):
        assert label in shown


def test_a_limit_keeps_the_wait_short_and_costs_what_leaves(load: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(load, LIMITED, "--output", "json", "--price-remote", "1/1k") == 0

    found = scores(capsys)
    assert found["default/llama"]["slo_attainment"] > found["all local"]["slo_attainment"] + 0.1
    assert found["default/llama"]["cost"] > found["all local"]["cost"] == 0


def test_the_same_call_gives_the_same_answer(load: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--output", "json", "--gateways", "3:1", "--seed", "5")
    assert call(load, LIMITED, *flags) == call(load, LIMITED, *flags) == 0

    half = len(text := capsys.readouterr().out) // 2
    assert text[:half] == text[half:]


def test_a_denser_load_sends_more_away(load: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shares = []
    for speed in ("0.5", "1", "2"):
        call(load, LIMITED / "model.yaml", "--replicas", "2", "--speed", speed, "--output", "json")
        shares.append(scores(capsys)["default/llama"]["remote_share"])

    assert shares == sorted(set(shares))


@pytest.mark.parametrize("example", ["concurrency-limit", "oauth", "php-apache"])
def test_every_example_can_be_simulated(example: str, load: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EXAMPLES / example / "config.yaml"
    flags = ("--config", str(config)) if config.exists() else ()

    assert call(load, EXAMPLES / example, "--slots", "16", *flags) == 0
    assert ("stays unknown" in capsys.readouterr().err) == (example == "php-apache")


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_it_draws(name: str, load: Path, tmp_path: Path) -> None:
    assert call(load, LIMITED, "--plot", str(tmp_path / name)) == 0
    assert (tmp_path / name).stat().st_size > 10_000


def test_without_matplotlib_it_says_what_is_missing(
    load: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.simulate.app.find_spec", lambda name: None)

    assert call(load, LIMITED, "--plot", str(tmp_path / "plot.png")) == 2
    assert "install Spillway with its extra 'demo'" in capsys.readouterr().err


def test_what_is_wrong_is_named_with_its_place(load: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "model.yaml"
    text = (LIMITED / "model.yaml").read_text()
    cases = {
        "model.yaml:40: ModelDeployment default/llama: spec.offloadingConfig.metrics[0].pods.target": text.replace(
            'averageValue: "2"', 'averageValue: "-2"'
        ),
        "metrics[0]: a simulated server has no my_queue": text.replace("vllm:num_requests_waiting", "my_queue"),
        "must hold one ModelDeployment; found: none": "",
        "--slots: is needed": text.replace("localLimit", "other"),
    }
    for words, content in cases.items():
        policy.write_text(content)
        assert call(load, policy) == 2
        assert words in capsys.readouterr().err


def test_files_that_cannot_be_read_are_named(load: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, wrong, long = tmp_path / "missing", tmp_path / "wrong.csv", tmp_path / "long.csv"
    wrong.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,many,1\n")
    long.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,1,1\n2025-01-01 00:00:00,1,1\n")
    for trace, policy, words in (
        (missing, LIMITED, f"--trace {missing}: No such file"),
        (wrong, LIMITED, "line 2: ContextTokens: 'many'"),
        (long, LIMITED, "at most 604,800 s"),
        (load, missing, f"--policy {missing}: No such file"),
    ):
        assert call(trace, policy) == 2
        assert words in capsys.readouterr().err
    assert call(load, LIMITED, "--config", str(missing)) == 2


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--slots", "0"),
        ("--replicas", "many"),
        ("--gateways", "0"),
        ("--gateways", "1:-1"),
        ("--speed", "0"),
        ("--speed", "nan"),
        ("--interval", "0.01"),
        ("--signal", "x=heat"),
        ("--signal", "running"),
        ("--price-local", "cheap"),
        ("--price-local", "1.2.3/h"),
        ("--price-remote", "1"),
        ("--plot", "plot.gif"),
        ("--plot", "no/such/directory/plot.png"),
    ],
)
def test_a_value_that_a_flag_cannot_have_is_named(
    flag: str, value: str, load: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(load, LIMITED, flag, value)

    assert stopped.value.code == 2
    assert f"argument {flag}: " in capsys.readouterr().err


def test_prices_are_of_time_or_of_tokens() -> None:
    assert price("4/h") == Price(hour=4)
    assert price("0.002/1k") == Price(context_1k=0.002, generated_1k=0.002)
    assert price("0.5:1.5/1k") == Price(context_1k=0.5, generated_1k=1.5)
