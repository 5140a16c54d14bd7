"""Simulated rollouts for benchmarks/verdict.py: what both releases answer, second by second, from a seed.

A world has users with a bucket each, so that the same user always meets the same release; some of them are busy, some
fail again and again whoever answers. Instances stall now and then, so that slow answers come in bursts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gapless.core.model import HISTOGRAM_BOUNDS_S, Window

BOUNDS = np.array(HISTOGRAM_BOUNDS_S)
SLOW_SHARE = 0.05
"""Of the answers, at least so many of the slowest are told with their user."""
TYPICAL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One kind of traffic. Rates are shares (0…1) of requests, or requests per second."""

    per_s: float
    base: float
    """Error rate of the stable release."""
    canary: float | None = None
    """Of the canary; None: as good."""
    slower: float = 1.0
    """How many times the canary's latency is the stable release's."""
    share: float = 0.05
    seconds: int = 1_800
    sticky: bool = False
    """Users come again and again, unequally often, and 2 % of them have most of the errors."""
    bursts: bool = False
    """Ten times the requests for three seconds, about twice a minute."""
    incidents: bool = False
    """A quarter of all requests fails for half a minute, wherever they go, three times."""
    waves: bool = False
    """A day in half an hour: requests between a fifth and nine fifths, errors three times as many at the top."""
    breaks_at: int = 0
    """The second in which the canary's harm begins."""


@dataclass(slots=True)
class Second:
    """What both releases answered in it, and how many different users the canary has met until its end."""

    canary: Window
    stable: Window
    met: int


def play(world: World, seed: int) -> Iterator[Second]:
    """Block by block, so that a rollout that is soon rolled back costs little."""
    dice = np.random.default_rng(seed)
    users = _Users(world, dice)
    shape = _shape(world, dice)
    met: set[int] = set()
    for begin in range(0, world.seconds, 60):
        yield from _block(world, users, shape, begin, met, dice)


class _Users:
    def __init__(self, world: World, dice: np.random.Generator) -> None:
        count = max(int(world.per_s * 20), 50) if world.sticky else 1_000_000
        self.count = count
        self.mine = dice.random(count) < world.share
        self.weights: np.ndarray | None = None
        self.failing = np.ones(1)
        if world.sticky:
            activity = dice.lognormal(0.0, 1.0, count)
            self.weights = np.cumsum(activity / activity.sum())
            self.failing = np.where(dice.random(count) < 0.02, 25.0, 0.51)  # 1 on average

    def draw(self, count: int, dice: np.random.Generator) -> np.ndarray:
        if self.weights is None:
            return dice.integers(0, self.count, count)
        return np.minimum(np.searchsorted(self.weights, dice.random(count)), self.count - 1)

    def proneness(self, users: np.ndarray) -> np.ndarray | float:
        return self.failing[users] if self.weights is not None else 1.0


def _shape(world: World, dice: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Requests per second, and what is added to the error rate of both, second by second."""
    at = np.arange(world.seconds)
    load = np.full(world.seconds, float(world.per_s))
    errors = np.full(world.seconds, world.base)
    if world.waves:
        wave = np.sin(2 * np.pi * (at / 1_800 + dice.random()))
        load *= 1 + 0.8 * wave
        errors *= 2 + wave
    if world.bursts:
        for start in np.flatnonzero(dice.random(world.seconds) < 1 / 30):
            load[start : start + 3] = 10 * world.per_s
    if world.incidents:
        for start in dice.integers(0, world.seconds, 3):
            errors[start : start + 30] = 0.25
    return load, errors


def _block(
    world: World,
    users: _Users,
    shape: tuple[np.ndarray, np.ndarray],
    begin: int,
    met: set[int],
    dice: np.random.Generator,
) -> Iterator[Second]:
    load, errors = shape[0][begin : begin + 60], shape[1][begin : begin + 60]
    counts = dice.poisson(load)
    second = np.repeat(np.arange(len(load)), counts)
    asked = users.draw(len(second), dice)
    mine = users.mine[asked]
    rate = errors[second] * users.proneness(asked)
    harmed = mine & (second + begin >= world.breaks_at)
    if world.canary is not None:
        rate = np.where(harmed, np.maximum(rate, world.canary), rate)
    failed = dice.random(len(second)) < rate
    took_s = _latencies(world, second, mine, harmed, dice)
    edges = np.concatenate([[0], np.cumsum(counts)])
    slow_s = np.quantile(took_s, 1 - SLOW_SHARE) if len(took_s) else 0.0
    for at in range(len(load)):
        part = slice(edges[at], edges[at + 1])
        met.update(asked[part][mine[part]].tolist())
        sides = [
            _window(asked[part][side], failed[part][side], took_s[part][side], slow_s)
            for side in (mine[part], ~mine[part])
        ]
        yield Second(sides[0], sides[1], len(met))


def _latencies(
    world: World, second: np.ndarray, mine: np.ndarray, harmed: np.ndarray, dice: np.random.Generator
) -> np.ndarray:
    """Around 20 ms. One instance of the canary and two of the stable release each stall about once a minute: who comes
    then waits for the rest of the stall."""
    took_s = TYPICAL_S * np.exp(dice.normal(0, 0.5, len(second)))
    took_s = np.where(harmed, took_s * world.slower, took_s)
    instance = np.where(mine, 0, 1 + dice.integers(0, 2, len(second)))
    stall_s = np.where(dice.random((3, 60)) < 1 / 60, dice.uniform(0.1, 0.5, (3, 60)), 0.0)
    return took_s + np.maximum(stall_s[instance, second] - dice.random(len(second)), 0.0)


def _window(users: np.ndarray, failed: np.ndarray, took_s: np.ndarray, slow_s: float) -> Window:
    slow = took_s > slow_s
    return Window(
        requests=len(users),
        errors=int(failed.sum()),
        failed=tuple(f"u{user}" for user in users[failed].tolist()),
        latency=tuple(np.bincount(np.searchsorted(BOUNDS, took_s), minlength=len(BOUNDS) + 1).tolist()),
        tail=tuple((f"u{user}", took) for user, took in zip(users[slow].tolist(), took_s[slow].tolist(), strict=True)),
    )
