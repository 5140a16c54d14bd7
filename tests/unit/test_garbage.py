"""What is kept is not looked at again, and what requests leave behind still is."""

from __future__ import annotations

import gc
import weakref

import pytest

from gapless.core.garbage import THRESHOLDS, calm


class Ring:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def thresholds():  # type: ignore[no-untyped-def]
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_what_is_here_stays_and_new_cycles_go(thresholds: None) -> None:
    calm()
    assert gc.get_threshold() == THRESHOLDS
    assert gc.get_freeze_count() > 1_000
    ring = weakref.ref(Ring())
    made = [[] for _ in range(2 * THRESHOLDS[0])]
    assert ring() is None, "the youngest were looked at on the way"
    del made
