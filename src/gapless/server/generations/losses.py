"""What follows when a worker is lost, is too late, or leaves by itself. All pure."""

from __future__ import annotations

from gapless.core.errors import AppError, NotReady
from gapless.server.generations import roster, takeover
from gapless.server.generations.generation import (
    NEVER,
    Action,
    Dump,
    Exited,
    GivenUp,
    Kill,
    Left,
    NotRecycled,
    Phase,
    Restart,
    Retire,
    Slot,
    State,
    Tired,
    Worker,
)

BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 30.0
"""A crashed worker is replaced at once; if that one crashes too, after 0.1 s, 0.2 s … 30 s: a service that cannot run
must not eat the machine, and one that recovers must not wait for long."""
STABLE_S = 10.0
"""A worker that has served for so long has shown that it can: its crash begins a new series."""


def backoff(failures: int) -> float:
    """Seconds to wait after that many failures in a row before this one."""
    if failures == 0:
        return 0.0
    return float(min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16)))


def tired(state: State, event: Tired, now: float) -> tuple[State, list[Action]]:
    """It is recycled, where it serves: capacity does not fall. Elsewhere nobody needs it."""
    worker = roster.find(state, event.key)
    if worker is None or worker.phase is Phase.LEAVING:
        return state, []
    if worker.generation == state.coming:
        return takeover.refuse(state, "one of its workers was told to leave", AppError.exit_code, event.key, now)
    if worker.generation == state.current and not state.leaving:
        return roster.put(state, worker._replace(worn=event.why)), []
    return roster.leaving(state, worker, now), [Retire(worker.key)]


def left(state: State, event: Left, now: float) -> tuple[State, list[Action]]:
    """It finishes what it has, and no longer counts. That is nobody's failure, unless it was needed to take over."""
    worker = roster.find(state, event.key)
    if worker is None or worker.phase is Phase.LEAVING:
        return state, []
    if worker.generation == state.coming:
        return takeover.refuse(state, "one of its workers was told to leave", AppError.exit_code, event.key, now)
    state = roster.leaving(state, worker, now)
    if worker.generation != state.current or not state.slots:
        return state, []
    return _succeeded(state, worker, Slot(0, now)), []


def exited(state: State, event: Exited, now: float) -> tuple[State, list[Action]]:
    worker = roster.find(state, event.key)
    if worker is None:
        return state, []
    state = roster.without(state, event.key)
    if worker.phase is Phase.LEAVING or state.leaving:
        return state, []
    if worker.generation == state.coming:
        return takeover.refuse(state, event.reason, event.code, event.key, now)
    return _lost(state, worker, event.reason, event.code, now)


def _lost(state: State, worker: Worker, reason: str, code: int, now: float) -> tuple[State, list[Action]]:
    if worker.generation != state.current:
        return state, []  # it had been replaced already
    if worker.replaces:
        return _not_recycled(state, worker, reason, now)
    if takeover.better_before(state):
        return takeover.turn_back(state, reason, worker.key, now)
    stable = now - worker.serving_at >= STABLE_S
    failures = 0 if stable else state.slots[worker.slot].failures
    if 0 < state.limits.crashes <= failures + 1 and roster.successor(state, worker.key) is None:
        return _give_slot_up(state, worker, failures + 1, reason, code)
    delay_s = backoff(failures)
    return _succeeded(state, worker, Slot(failures + 1, now + delay_s)), [Restart(worker.key, reason, delay_s)]


def _succeeded(state: State, worker: Worker, slot: Slot) -> State:
    """Its slot is to be filled again, unless a fresh one was on its way already, to recycle it."""
    fresh = roster.successor(state, worker.key)
    if fresh is None:
        return roster.refilled(state, worker.slot, slot)
    state = roster.refilled(state, worker.slot, slot._replace(retry_at=NEVER))
    return roster.put(state, fresh._replace(replaces=0))


def _not_recycled(state: State, worker: Worker, reason: str, now: float) -> tuple[State, list[Action]]:
    """The one that it was to replace goes on."""
    failures = state.recycle_failures + 1
    delay_s = backoff(failures)
    state = state._replace(recycle_at=now + delay_s, recycle_failures=failures)
    return state, [NotRecycled(worker.replaces, reason, delay_s)]


def _give_slot_up(state: State, worker: Worker, failures: int, reason: str, code: int) -> tuple[State, list[Action]]:
    """The server stays with the rest; without any it ends, and its own supervisor decides what next."""
    state = _succeeded(state, worker, Slot(failures, NEVER, reason, code))
    return state, [GivenUp(worker.key, reason, roster.kept(state))]


def follow(state: State, actions: list[Action], now: float) -> State:
    """Nothing serves any more, nothing will, and nobody is on its way to: that is the end."""
    if not state.slots or roster.kept(state) or roster.busy(state):
        return state
    for other in state.workers:
        actions.append(Kill(other.key, "the server ends"))
        state = roster.leaving(state, other, now)
    last = state.slots[-1]
    why = f"every worker crashed {last.failures} times in a row, the last one: {last.given_up}"
    return state._replace(leaving=True, slots=(), code=last.code, reason=why)


def overdue(state: State, now: float) -> tuple[State, list[Action]]:
    actions: list[Action] = []
    for worker in state.workers:
        reason = _lateness(state, worker, now)
        if not reason or roster.find(state, worker.key) != worker:
            continue  # in time, or already dealt with together with the rest of its generation
        state, more = _late(state, worker, reason, now)
        actions += more
    return state, actions


def _late(state: State, worker: Worker, reason: str, now: float) -> tuple[State, list[Action]]:
    if worker.phase is Phase.CARRYING and now >= worker.deadline:
        return roster.put(state, worker._replace(phase=Phase.PREPARED, deadline=NEVER)), []
    if worker.generation == state.coming and worker.phase is not Phase.LEAVING:
        return takeover.refuse(state, reason, NotReady.exit_code, worker.key, now)
    gone = worker._replace(phase=Phase.LEAVING, beat_at=NEVER, fault=reason)
    silent = now < worker.deadline
    state = roster.put(state, gone._replace(deadline=now + state.limits.dump_s if silent else NEVER))
    actions: list[Action] = [Dump(worker.key, reason) if silent else Kill(worker.key, worker.fault or reason)]
    if worker.phase is not Phase.LEAVING:
        state, more = _lost(state, worker, reason, AppError.exit_code, now)
        actions += more
    return state, actions


def _lateness(state: State, worker: Worker, now: float) -> str:
    if now >= worker.deadline:
        return {
            Phase.STARTING: "not ready within its start limit",
            Phase.COMMITTED: "prepared, but did not begin to accept",
            Phase.LEAVING: "did not end within its drain limit",
        }.get(worker.phase, "over its limit")
    if now >= silent_at(state, worker):
        return f"its event loop has been blocked for {state.limits.silent_s:g} s"
    return ""


def silent_at(state: State, worker: Worker) -> float:
    return NEVER if worker.phase is Phase.STARTING else worker.beat_at + state.limits.silent_s
