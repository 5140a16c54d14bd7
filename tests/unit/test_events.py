"""Hooks hear every event, and cannot spoil it for each other."""

from __future__ import annotations

import logging

import pytest

from gapless.core.events import Event, Events, GatewayRefused, StageEnded


def test_every_hook_hears_every_event_in_order() -> None:
    first: list[Event] = []
    second: list[Event] = []
    events = Events([first.append, second.append])
    told = [GatewayRefused(text="no"), StageEnded(name="start", took_s=1.0)]
    for event in told:
        events(event)
    assert first == second == told


def test_a_failing_hook_is_logged_and_the_others_hear(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("hook is broken")

    events = Events([broken, heard.append])
    with caplog.at_level(logging.ERROR, "gapless.events"):
        events(GatewayRefused(text="no"))
    assert heard == [GatewayRefused(text="no")]
    assert "hook is broken" in caplog.text
    assert "GatewayRefused(text='no')" in caplog.text


def test_what_ends_the_process_is_not_held_back() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Events([interrupted])(GatewayRefused(text="no"))
