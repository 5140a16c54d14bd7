"""When a worker has done enough and a fresh one takes its place, and how many there are to be. All pure.

One at a time, and the fresh one serves before the old one leaves: nothing is lost, and capacity never falls.
"""

from __future__ import annotations

from gapless.server.generations import roster
from gapless.server.generations.generation import (
    LOADING,
    NEVER,
    Action,
    Beat,
    Kill,
    Phase,
    Recycle,
    Recycled,
    Recycling,
    Retire,
    Scale,
    Scaled,
    Slot,
    State,
    TooBusy,
    Worker,
)

JITTER = 0.1
"""Workers that started together share the load evenly and would reach a limit together: each has its own, up to this
part earlier."""
GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole parts, lie evenly between 0 and 1 however many there are."""


def part(key: int) -> float:
    """The part of a limit at which a worker is recycled, in (1 - JITTER, 1]."""
    return 1 - JITTER * (key * GOLDEN % 1)


def worn(beat: Beat, limits: Recycling) -> str:
    """Why a worker has done enough, by what it tells of itself; empty when it has not. Memory has no jitter: it is a
    limit that others rely on."""
    if limits.memory and beat.memory > limits.memory:
        return f"it uses {beat.memory >> 20} MiB of memory"
    if limits.requests and beat.requests >= limits.requests * part(beat.key):
        return f"it has answered {beat.requests} requests"
    return ""


def old_at(worker: Worker, limits: Recycling) -> float:
    return worker.serving_at + limits.age_s * part(worker.key) if limits.age_s else NEVER


def idle(state: State) -> bool:
    """Nothing else is being changed, and every slot has the one worker that it should have."""
    if roster.busy(state):
        return False
    here = [worker for worker in roster.of(state, state.current) if worker.phase is not Phase.LEAVING]
    return len(here) == roster.kept(state) and all(worker.phase is Phase.SERVING for worker in here)


def due(state: State) -> float:
    """When the next worker will be too old."""
    if not state.recycling.age_s or not idle(state):
        return NEVER
    ages = [old_at(worker, state.recycling) for worker in roster.of(state, state.current, Phase.SERVING)]
    return max(min(ages, default=NEVER), state.recycle_at)


def follow(state: State, actions: list[Action], now: float) -> State:
    state = _relieve(state, actions, now)
    state = _recycle(state, actions, now)
    return _settled(state, actions)


def _relieve(state: State, actions: list[Action], now: float) -> State:
    for fresh in roster.of(state, state.current, Phase.SERVING):
        if fresh.replaces:
            old = roster.find(state, fresh.replaces)
            state = roster.put(state, fresh._replace(replaces=0))._replace(recycle_failures=0)
            if old and old.phase is Phase.SERVING:
                actions += [Retire(old.key), Recycled(old.key)]
                state = roster.leaving(state, old, now)
    return state


def _recycle(state: State, actions: list[Action], now: float) -> State:
    if now < state.recycle_at or not idle(state):
        return state
    for worker in roster.of(state, state.current, Phase.SERVING):
        old = now >= old_at(worker, state.recycling)
        if reason := worker.worn or (f"it has served for {now - worker.serving_at:.0f} s" if old else ""):
            state, action = roster.started(state, state.current, worker.slot, now, replaces=worker.key)
            actions += [Recycle(worker.key, reason), action]
            return state
    return state


def scale(state: State, event: Scale, now: float) -> tuple[State, list[Action]]:
    """Have as many slots as wanted: new ones are filled at once, and those of the last ones leave."""
    if why := roster.busy(state):
        return state, [TooBusy(why)]
    actions: list[Action] = []
    for worker in roster.of(state, state.current):
        if worker.slot >= event.wanted and worker.phase is not Phase.LEAVING:
            loads = worker.phase in LOADING
            actions.append(Kill(worker.key, "fewer are wanted") if loads else Retire(worker.key))
            state = roster.leaving(state, worker, now)
    slots = [slot._replace(failures=0, retry_at=now, given_up="") if slot.given_up else slot for slot in state.slots]
    slots += [Slot(0, now)] * (event.wanted - len(slots))
    return state._replace(wanted=event.wanted, slots=tuple(slots[: event.wanted]), scaling=True), actions


def _settled(state: State, actions: list[Action]) -> State:
    if not state.scaling or len(roster.of(state, state.current, Phase.SERVING)) < state.wanted:
        return state
    actions.append(Scaled(state.wanted))
    return state._replace(scaling=False)
