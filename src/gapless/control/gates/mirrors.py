"""The loop that has requests mirrored: keeps a comparer for each rollout that asks for one, tells the router where it
listens, and judges what it reports."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from gapless.control.gates.comparer import Comparer, StartComparer
from gapless.control.gates.gates import change_of
from gapless.control.gates.leavings import leavings
from gapless.control.gates.scene import Scene, mark_of
from gapless.control.records import Records, persist
from gapless.core.errors import GaplessError
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import (
    Address,
    Change,
    GateKind,
    GateResult,
    GateState,
    MirrorRule,
    Phase,
    Rollout,
    RolloutState,
)
from gapless.core.model.gates import MIRROR_GATE
from gapless.core.model.mirror import MirrorPlan, MirrorTarget
from gapless.core.ports import World
from gapless.rollout.gates import definition_of, digest_of, mirror_due
from gapless.rollout.mirror import MirrorVerdict, verdict
from gapless.rollout.wanted import new_needed

_log = logging.getLogger("gapless.control")

WRITE_S = 1.0
"""Between two writes of how it stands."""
LINGER_S = 1.0
"""How long a comparer still answers after the gateway was told to ask it no more."""
DEATHS = 3
"""Of comparers in one rollout: what ends so often will not prove anything."""
LONGEST_ASK_S = 15.0

Key = tuple[str, int]


@dataclass(slots=True)
class _Mirror:
    """A rollout that is mirrored."""

    comparer: Comparer | None = None
    plan: MirrorPlan = field(default_factory=MirrorPlan)
    deaths: int = 0
    began_at: float = 0.0
    written_at: float = 0.0


class Mirrors:
    """`step` is one look at every rollout; `targets` is what the router tells the gateway."""

    def __init__(
        self, records: Records, start: StartComparer, world: World, events: Events, *, base: Path, state: Path
    ) -> None:
        self._records = records
        self._start = start
        self._world = world
        self._events = events
        self._base = base
        self._state = state
        self._mirrors: dict[Key, _Mirror] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def targets(self) -> dict[str, MirrorTarget]:
        """By service."""
        found: dict[str, MirrorTarget] = {}
        for (service, number), mirror in self._mirrors.items():
            rollout = self._records.rollout(service)
            address = mirror.comparer.address if mirror.comparer else None
            if address and rollout and rollout.number == number and rollout.policy.mirror:
                rule = rollout.policy.mirror
                found[service] = MirrorTarget(address=address, share=rule.share, methods=rule.methods, strip=rule.strip)
        return found

    async def step(self) -> None:
        """Raises Conflict when another write was quicker: the next look decides again."""
        due = {(r.service, r.number): r for r in self._rollouts() if self._is_due(r)}
        for key in self._mirrors.keys() - due.keys():
            self._end(self._mirrors.pop(key))
        for key, rollout in due.items():
            await self._advance(key, rollout)

    def _rollouts(self) -> list[Rollout]:
        found = (self._records.rollout(service.name) for service in self._records.services())
        return [rollout for rollout in found if rollout and not rollout.state.ended]

    def _is_due(self, rollout: Rollout) -> bool:
        shifting = rollout.state is RolloutState.SHIFTING
        if not shifting and rollout.state is not RolloutState.STARTING:
            return False
        if len(self._addresses(rollout, rollout.after)) < new_needed(rollout) and not shifting:
            return False
        results = self._records.gate_results(rollout.service, rollout.number)
        return mirror_due(rollout.policy, results, shifting=shifting)

    def _addresses(self, rollout: Rollout, release: str) -> tuple[Address, ...]:
        found = [i for i in self._records.instances(rollout.service) if i.release == release and i.phase is Phase.READY]
        return tuple(i.address for i in sorted(found, key=lambda i: i.id))

    async def _advance(self, key: Key, rollout: Rollout) -> None:
        assert rollout.policy.mirror
        mirror = self._mirrors.setdefault(key, _Mirror())
        plan = self._plan(rollout, rollout.policy.mirror)
        if mirror.comparer is None or mirror.comparer.address is None:
            await self._renew(mirror, rollout, plan)
        elif plan != mirror.plan:
            mirror.comparer.follow(plan)
            mirror.plan = plan
        await self._judge(mirror, rollout, rollout.policy.mirror)

    def _plan(self, rollout: Rollout, rule: MirrorRule) -> MirrorPlan:
        service = self._records.service(rollout.service)
        return MirrorPlan(
            new=self._addresses(rollout, rollout.after),
            stable=self._addresses(rollout, rollout.before),
            ignore=rule.ignore,
            compare=rule.compare,
            timeout_s=min(service.timeout_s if service else LONGEST_ASK_S, LONGEST_ASK_S),
        )

    async def _renew(self, mirror: _Mirror, rollout: Rollout, plan: MirrorPlan) -> None:
        """Begin, or begin anew after a comparer has ended: what it had counted is gone with it."""
        if mirror.comparer:
            mirror.deaths += 1
            await mirror.comparer.stop()
            mirror.comparer = None
        try:
            mirror.comparer = await self._start(plan, self._scene(rollout))
        except GaplessError as error:
            mirror.deaths += 1
            _log.warning("requests of %s are not mirrored: %s", rollout.service, error)
        mirror.plan, mirror.began_at = plan, self._world.time()

    def _scene(self, rollout: Rollout) -> Scene:
        return Scene(
            service=rollout.service,
            release=rollout.after,
            base=self._base,
            scratch=leavings(self._state, rollout.service, rollout.number),
            mark=mark_of(self._state, rollout.service, rollout.number, MIRROR_GATE),
        )

    async def _judge(self, mirror: _Mirror, rollout: Rollout, rule: MirrorRule) -> None:
        now_at = self._world.time()
        known = next((r for r in self._results(rollout) if r.name == MIRROR_GATE), None)
        found = self._verdict(mirror, rule, now_at)
        result = self._result(mirror, rollout, rule, found, now_at)
        if known and known.state is not GateState.RUNNING and found.state is not GateState.REFUSED:
            return  # it has passed; while users move only a refusal is news
        if found.state is not GateState.RUNNING:
            await self._conclude(result)
        elif known is None or (now_at - mirror.written_at >= WRITE_S and _news(known, result)):
            mirror.written_at = now_at
            await self._records.write(result)

    def _results(self, rollout: Rollout) -> list[GateResult]:
        return self._records.gate_results(rollout.service, rollout.number)

    def _verdict(self, mirror: _Mirror, rule: MirrorRule, now_at: float) -> MirrorVerdict:
        if mirror.deaths >= DEATHS:
            reason = f"the comparer ended {mirror.deaths} times; see {self._state / 'gates'}"
            return MirrorVerdict(state=GateState.REFUSED, reason=reason, numbers={})
        if mirror.comparer is None:
            return MirrorVerdict(state=GateState.RUNNING, reason="the comparer is started", numbers={})
        return verdict(mirror.comparer.tally, rule, now_at - mirror.began_at)

    def _result(
        self, mirror: _Mirror, rollout: Rollout, rule: MirrorRule, found: MirrorVerdict, now_at: float
    ) -> GateResult:
        release = self._records.release(rollout.service, rollout.after)
        return GateResult(
            service=rollout.service,
            rollout=rollout.number,
            name=MIRROR_GATE,
            kind=GateKind.MIRROR,
            release=rollout.after,
            digest=digest_of(release) if release else "",
            definition=definition_of(rule),
            state=found.state,
            started_at=mirror.began_at,
            ended_at=0.0 if found.state is GateState.RUNNING else now_at,
            reason=found.reason,
            numbers=found.numbers,
            output="\n".join(mirror.comparer.tally.examples) if mirror.comparer else "",
            examples=mirror.comparer.tally.examples if mirror.comparer else (),
        )

    async def _conclude(self, result: GateResult) -> None:
        async def write() -> Change:
            change = change_of(result, self._records.next_change(), self._world.time())
            await self._records.write(result, change)
            return change

        self._events(ChangeRecorded(change=await persist(write)))

    def _end(self, mirror: _Mirror) -> None:
        if mirror.comparer is None:
            return
        task = asyncio.create_task(self._stop_later(mirror.comparer), name="end of a comparer")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _stop_later(self, comparer: Comparer) -> None:
        try:
            await self._world.sleep(LINGER_S)
        finally:
            await comparer.stop()

    async def cancel(self) -> None:
        """End every comparer: the gateway gets no answer from them, which nobody waits for."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        comparers = [mirror.comparer for mirror in self._mirrors.values() if mirror.comparer]
        self._mirrors.clear()
        await asyncio.gather(*(comparer.stop() for comparer in comparers))


def _news(known: GateResult, result: GateResult) -> bool:
    """Apart from the time it took."""
    return replace(known, started_at=0.0, reason="") != replace(result, started_at=0.0, reason="")
