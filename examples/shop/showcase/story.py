"""The story in eight acts, told on a running system by its command line alone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from showcase import ledger, releases
from showcase.buyers import Buyers
from showcase.command import Failed, Gapless, Outcome
from showcase.releases import Made
from showcase.summary import Decision
from showcase.timeline import Event
from showcase.view import View

CALM_S = 1.5
"""Between two events: what one has stirred up must not be counted as the next one's `before`."""
HOLDS_LIMIT_S = 5.0
"""How long the moment is awaited in which an instance of payment has a payment half-way."""
LOG_LINES = 8
"""Of a refused release's log: its last words."""
REPLACED_LIMIT_S = 30.0
SETTLE_LIMIT_S = 20.0
PROMOTED, ROLLED_BACK = 0, 15
"""Exit statuses of `gapless deploy`."""


@dataclass(slots=True)
class Stage:
    """Everything on stage, and what has happened so far."""

    gapless: Gapless
    buyers: Buyers
    view: View
    work: Path
    events: list[Event] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    decision: Decision | None = None

    def surprise(self, text: str) -> None:
        self.surprises.append(text)
        self.view.say(f"NOT AS IT SHOULD BE: {text}")

    @contextmanager
    def event(self, name: str) -> Iterator[None]:
        """Requests that are under way meanwhile are counted for this event."""
        began_at = time.time()
        self.events.append(Event(name, began_at))
        try:
            yield
        finally:
            self.events[-1] = Event(name, began_at, time.time())


async def play(stage: Stage) -> None:
    """All acts. What goes wrong on the way is a surprise; only a system that does not come up ends the story."""
    await open_shop(stage)
    for act in ACTS:
        await asyncio.sleep(CALM_S)
        if not stage.buyers.running:
            raise Failed("the load client has ended by itself")
        try:
            await act(stage)
        except Failed as error:
            stage.surprise(str(error))
    await asyncio.sleep(CALM_S)
    await close_shop(stage)


async def open_shop(stage: Stage) -> None:
    stage.view.event("1  gapless up: two instances each of orders, inventory and payment, behind Envoy")
    said = await stage.gapless.up()
    for line in listeners(said):
        stage.view.say(line)
    stage.view.event("2  customers begin to buy, at a fixed rate, retrying nothing")
    await stage.buyers.start()


def listeners(said: dict[str, Any]) -> Iterator[str]:
    """What listens where, from what `gapless up` says when it is ready."""
    status = said["status"]
    yield f"gateway    http://{said['listen']}"
    for name, service in status["services"].items():
        for instance in service["instances"]:
            yield f"{name:<10} http://{instance['address']}  release {instance['release']}, pid {instance['pid']}"


async def good_release(stage: Stage) -> None:
    stage.view.event(f"3  orders {releases.GOOD.version}: {releases.GOOD.why}")
    with stage.event("good release"):
        expect(stage, await deploy(stage, releases.GOOD), PROMOTED, "the good release was not promoted")


async def bad_release(stage: Stage) -> None:
    stage.view.event(f"4  orders {releases.BAD.version}: {releases.BAD.why}")
    with stage.event("bad release"):
        expect(stage, await deploy(stage, releases.BAD), ROLLED_BACK, "the bad release was not rolled back")
        rollout = await stage.gapless.ask("rollout", "orders")
    seconds = rollout["decided_at"] - rollout["shifted_at"]
    stage.decision = Decision(seconds, rollout["reason"], rollout["users_met"])
    stage.view.say(f"decided {seconds:.1f} s after the first customer could meet it")


async def never_ready(stage: Stage) -> None:
    stage.view.event(f"5a orders {releases.NEVER_READY.version}: {releases.NEVER_READY.why}")
    with stage.event("never ready"):
        await refused(stage, releases.NEVER_READY)


async def crash(stage: Stage) -> None:
    stage.view.event(f"5b orders {releases.CRASH.version}: {releases.CRASH.why}")
    with stage.event("crash on import"):
        await refused(stage, releases.CRASH)


async def payment_killed(stage: Stage) -> None:
    stage.view.event("6a kill -9 for each instance of payment, one after the other")
    with stage.event("payment killed"):
        for instance in await instances(stage, "payment"):
            held = await holds(stage, instance["id"])
            kill_session(instance["pid"])
            stage.view.say(f"killed {instance['id']} (pid {instance['pid']}), with payments half-way: {held}")
            await replaced(stage, instance)
            await asyncio.sleep(1.0)


async def control_killed(stage: Stage) -> None:
    stage.view.event(f"6b kill -9 for the control plane while orders moves to {releases.BETTER.version}")
    with stage.event("control plane killed"):
        moving = asyncio.Event()
        rollout = asyncio.create_task(deploy(stage, releases.BETTER, moving))
        try:
            await first(moving.wait(), rollout)
            if rollout.done():
                stage.surprise("the rollout ended before the control plane could be killed")
            stage.view.say(f"killed the control plane (pid {await stage.gapless.kill()})")
            await asyncio.sleep(2.0)
            stage.view.say("starting it again")
            await stage.gapless.up()
            expect(stage, await rollout, PROMOTED, "the rollout did not go on to its end")
        finally:
            rollout.cancel()
            await asyncio.wait([rollout])


async def inventory_restarted(stage: Stage) -> None:
    stage.view.event("7  inventory is hot-restarted in place")
    with stage.event("inventory restarted"):
        outcome = await stage.gapless.run("reload", "inventory", each=stage.view.say)
        if outcome.code:
            stage.surprise(f"`gapless reload inventory` ended with {outcome.code}: {outcome.err or outcome.out}")


async def close_shop(stage: Stage) -> None:
    stage.view.event("8  the shop closes")
    await stage.buyers.stop()
    until = time.monotonic() + SETTLE_LIMIT_S
    while (left := ledger.unfinished(stage.gapless.state / "data")) and time.monotonic() < until:
        stage.view.rollout = f"{left} orders are being finished by the shop itself"
        await asyncio.sleep(0.5)
    await stage.gapless.down()
    stage.view.say("everything has ended")


ACTS: tuple[Callable[[Stage], Awaitable[None]], ...] = (
    good_release,
    bad_release,
    never_ready,
    crash,
    payment_killed,
    control_killed,
    inventory_restarted,
)


async def deploy(stage: Stage, made: Made, moving: asyncio.Event | None = None) -> Outcome:
    """`gapless deploy`, watched; `moving` is set when the first customers are moved."""

    def each(line: str) -> None:
        stage.view.move(line)
        if moving is not None and "% of users" in line:
            moving.set()

    source = await asyncio.to_thread(releases.build, made, stage.work)
    words = ("deploy", "orders", "--release", made.version, "--from", str(source), "--why", made.why)
    return await stage.gapless.run(*words, each=each)


async def refused(stage: Stage, made: Made) -> None:
    """Deploy a release that cannot even start; the reason and its last words are shown."""
    outcome = await deploy(stage, made)
    expect(stage, outcome, ROLLED_BACK, f"{made.version} was not refused")
    rollout = await stage.gapless.ask("rollout", "orders")
    for line in ["the last lines of its log:", *rollout["log"].splitlines()[-LOG_LINES:]]:
        stage.view.say(f"    {line}")
    if rollout["shifted_at"]:
        stage.surprise(f"customers met {made.version}, which was never ready")
    met = sum(record.release == made.version for record in stage.buyers.records)
    if met:
        stage.surprise(f"{met} purchases were answered by {made.version}")


def expect(stage: Stage, outcome: Outcome, code: int, otherwise: str) -> None:
    if outcome.code != code:
        stage.surprise(f"{otherwise}: `gapless deploy` ended with {outcome.code}: {outcome.err or outcome.out}")


async def instances(stage: Stage, service: str) -> list[dict[str, Any]]:
    """The ready ones."""
    status = await stage.gapless.ask("status", service)
    return [one for one in status["services"][service]["instances"] if one["phase"] == "ready"]


def kill_session(leader: int) -> None:
    """SIGKILL for an instance with all its processes, workers first: nobody is left to end anything in order."""
    members = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if session(pid) == leader]
    for pid in sorted(members, key=lambda pid: pid == leader):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def session(pid: int) -> int:
    """0 when there is no such process any more."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


async def holds(stage: Stage, instance: str) -> int:
    """Wait for the moment in which an instance has payments half-way, and return how many."""
    until = time.monotonic() + HOLDS_LIMIT_S
    while time.monotonic() < until:
        if held := ledger.half_way(stage.gapless.state / "data", instance):
            return held
        await asyncio.sleep(0.002)
    return 0


async def replaced(stage: Stage, gone: dict[str, Any]) -> None:
    """Wait until there are two others. Raises Failed."""
    until = time.monotonic() + REPLACED_LIMIT_S
    while time.monotonic() < until:
        ready = [
            one for one in await instances(stage, "payment") if (one["id"], one["pid"]) != (gone["id"], gone["pid"])
        ]
        if len(ready) >= 2:
            stage.view.say(f"replaced: {' and '.join(one['id'] for one in ready)} are ready")
            return
        await asyncio.sleep(0.3)
    raise Failed(f"{gone['id']} was not replaced within {REPLACED_LIMIT_S:g} s")


async def first(happens: Awaitable[Any], task: asyncio.Task[Any]) -> None:
    """Until the one or the other."""
    waiting = asyncio.ensure_future(happens)
    try:
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
