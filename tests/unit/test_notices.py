"""Notices: what they say, who hears them, and that none is lost and none comes twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.control.notify.send_http import outcome, retry_after_s
from gapless.core.model import Change
from gapless.core.model.alert import Severity
from gapless.core.model.notice import Channel, ChannelState, Notice, NotifyPolicy, NotifyRoute, Topic
from gapless.observe.notice_queue import (
    GROUPED_FOR_S,
    LAST_RETRY_S,
    Attempt,
    after,
    delay_s,
    next_batch,
    overdue,
    upcoming,
    waits,
    wanted,
)
from gapless.observe.notice_sign import signature, verified
from gapless.observe.notice_words import as_json, as_mail, as_slack, told_of_change, told_of_notice

OPS = Channel(name="ops", webhook="http://x")
ALL = NotifyPolicy(channels=(OPS,))
TEXTS = st.text(max_size=40)


def change(number: int, at: float = 100.0, what: str = "scale web from 2 to 3 instances") -> Change:
    return Change(number=number, at=at, who="ann", what=what, service="web", why="sale")


def notice(number: int, at: float = 100.0, **more: Any) -> Notice:
    given: dict[str, Any] = {"topic": Topic.ALERTS, "title": "web: 2 % errors", "service": "web", "state": "firing"}
    return Notice(**{"number": number, "at": at, "severity": Severity.P1, **given, **more})


# Signature.


@given(st.text(min_size=1), st.binary(), st.integers(0, 2**40))
def test_a_signature_is_verified_by_who_knows_the_secret_and_only_while_it_is_new(
    secret: str, body: bytes, at: int
) -> None:
    header = signature(secret, body, at + 0.7)
    assert verified(secret, body, header, at + 10)
    assert not verified(secret, body, header, at + 301)
    assert not verified(secret + "x", body, header, at)
    assert not verified(secret, body + b"x", header, at)


@given(st.text())
def test_nonsense_is_no_signature(header: str) -> None:
    assert not verified("s", b"b", header, 100.0)


# Words.


@given(TEXTS, TEXTS)
def test_no_text_breaks_a_header_or_slacks_markup(title: str, why: str) -> None:
    told = told_of_change(replace(change(1, what=title), why=why), "shop")
    subject, _ = as_mail(told)
    assert subject.isprintable() or not any(sign in subject for sign in "\r\n")
    block = as_slack(told)["blocks"][0]["text"]["text"]
    assert "<" not in block
    assert as_json(told)["title"] == title


def test_what_a_rollout_is() -> None:
    texts = {
        "deploy web 2": Topic.ROLLOUTS,
        "rollout 3 of web: 5 % of the users to 2": Topic.ROLLOUTS,
        "abort rollout 3 of web (1 → 2)": Topic.ROLLOUTS,
        "roll web back to 1": Topic.ROLLOUTS,
        "scale web from 2 to 3 instances": Topic.CHANGES,
        "configuration of web, revision 3: price: 1 → 2": Topic.CHANGES,
    }
    assert {what: told_of_change(change(1, what=what), "shop").topic for what in texts} == texts


# Routing.


@pytest.mark.parametrize(
    ("route", "hears"),
    [
        ({}, True),
        ({"to": ("other",)}, False),
        ({"what": (Topic.ALERTS, Topic.CHANGES)}, True),
        ({"what": (Topic.INCIDENTS,)}, False),
        ({"services": ("web",)}, True),
        ({"services": ("shop",)}, False),
        ({"severity": (Severity.P0,)}, False),
        ({"severity": (Severity.P0, Severity.P1)}, True),
        ({"labels": {"team": "a"}}, True),
        ({"labels": {"team": "b"}}, False),
    ],
)
def test_a_route_is_for_what_it_says(route: dict[str, Any], hears: bool) -> None:
    policy = replace(ALL, routes=(NotifyRoute(**{"to": ("ops",), **route}),))
    assert wanted(policy, "ops", told_of_notice(notice(1, labels={"team": "a"}), "shop")) is hears


def test_severity_and_labels_keep_no_change_back() -> None:
    policy = replace(ALL, routes=(NotifyRoute(to=("ops",), severity=(Severity.P0,), labels={"team": "a"}),))
    assert wanted(policy, "ops", told_of_change(change(1), "shop"))


# The queue.


def test_alerts_of_a_service_that_come_together_are_one_message_a_p0_waits_for_nobody() -> None:
    rows = upcoming(ChannelState(name="ops"), [], [notice(1, 100.0), notice(2, 102.0), notice(3, 103.0)], "shop")
    assert next_batch(ALL, OPS, rows, 104.0) is None
    batch = next_batch(ALL, OPS, rows, 100.0 + GROUPED_FOR_S)
    assert batch
    assert (len(batch.told), batch.notice, batch.message.title) == (3, 3, "3 alerts of web firing")
    urgent = upcoming(ChannelState(name="ops"), [], [notice(1, 100.0, severity=Severity.P0)], "shop")
    assert next_batch(ALL, OPS, urgent, 100.0)
    mixed = upcoming(ChannelState(name="ops"), [], [notice(1, 100.0), notice(2, 101.0, state="resolved")], "shop")
    batch = next_batch(ALL, OPS, mixed, 110.0)
    assert batch
    assert batch.notice == 1


def test_a_failure_is_tried_again_and_then_a_dead_letter_and_the_next_one_has_its_turn() -> None:
    state, now_at, tries = ChannelState(name="ops"), 100.0, 0
    changes = [change(1), change(2, at=5_000.0)]
    while state.change == 0:
        batch = next_batch(ALL, OPS, upcoming(state, changes, [], "shop"), now_at)
        assert batch
        assert batch.message.id == "shop-change-1"
        state = after(state, OPS, batch, Attempt(ok=False, error="refused"), now_at, lambda: 0.5)
        tries += 1
        assert waits(state, now_at) == (state.change == 0)
        now_at = state.next_at
    assert 10 < tries < 60
    assert (state.died, state.dead[0].id, state.dead[0].attempts) == (1, "shop-change-1", tries)
    batch = next_batch(ALL, OPS, upcoming(state, changes, [], "shop"), 5_000.0)
    assert batch
    assert batch.message.id == "shop-change-2"


def test_what_a_receiver_will_never_take_is_not_tried_again() -> None:
    batch = next_batch(ALL, OPS, upcoming(ChannelState(name="ops"), [change(1)], [], "shop"), 100.0)
    assert batch
    state = after(ChannelState(name="ops"), OPS, batch, Attempt(ok=False, final=True), 100.0, lambda: 0.0)
    assert (state.died, state.change) == (1, 1)
    assert overdue(OPS, batch, 100.0 + 3601)


EVENTS = st.lists(st.tuples(st.booleans(), st.floats(0, 50), st.booleans()), max_size=25)


@given(EVENTS, st.lists(st.sampled_from(["ok", "fail", "lost"]), max_size=120))
def test_each_is_delivered_and_only_one_whose_record_was_lost_comes_again_with_the_same_id(
    events: list[tuple[bool, float, bool]], fates: list[str]
) -> None:
    """`lost`: it was delivered, and the control plane was killed before it could say so."""
    policy = replace(ALL, routes=(NotifyRoute(to=("ops",), services=("web",)),))
    changes, notices = [], []
    for is_change, at, ours in events:
        service = "web" if ours else "other"
        if is_change:
            changes.append(replace(change(len(changes) + 1, at), service=service))
        else:
            notices.append(notice(len(notices) + 1, at, service=service))
    state, now_at, sent, doubled = ChannelState(name="ops"), 60.0, [], 0
    for fate in [*fates, *["ok"] * 100]:
        now_at = max(now_at + 1, state.next_at)
        batch = next_batch(policy, OPS, upcoming(state, changes[state.change :], notices[state.notice :], "s"), now_at)
        if batch is None:
            break
        if batch.told and fate != "fail":
            sent += [told.id for told in batch.told]
        if batch.told and fate == "lost":
            doubled += len(batch.told)
            continue
        state = after(state, replace(OPS, deadline_s=1e9), batch, Attempt(ok=fate != "fail"), now_at, lambda: 0.5)
    expected = {f"s-change-{c.number}" for c in changes if c.service == "web"}
    expected |= {f"s-notice-{n.number}-{n.at:.0f}" for n in notices if n.service == "web"}
    assert set(sent) == expected
    assert len(sent) == len(expected) + doubled


@given(st.integers(1, 10_000), st.floats(0, 1e9), st.floats(0, 1))
def test_pauses_grow_have_an_end_and_respect_what_was_asked(attempts: int, asked_s: float, die: float) -> None:
    pause_s = delay_s(attempts, asked_s, die)
    assert min(asked_s, 1.0) <= pause_s + 0.5 + 1e-9
    assert pause_s <= 10 * LAST_RETRY_S
    assert pause_s >= min(asked_s, 10 * LAST_RETRY_S)


def test_a_clock_that_was_put_back_does_not_silence_a_channel() -> None:
    assert waits(ChannelState(name="x", next_at=200.0), 199.0)
    assert not waits(ChannelState(name="x", next_at=1e9), 199.0)


# Answers.


@pytest.mark.parametrize(
    ("status", "ok", "final"),
    [
        (200, True, False),
        (204, True, False),
        (302, False, True),
        (404, False, True),
        (429, False, False),
        (503, False, False),
    ],
)
def test_what_an_answer_means(status: int, ok: bool, final: bool) -> None:
    attempt = outcome(status, "7", "body", 100.0)
    assert (attempt.ok, attempt.final) == (ok, final)
    assert ok or attempt.after_s == 7.0


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("120", 0.0) == 120.0
    assert retry_after_s("Thu, 01 Jan 1970 00:01:40 GMT", 40.0) == 60.0
    assert [retry_after_s(value, 0.0) for value in ("", "soon", "-5", "²")] == [0.0] * 4
