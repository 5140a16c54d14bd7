"""What a channel is told next, and what follows from an attempt. Pure.

A channel is told one thing at a time, in order: so at most one notice is sent twice when the control plane is killed
between a delivery and its record, and that one has the same id. One that fails is tried again, ever more rarely, until
it is older than the channel's deadline; then it is a dead letter, and the next one's turn has come.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gapless.core.model import Change
from gapless.core.model.alert import Severity
from gapless.core.model.notice import Channel, ChannelState, DeadLetter, Notice, NotifyPolicy, NotifyRoute, Topic
from gapless.observe.notice_words import Told, together, told_of_change, told_of_notice

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 300.0
GROUPED_FOR_S = 5.0
"""Alerts of one service that come so shortly after each other are one message; a P0 waits for nobody."""
MOST_TOGETHER = 20
DEAD_KEPT = 50
LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is sent as one message, and where the cursors stand when that is done. No `told`: nothing to send, only the
    cursors move (nobody asked for these)."""

    told: tuple[Told, ...]
    change: int
    notice: int

    @property
    def message(self) -> Told:
        return together(self.told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How it went. `after_s`: the receiver asked to be left alone for so long; `final`: it will never take it."""

    ok: bool
    error: str = ""
    after_s: float = 0.0
    final: bool = False


def wanted(policy: NotifyPolicy, channel: str, told: Told) -> bool:
    """Whether a channel hears of it."""
    if not policy.routes:
        return True
    return any(channel in route.to and _fits(route, told) for route in policy.routes)


def _fits(route: NotifyRoute, told: Told) -> bool:
    if route.what and told.topic not in route.what:
        return False
    if route.services and told.service not in route.services:
        return False
    if route.severity and told.severity is not None and told.severity not in route.severity:
        return False
    if route.labels and told.topic is Topic.ALERTS:
        return all(told.labels.get(name) == value for name, value in route.labels.items())
    return True


def first_state(name: str, change: int, notice: int) -> ChannelState:
    """Of a channel that is new: what was before it is not its business."""
    return ChannelState(name=name, change=change, notice=notice)


def upcoming(
    state: ChannelState, changes: Iterable[Change], notices: Iterable[Notice], system: str
) -> list[tuple[Told, int, int]]:
    """What comes after the cursors, each with the cursors behind it. By time, and of each log in the order of its
    numbers, also when the clock was put back in between."""
    logs: list[list[Change | Notice]] = [
        sorted((each for each in changes if each.number > state.change), key=_number),
        sorted((each for each in notices if each.number > state.notice), key=_number),
    ]
    change, notice, rows = state.change, state.notice, []
    for each in heapq.merge(*logs, key=lambda each: each.at):
        if isinstance(each, Change):
            change, told = each.number, told_of_change(each, system)
        else:
            notice, told = each.number, told_of_notice(each, system)
        rows.append((told, change, notice))
    return rows


def _number(each: Change | Notice) -> int:
    return each.number


def next_batch(
    policy: NotifyPolicy, channel: Channel, rows: Sequence[tuple[Told, int, int]], now_at: float
) -> Batch | None:
    """What to send now; None: nothing, or not yet."""
    skipped: Batch | None = None
    for place, (told, change, notice) in enumerate(rows):
        if wanted(policy, channel.name, told):
            return _grouped(policy, channel, rows[place:], now_at) or skipped
        skipped = Batch(told=(), change=change, notice=notice)
    return skipped


def _grouped(
    policy: NotifyPolicy, channel: Channel, rows: Sequence[tuple[Told, int, int]], now_at: float
) -> Batch | None:
    """The first, and those right behind it that belong to it."""
    first, change, notice = rows[0]
    group = [first]
    if first.topic is Topic.ALERTS:
        for told, later_change, later_notice in rows[1:MOST_TOGETHER]:
            if not _together(first, told) or not wanted(policy, channel.name, told):
                break
            group.append(told)
            change, notice = later_change, later_notice
        urgent = any(told.severity is Severity.P0 for told in group)
        if not urgent and 0 <= now_at - first.at < GROUPED_FOR_S:
            return None
    return Batch(told=tuple(group), change=change, notice=notice)


def _together(one: Told, other: Told) -> bool:
    same = (one.topic, one.service, one.state) == (other.topic, other.service, other.state)
    return same and abs(other.at - one.at) <= GROUPED_FOR_S


def overdue(channel: Channel, batch: Batch, now_at: float) -> bool:
    """Too old to be worth telling."""
    return bool(batch.told) and now_at - batch.told[0].at > channel.deadline_s


def after(
    state: ChannelState, channel: Channel, batch: Batch, attempt: Attempt, now_at: float, dice: Callable[[], float]
) -> ChannelState:
    """The channel after an attempt, or after there was nothing to attempt."""
    moved = replace(state, change=batch.change, notice=batch.notice, attempts=0, next_at=0.0, error="")
    if not batch.told:
        return moved
    if attempt.ok:
        return replace(moved, delivered=state.delivered + len(batch.told), delivered_at=now_at)
    tried = replace(state, attempts=state.attempts + 1, error=attempt.error[:LONGEST_ERROR])
    wait_s = delay_s(tried.attempts, attempt.after_s, dice())
    if attempt.final or now_at + wait_s - batch.told[0].at > channel.deadline_s:
        return replace(moved, dead=(*state.dead, _dead(batch, tried))[-DEAD_KEPT:], died=state.died + len(batch.told))
    return replace(tried, next_at=now_at + wait_s)


def delay_s(attempts: int, asked_s: float, die: float) -> float:
    """An exponential with jitter (AWS, "Exponential backoff and jitter", 2015), never less than a half of it, so that a
    receiver that is down is not asked at once; and never less than it asked for."""
    most = min(FIRST_RETRY_S * 2.0 ** min(attempts - 1, 30), LAST_RETRY_S)
    return max(most * (0.5 + 0.5 * die), min(asked_s, 10 * LAST_RETRY_S))


def _dead(batch: Batch, tried: ChannelState) -> DeadLetter:
    message = batch.message
    return DeadLetter(id=message.id, title=message.title, at=message.at, error=tried.error, attempts=tried.attempts)


def waits(state: ChannelState, now_at: float) -> bool:
    """Whether the next attempt is still to come. A clock that was put back does not silence a channel for longer than
    the longest pause."""
    return 0 < state.next_at - now_at <= 10 * LAST_RETRY_S
