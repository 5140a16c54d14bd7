"""Which workers run, decided purely: `(state, event, now) → (state, actions)`.

One generation serves (`current`), at most one is on its way (`coming`). A coming generation is committed only when all
of its workers are prepared, and the current one leaves only when all the committed ones serve: at no moment are there
fewer serving workers than before. Whatever goes wrong earlier refuses the coming generation, and the current one never
hears of it.
"""

from __future__ import annotations

from gapless.core.errors import AppError, NotReady
from gapless.server.generation import (
    NEVER,
    Action,
    Beat,
    Boot,
    Commit,
    Drain,
    Event,
    Exited,
    Finish,
    Kill,
    Left,
    Phase,
    Prepared,
    Refused,
    Reload,
    Replaced,
    Restart,
    Retire,
    Serving,
    Slot,
    Start,
    State,
    Stop,
    Tick,
    TooBusy,
    Worker,
)

BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 30.0
"""A crashed worker is replaced at once; if that one crashes too, after 0.1 s, 0.2 s … 30 s: a service that cannot run
must not eat the machine, and one that recovers must not wait for long."""
STABLE_S = 10.0
"""A worker that has served for so long has shown that it can: its crash begins a new series."""
OVERSLEPT_S = 1.0
"""A supervisor that was itself stopped for so long (Ctrl-Z, a paused machine) judges nobody's silence."""


def decide(state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    """What follows from an event. After Finish nothing ever does."""
    if state.ended:
        return state, []
    state, actions = _heard(state, event, now)
    return _follow(state, actions, now)


def due(state: State) -> float:
    """When the next Tick is wanted; NEVER when nothing is waited for."""
    silence = [_silent_at(state, worker) for worker in state.workers]
    return min([w.deadline for w in state.workers] + silence + [s.retry_at for s in state.slots], default=NEVER)


def serving(state: State) -> int:
    """How many workers accept requests now."""
    return sum(worker.phase is Phase.SERVING for worker in state.workers)


def _heard(state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    match event:
        case Boot():
            return _begin(state, now)
        case Reload():
            return _reload(state, now)
        case Stop():
            return _stop(state, event.signal, now)
        case Left():
            return _left(state, event, now)
        case Exited():
            return _exited(state, event, now)
        case Tick():
            return _overdue(_awake(state, now), now)
        case _:
            return _told(state, event, now), []


def _told(state: State, event: Prepared | Serving | Beat, now: float) -> State:
    """What a worker says of itself. Words that crossed an order on the way no longer count."""
    worker = _find(state, event.key)
    if worker is None:
        return state
    worker = worker._replace(beat_at=now)
    match event, worker.phase:
        case Prepared(), Phase.STARTING:
            worker = worker._replace(phase=Phase.PREPARED, deadline=NEVER)
        case Serving(), Phase.COMMITTED:
            worker = worker._replace(phase=Phase.SERVING, deadline=NEVER, serving_at=now)
    return _with(state, worker)


def _begin(state: State, now: float) -> tuple[State, list[Action]]:
    state = state._replace(coming=state.last + 1, last=state.last + 1, began_at=now, prepared_at=0.0)
    return state, []


def _start(state: State, generation: int, slot: int, now: float) -> tuple[State, Start]:
    key = state.keys + 1
    worker = Worker(key, generation, slot, Phase.STARTING, now + state.limits.start_s, now)
    return state._replace(keys=key, workers=(*state.workers, worker)), Start(key, generation)


def _reload(state: State, now: float) -> tuple[State, list[Action]]:
    if state.leaving:
        return state, [TooBusy("the server is draining")]
    if not state.current:
        return state, [TooBusy("the server is still starting")]
    if state.coming:
        return state, [TooBusy(f"generation {state.coming} is being started")]
    return _begin(state, now)


def _stop(state: State, signal: int, now: float) -> tuple[State, list[Action]]:
    if state.leaving:
        state = state._replace(code=state.code or 128 + signal, reason=state.reason or "stopped at once")
        return _kill_all(state, "stopped at once")
    actions: list[Action] = []
    if state.coming and state.current:
        actions.append(Refused(state.coming, "the server was told to stop", 0))
    state = state._replace(leaving=True, coming=0, slots=())
    for worker in state.workers:
        if worker.phase in (Phase.STARTING, Phase.PREPARED):
            actions.append(Kill(worker.key, "the server was told to stop"))
        elif worker.phase is not Phase.LEAVING:
            actions.append(Drain(worker.key))
        state = _with(state, _leave(state, worker, now))
    return state, actions


def _kill_all(state: State, reason: str) -> tuple[State, list[Action]]:
    actions: list[Action] = [Kill(worker.key, reason) for worker in state.workers]
    gone = tuple(w._replace(phase=Phase.LEAVING, deadline=NEVER) for w in state.workers)
    return state._replace(workers=gone, slots=(), coming=0), actions


def _left(state: State, event: Left, now: float) -> tuple[State, list[Action]]:
    """It finishes what it has, and no longer counts. That is nobody's failure, unless it was needed to take over."""
    worker = _find(state, event.key)
    if worker is None or worker.phase is Phase.LEAVING:
        return state, []
    if worker.generation == state.coming:
        return _refuse(state, "one of its workers was told to leave", AppError.exit_code, event.key, now)
    state = _retry(state, worker.slot, 0, now)
    return _with(state, _leave(state, worker, now)), []


def _exited(state: State, event: Exited, now: float) -> tuple[State, list[Action]]:
    worker = _find(state, event.key)
    if worker is None:
        return state, []
    state = state._replace(workers=tuple(w for w in state.workers if w.key != event.key))
    if worker.phase is Phase.LEAVING or state.leaving:
        return state, []
    if worker.generation == state.coming:
        return _refuse(state, event.reason, event.code, event.key, now)
    return _lost(state, worker, event.reason, now)


def _lost(state: State, worker: Worker, reason: str, now: float) -> tuple[State, list[Action]]:
    """The current generation is one worker short: fill its slot, the sooner the rarer that was necessary."""
    stable = now - worker.serving_at >= STABLE_S
    failures = 0 if stable else state.slots[worker.slot].failures
    delay_s = backoff(failures)
    return _retry(state, worker.slot, failures + 1, now + delay_s), [Restart(worker.key, reason, delay_s)]


def backoff(failures: int) -> float:
    """Seconds to wait after that many failures in a row before this one."""
    if failures == 0:
        return 0.0
    return float(min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16)))


def _retry(state: State, slot: int, failures: int, at: float) -> State:
    slots = list(state.slots)
    slots[slot] = Slot(failures, at)
    return state._replace(slots=tuple(slots))


def _refuse(state: State, reason: str, code: int, key: int, now: float) -> tuple[State, list[Action]]:
    """Give the coming generation up. What it has already accepted is still answered, unless it was the first one."""
    actions: list[Action] = []
    for worker in state.workers:
        if worker.generation != state.coming or worker.phase is Phase.LEAVING:
            continue
        if state.current and worker.phase in (Phase.COMMITTED, Phase.SERVING):
            actions.append(Retire(worker.key))
        else:
            actions.append(Kill(worker.key, reason))
        state = _with(state, _leave(state, worker, now))
    actions.append(Refused(state.coming, reason, key))
    if not state.current:
        return state._replace(coming=0, leaving=True, code=code, reason=reason), actions
    return state._replace(coming=0), actions


def _awake(state: State, now: float) -> State:
    if now - due(state) < OVERSLEPT_S:
        return state
    return state._replace(workers=tuple(w._replace(beat_at=now) for w in state.workers))


def _overdue(state: State, now: float) -> tuple[State, list[Action]]:
    actions: list[Action] = []
    for worker in state.workers:
        reason = _lateness(state, worker, now)
        if not reason or _find(state, worker.key) != worker:
            continue  # in time, or already dealt with together with the rest of its generation
        if worker.generation == state.coming and worker.phase is not Phase.LEAVING:
            state, more = _refuse(state, reason, NotReady.exit_code, worker.key, now)
        else:
            state, more = _give_up(state, worker, reason, now)
        actions += more
    return state, actions


def _give_up(state: State, worker: Worker, reason: str, now: float) -> tuple[State, list[Action]]:
    """Nothing survives SIGKILL, so its place can be filled before the kernel has taken it away."""
    actions: list[Action] = [Kill(worker.key, reason)]
    state = _with(state, worker._replace(phase=Phase.LEAVING, deadline=NEVER, beat_at=NEVER))
    if worker.phase is not Phase.LEAVING:
        state, more = _lost(state, worker, reason, now)
        actions += more
    return state, actions


def _lateness(state: State, worker: Worker, now: float) -> str:
    if now >= worker.deadline:
        return {
            Phase.STARTING: "not ready within its start limit",
            Phase.COMMITTED: "prepared, but did not begin to accept",
            Phase.LEAVING: "did not end within its drain limit",
        }.get(worker.phase, "over its limit")
    if now >= _silent_at(state, worker):
        return f"its event loop has been blocked for {state.limits.silent_s:g} s"
    return ""


def _silent_at(state: State, worker: Worker) -> float:
    return NEVER if worker.phase is Phase.STARTING else worker.beat_at + state.limits.silent_s


def _follow(state: State, actions: list[Action], now: float) -> tuple[State, list[Action]]:
    """What is to be done in the present state, whichever event led to it."""
    state = _fill_coming(state, actions, now)
    state = _commit(state, actions, now)
    state = _take_over(state, actions, now)
    for number, slot in enumerate(state.slots):
        if slot.retry_at <= now:
            state = _retry(state, number, slot.failures, NEVER)
            state, action = _start(state, state.current, number, now)
            actions.append(action)
    if state.leaving and not state.workers:
        state = state._replace(ended=True)
        actions.append(Finish(state.code, state.reason))
    return state, actions


def _fill_coming(state: State, actions: list[Action], now: float) -> State:
    """Start what the coming generation still lacks; nobody is disturbed while there is no other one."""
    if not state.coming:
        return state
    there = [worker for worker in state.workers if worker.generation == state.coming]
    loading = sum(worker.phase is Phase.STARTING for worker in there)
    room = state.abreast - loading if state.current else state.wanted
    for slot in range(len(there), min(state.wanted, len(there) + room)):
        state, action = _start(state, state.coming, slot, now)
        actions.append(action)
    return state


def _commit(state: State, actions: list[Action], now: float) -> State:
    coming = [w for w in state.workers if w.generation == state.coming and w.phase is Phase.PREPARED]
    prepared = coming if len(coming) == state.wanted else []
    if prepared:
        state = state._replace(prepared_at=now)
    for worker in state.workers:
        lost_one_replaced = worker.generation == state.current and worker.phase is Phase.PREPARED
        if worker in prepared or lost_one_replaced:
            actions.append(Commit(worker.key))
            state = _with(state, worker._replace(phase=Phase.COMMITTED, deadline=now + state.limits.commit_s))
    return state


def _take_over(state: State, actions: list[Action], now: float) -> State:
    """All of the coming generation serve: only now does the current one leave."""
    ready = [w for w in state.workers if w.generation == state.coming and w.phase is Phase.SERVING]
    if not state.coming or len(ready) < state.wanted:
        return state
    for worker in state.workers:
        if worker.phase is Phase.LEAVING:
            actions.append(Retire(worker.key))  # frequent reloads must not pile up processes that wait for idle clients
        elif worker.generation == state.current:
            started = worker.phase in (Phase.COMMITTED, Phase.SERVING)
            actions.append(Retire(worker.key) if started else Kill(worker.key, "its generation was replaced"))
            state = _with(state, _leave(state, worker, now))
    took = state.prepared_at - state.began_at
    actions.append(Replaced(state.coming, state.current, took, now - state.prepared_at))
    return state._replace(current=state.coming, coming=0, slots=(Slot(),) * state.wanted)


def _leave(state: State, worker: Worker, now: float) -> Worker:
    deadline = worker.deadline if worker.phase is Phase.LEAVING else NEVER
    return worker._replace(phase=Phase.LEAVING, deadline=min(deadline, now + state.limits.leave_s))


def _find(state: State, key: int) -> Worker | None:
    return next((worker for worker in state.workers if worker.key == key), None)


def _with(state: State, worker: Worker) -> State:
    return state._replace(workers=tuple(worker if w.key == worker.key else w for w in state.workers))
