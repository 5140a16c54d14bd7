"""How one generation takes over from another, and how it may yet turn out that it should not have. All pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gapless.server.generations import roster
from gapless.server.generations.generation import (
    LOADING,
    NEVER,
    Action,
    Carry,
    Commit,
    Kill,
    Pause,
    Phase,
    Recall,
    Refused,
    Replaced,
    Retire,
    Return,
    Slot,
    State,
    TooBusy,
    Worker,
)


def begin(state: State, now: float) -> State:
    return state._replace(coming=state.last + 1, last=state.last + 1, stage_at=now)


def reload(state: State, now: float) -> tuple[State, list[Action]]:
    if why := roster.busy(state):
        return state, [TooBusy(why)]
    return begin(state, now), []


def follow(state: State, actions: list[Action], now: float) -> State:
    """Every step of a take-over that the present state allows."""
    state = _fill(state, actions, now)
    state = _commit(state, actions, now)
    state = _take_over(state, actions, now)
    state = _bake(state, actions, now)
    return _dismiss(state, actions, now)


def _fill(state: State, actions: list[Action], now: float) -> State:
    """Start what the coming generation still lacks; nobody is disturbed while there is no other one."""
    if not state.coming:
        return state
    there = len(roster.of(state, state.coming))
    room = roster.room(state, state.coming) if state.current else state.wanted
    for slot in range(there, min(state.wanted, there + room)):
        state, action = roster.started(state, state.coming, slot, now)
        actions.append(action)
    return state


def _commit(state: State, actions: list[Action], now: float) -> State:
    """A coming generation is committed as a whole, the replacement of a single worker alone."""
    ready = roster.of(state, state.coming, Phase.PREPARED, Phase.CARRYING)
    if state.coming and len(ready) == state.wanted:
        if state.announced != state.coming:
            state = roster.staged(state, "prepared", actions, now)._replace(announced=state.coming)
        state = _carry_and_commit(state, ready, actions, now)
        if not roster.loading(state, state.coming):
            state = roster.staged(state, "committed", actions, now)
    for worker in roster.of(state, state.current, Phase.PREPARED):
        state = _carry_and_commit(state, [worker], actions, now)
    return state


def _carry_and_commit(state: State, ready: Sequence[Worker], actions: list[Action], now: float) -> State:
    """State is handed over last of all, so that it is as fresh as can be; what is late or lost holds nobody up."""
    keys = [worker.key for worker in ready]
    for worker in ready:
        source = _source(state, worker) if worker.carries and worker.phase is Phase.PREPARED else 0
        if source:
            actions.append(Carry(worker.key, source))
            deadline = now + state.limits.carry_s
            state = roster.put(state, worker._replace(phase=Phase.CARRYING, deadline=deadline, carries=False))
    now_ready = [worker for worker in map(partial(roster.find, state), keys) if worker]
    if any(worker.phase is Phase.CARRYING for worker in now_ready):
        return state
    for worker in now_ready:
        actions.append(Commit(worker.key))
        state = roster.committed(state, worker, now)
    return state


def _source(state: State, worker: Worker) -> int:
    """Whose place it takes; 0 when nobody is there who could tell anything."""
    if worker.generation != state.coming:
        old = roster.find(state, worker.replaces)
        return old.key if old and old.phase is Phase.SERVING else 0
    same = [old.key for old in roster.of(state, state.current, Phase.SERVING) if old.slot == worker.slot]
    return same[0] if same else 0


def _take_over(state: State, actions: list[Action], now: float) -> State:
    """All of the coming generation serve: only now does the current one stop."""
    if not state.coming or len(roster.of(state, state.coming, Phase.SERVING)) < state.wanted:
        return state
    for worker in state.workers:
        if worker.phase is Phase.LEAVING:
            actions.append(Retire(worker.key))  # frequent reloads must not pile up processes that wait for idle clients
        elif worker.generation == state.current:
            state = _put_aside(state, worker, actions, now)
    state = roster.staged(state, "serving", actions, now)
    if not state.current:
        actions.append(Replaced(state.coming, 0))
    slots = (Slot(),) * state.wanted
    return state._replace(current=state.coming, before=state.current, coming=0, slots=slots, recycle_failures=0)


def _put_aside(state: State, worker: Worker, actions: list[Action], now: float) -> State:
    if worker.phase in LOADING:
        actions.append(Kill(worker.key, "its generation was replaced"))
    elif state.limits.bake_s:
        actions.append(Pause(worker.key))
        return roster.put(state, worker._replace(phase=Phase.PAUSED, deadline=NEVER))
    else:
        actions.append(Retire(worker.key))
    return roster.leaving(state, worker, now)


def _bake(state: State, actions: list[Action], now: float) -> State:
    """Nobody of the former generation accepts any more, so whoever connects from now on meets the new code. When that
    has stood its bake time, the former one leaves."""
    if not state.before or any(worker.accepting for worker in roster.of(state, state.before)):
        return state
    if state.bake_until == NEVER:
        state = roster.staged(state, "stopped", actions, now)._replace(bake_until=now + state.limits.bake_s)
    return _baked(state, actions, now) if now >= state.bake_until else state


def _baked(state: State, actions: list[Action], now: float) -> State:
    for worker in roster.of(state, state.before, Phase.PAUSED):
        actions.append(Retire(worker.key))
        state = roster.leaving(state, worker, now)
    if state.limits.bake_s:
        state = roster.staged(state, "baked", actions, now)
    actions.append(Replaced(state.current, state.before))
    return state._replace(before=0, bake_until=NEVER)


def better_before(state: State) -> bool:
    """Whether more of the former generation could answer than of the present one: what hurts both is not the new code,
    and returning would not mend it."""
    return bool(state.before) and roster.able(state, state.before) > roster.able(state, state.current)


def turn_back(state: State, reason: str, key: int, now: float) -> tuple[State, list[Action]]:
    """The new generation did not stand its bake time: the former one accepts again, and when it does, this one goes."""
    bad, good = state.current, state.before
    actions: list[Action] = [Return(bad, good, reason, key)]
    for worker in roster.of(state, good, Phase.PAUSED):
        actions.append(Recall(worker.key))
        state = roster.committed(state, worker, now)
    for worker in roster.loading(state, bad):
        actions.append(Kill(worker.key, reason))
        state = roster.leaving(state, worker, now)
    filled = {worker.slot for worker in roster.of(state, good, Phase.COMMITTED)}
    slots = tuple(Slot() if number in filled else Slot(0, now) for number in range(state.wanted))
    state = state._replace(current=good, before=0, back=bad, slots=slots, bake_until=NEVER, reason=reason)
    return state, actions


def _dismiss(state: State, actions: list[Action], now: float) -> State:
    """The former generation serves again: the one that failed leaves."""
    if not state.back or not _returned(state):
        return state
    for worker in roster.of(state, state.back, Phase.COMMITTED, Phase.SERVING):
        actions.append(Retire(worker.key))
        state = roster.leaving(state, worker, now)
    actions.append(Refused(state.back, state.reason, 0))
    return state._replace(back=0, reason="")


def _returned(state: State) -> bool:
    if roster.of(state, state.current, Phase.COMMITTED):
        return False
    if roster.able(state, state.current) >= state.wanted:
        return True
    return not roster.loading(state, state.current) and all(slot.retry_at == NEVER for slot in state.slots)


def refuse(state: State, reason: str, code: int, key: int, now: float) -> tuple[State, list[Action]]:
    """Give the coming generation up. What it has already accepted is still answered, unless it was the first one."""
    actions: list[Action] = []
    for worker in roster.of(state, state.coming):
        if worker.phase is Phase.LEAVING:
            continue
        if state.current and worker.phase in (Phase.COMMITTED, Phase.SERVING):
            actions.append(Retire(worker.key))
        else:
            actions.append(Kill(worker.key, reason))
        state = roster.leaving(state, worker, now)
    actions.append(Refused(state.coming, reason, key))
    if not state.current:
        return state._replace(coming=0, leaving=True, code=code, reason=reason), actions
    return state._replace(coming=0), actions
