"""The states as the documentation shows them."""

from __future__ import annotations

from pathlib import Path

from controller.diagram import MOVES, STAYS, state_diagram
from controller.offload import Reason, State

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"


def test_the_diagram_shows_every_state_move_and_reason() -> None:
    diagram = state_diagram()

    assert diagram.startswith("stateDiagram-v2\n    [*] --> Standby\n")
    assert all(f"    {before} --> {after}: " in diagram for before, after in MOVES)
    assert set(STAYS) == set(State)
    assert {reason for reasons in [*MOVES.values(), *STAYS.values()] for reason in reasons} == set(Reason)


def test_the_architecture_page_shows_the_diagram_of_the_code() -> None:
    page = ARCHITECTURE.read_text()
    shown = page.partition("<!-- state-diagram -->\n")[2].partition("<!-- /state-diagram -->")[0]

    assert shown == f"```mermaid\n{state_diagram()}```\n"
