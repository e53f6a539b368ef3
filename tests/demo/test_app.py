"""The command's own behaviour around a run."""

import argparse
import asyncio
import os
import signal
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from controller.demo import app
from controller.demo.children import ChildError
from controller.demo.flags import add_arguments


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_picture_goes_to_the_current_directory_unless_told() -> None:
    assert options().output == Path("spillway-demo.png")
    assert options("--short", "--output", "x/y.png").output == Path("x/y.png")


def test_a_missing_package_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(name: str) -> ModuleSpec | None:
        return None if name in ("trustme", "flask") else ModuleSpec(name, None)

    monkeypatch.setattr(app, "find_spec", found)

    assert app.run_demo(options()) == 1
    assert "(flask, trustme): install Spillway with its extra 'demo'" in capsys.readouterr().err


def test_a_place_where_no_picture_can_be_is_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run_demo(options("--output", str(tmp_path / "missing" / "x.png"))) == 1
    assert "there is no directory" in capsys.readouterr().err


def test_what_ended_a_run_early_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def failing(*_: object) -> None:
        raise ChildError("the controller ended with status 1: no")

    monkeypatch.setattr(app, "run", failing)

    assert app.run_demo(options()) == 1
    assert capsys.readouterr().err == "spillway demo: the controller ended with status 1: no\n"


def test_a_signal_cancels_the_run_which_cleans_up_undisturbed_by_a_second_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned: list[bool] = []

    async def running(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.05)
            cleaned.append(True)

    monkeypatch.setattr(app, "run", running)

    assert app.run_demo(options()) == 130
    assert cleaned == [True]
    assert "ended by SIGINT" in capsys.readouterr().err
