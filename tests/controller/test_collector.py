"""What is loaded at rest is looked for no more, and the rest seldom."""

import gc
from collections.abc import Iterator

import pytest

from controller import collector


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_made_at_rest_is_looked_for_neither_then_nor_later() -> None:
    before = gc.get_freeze_count()
    with collector.at_rest():
        assert not gc.isenabled()
        kept = [[number] for number in range(1_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)
    assert gc.get_threshold() == collector.THRESHOLDS


def test_the_collector_works_again_after_a_failure() -> None:
    with pytest.raises(ValueError, match="bad manifest"), collector.at_rest():
        raise ValueError("bad manifest")
    assert gc.isenabled()
