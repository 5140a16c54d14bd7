"""The loop that has gates run while a rollout waits for its first user.

A result is written as `running` before a gate begins. A control plane that finds one which it does not run itself kills
what is left of that run and runs the gate again, so that no half of a run ever counts.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from gapless.control.gates import process
from gapless.control.gates.leavings import leavings
from gapless.control.gates.run import RunGate
from gapless.control.gates.scene import Scene, mark_of
from gapless.control.records import Records, persist
from gapless.core.errors import GaplessError
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import (
    Address,
    Change,
    Gate,
    GateResult,
    GateState,
    Instance,
    Phase,
    Release,
    Rollout,
    RolloutState,
)
from gapless.core.ports import World
from gapless.rollout.gates import cached_pass, definition_of, digest_of, to_run
from gapless.rollout.reports.outcome import GateOutcome, refuses
from gapless.rollout.wanted import new_needed

_log = logging.getLogger("gapless.control")


class Gates:
    """`step` is one look at every rollout. `base`: the directory of gapless.yaml, `state`: the state directory."""

    def __init__(
        self, records: Records, run: RunGate, world: World, events: Events, *, base: Path, state: Path
    ) -> None:
        self._records = records
        self._run = run
        self._world = world
        self._events = events
        self._base = base
        self._state = state
        self._swept = False
        self._tasks: dict[tuple[str, int, str], asyncio.Task[None]] = {}
        self._writes: set[asyncio.Task[None]] = set()
        """Not to be cancelled: whoever does not see the end of a write no longer knows what the store holds."""

    async def step(self) -> None:
        """Raises Conflict when a verb wrote first: the next look decides on what it wrote."""
        self._begin()
        active = {
            (service.name, rollout.number): rollout
            for service in self._records.services()
            if (rollout := self._records.rollout(service.name)) and rollout.state is RolloutState.STARTING
        }
        for key, task in self._tasks.items():
            if key[:2] not in active:
                task.cancel()
        for rollout in active.values():
            if rollout.policy.gates:
                await self._advance(rollout)

    def _begin(self) -> None:
        """Once: an end to what an earlier control plane has left running."""
        if not self._swept:
            self._swept = True
            if left := process.sweep(f"{self._state}:"):
                _log.warning("%d processes of gates that an earlier control plane ran were ended", left)

    async def _advance(self, rollout: Rollout) -> None:
        ready = self._ready(rollout.service, rollout.after)
        if len(ready) < new_needed(rollout):
            return
        release = self._records.release(rollout.service, rollout.after)
        results = self._records.gate_results(rollout.service, rollout.number)
        key = (rollout.service, rollout.number)
        under_way = [name for *rollout_key, name in self._tasks if tuple(rollout_key) == key]
        for gate in to_run(rollout.policy, results, under_way):
            if release:
                await self._start(rollout, gate, release, ready[0].address)

    def _ready(self, service: str, release: str) -> list[Instance]:
        found = (i for i in self._records.instances(service) if i.release == release and i.phase is Phase.READY)
        return sorted(found, key=lambda i: i.id)

    async def _start(self, rollout: Rollout, gate: Gate, release: Release, address: Address) -> None:
        begun = GateResult(
            service=rollout.service,
            rollout=rollout.number,
            name=gate.name,
            kind=gate.kind,
            release=rollout.after,
            digest=digest_of(release),
            definition=definition_of(gate),
            started_at=self._world.time(),
        )
        if earlier := cached_pass(gate, begun.digest, self._records.gate_results(rollout.service)):
            await self._write(_taken_over(begun, earlier))
            return
        await self._records.write(begun)
        stable = self._ready(rollout.service, rollout.before)
        scene = Scene(
            service=rollout.service,
            release=rollout.after,
            base=self._base,
            scratch=leavings(self._state, rollout.service, rollout.number),
            mark=mark_of(self._state, rollout.service, rollout.number, gate.name),
            code=self._state / "releases" / release.digest / "code",
            address=address,
            stable=stable[0].address if stable else None,
        )
        key = (rollout.service, rollout.number, gate.name)
        self._tasks[key] = asyncio.create_task(self._perform(key, gate, scene, begun), name=f"gate {gate.name}")

    async def _perform(self, key: tuple[str, int, str], gate: Gate, scene: Scene, begun: GateResult) -> None:
        try:
            outcome = await self._outcome(key, gate, scene)
            write = asyncio.create_task(self._write(_ended(begun, outcome, self._world.time())), name="gate result")
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)
            await asyncio.shield(write)
        except GaplessError as error:
            _log.warning("gate %s: its result could not be written: %s", "/".join(map(str, key)), error)
        finally:
            self._tasks.pop(key, None)

    async def _outcome(self, key: tuple[str, int, str], gate: Gate, scene: Scene) -> GateOutcome:
        try:
            return await self._run(gate, scene)
        except Exception:  # noqa: BLE001 a defect of ours must not leave a rollout waiting for ever
            _log.exception("gate %s failed", "/".join(map(str, key)))
            return refuses("it could not be run; see the control plane's log")

    async def _write(self, result: GateResult) -> None:
        """The result with its entry in the change log, in one transaction."""

        async def write() -> Change:
            change = change_of(result, self._records.next_change(), self._world.time())
            await self._records.write(result, change)
            return change

        self._events(ChangeRecorded(change=await persist(write)))

    async def cancel(self) -> None:
        """End what runs; the next control plane runs it again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._writes, return_exceptions=True)


def _ended(begun: GateResult, outcome: GateOutcome, now_at: float) -> GateResult:
    return replace(
        begun,
        state=GateState.PASSED if outcome.passed else GateState.REFUSED,
        ended_at=now_at,
        reason=outcome.reason,
        output=outcome.output,
        numbers=outcome.numbers,
        examples=outcome.examples,
    )


def _taken_over(begun: GateResult, earlier: GateResult) -> GateResult:
    return replace(
        begun,
        state=GateState.PASSED,
        ended_at=begun.started_at,
        reason=f"{earlier.reason} (in rollout {earlier.rollout})",
        numbers=earlier.numbers,
        cached_from=earlier.rollout,
    )


def change_of(result: GateResult, number: int, now_at: float) -> Change:
    """The entry in the change log."""
    said = {GateState.RUNNING: "begins", GateState.PASSED: "passes", GateState.REFUSED: "refuses"}[result.state]
    return Change(
        number=number,
        at=now_at,
        who="gapless",
        what=f"rollout {result.rollout} of {result.service}: gate {result.name} {said} {result.release}",
        service=result.service,
        why=result.reason,
        numbers={**result.numbers, "took_s": max(result.ended_at - result.started_at, 0.0)},
    )
