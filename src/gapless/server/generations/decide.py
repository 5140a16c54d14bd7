"""Which workers run, decided purely: `(state, event, now) → (state, actions)`.

One generation serves (`current`), at most one is on its way (`coming`). A coming generation is committed only when all
of its workers are prepared, and the current one stops only when all the committed ones serve: at no moment are there
fewer serving workers than before. Whatever goes wrong earlier refuses the coming generation, and the current one never
hears of it. The reload is done when nobody of the former generation (`before`) accepts any more, and the new one has
stood its bake time; should it fail in that, the former one serves again, and then the failed one (`back`) leaves.

The parts: `takeover` (from one generation to the next and back), `losses` (crashes, limits, silence), `recycle` (worn
workers, another number of them).
"""

from __future__ import annotations

from gapless.server.generations import losses, recycle, roster, takeover
from gapless.server.generations.generation import (
    LOADING,
    NEVER,
    Action,
    Beat,
    Boot,
    Carried,
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
    Resume,
    Scale,
    Serving,
    State,
    Stop,
    Stopped,
    Tick,
    Tired,
)
from gapless.server.generations.succession import resume

OVERSLEPT_S = 1.0
"""A supervisor that was itself stopped for so long (Ctrl-Z, a paused machine) judges nobody's silence."""


def decide(state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    """What follows from an event. After Finish nothing ever does, but for another master."""
    if state.ended and not isinstance(event, Resume):
        return state, []
    state, actions = _heard(state, event, now)
    return _follow(state, actions, now)


def due(state: State) -> float:
    """When the next Tick is wanted; NEVER when nothing is waited for."""
    silence = [losses.silent_at(state, worker) for worker in state.workers]
    empty = [slot.retry_at for slot in state.slots] if _may_fill(state) else []
    others = [state.bake_until, recycle.due(state)]
    return min([worker.deadline for worker in state.workers] + silence + empty + others)


def serving(state: State) -> int:
    """How many workers accept requests now."""
    return sum(worker.phase is Phase.SERVING for worker in state.workers)


def _heard(state: State, event: Event, now: float) -> tuple[State, list[Action]]:  # noqa: C901 - one case per event
    match event:
        case Boot():
            return takeover.begin(state, now), []
        case Reload():
            return takeover.reload(state, now)
        case Scale():
            return recycle.scale(state, event, now)
        case Stop():
            return _stop(state, event.signal, now)
        case Tired():
            return losses.tired(state, event, now)
        case Left():
            return losses.left(state, event, now)
        case Exited():
            return losses.exited(state, event, now)
        case Resume():
            return resume(state, event.there, now)
        case Tick():
            return losses.overdue(_awake(state, now), now)
        case Beat():
            return _beat(state, event, now)
        case _:
            return _told(state, event, now), []


def _told(state: State, event: Prepared | Carried | Serving | Stopped, now: float) -> State:
    """What a worker says of itself. Words that crossed an order on the way no longer count."""
    worker = roster.find(state, event.key)
    if worker is None:
        return state
    worker = worker._replace(beat_at=max(now, worker.beat_at))
    match event, worker.phase:
        case Prepared(), Phase.STARTING:
            worker = worker._replace(phase=Phase.PREPARED, deadline=NEVER, carries=event.carries)
        case Carried(), Phase.CARRYING:
            worker = worker._replace(phase=Phase.PREPARED, deadline=NEVER)
        case Serving(), Phase.COMMITTED:
            worker = worker._replace(phase=Phase.SERVING, deadline=NEVER, serving_at=min(now, worker.serving_at))
        case Stopped(), (Phase.PAUSED | Phase.LEAVING):
            worker = worker._replace(accepting=False)
    return roster.put(state, worker)


def _beat(state: State, event: Beat, now: float) -> tuple[State, list[Action]]:
    """It lives. A new generation that is unready where the former one is not has failed its bake time."""
    worker = roster.find(state, event.key)
    if worker is None:
        return state, []
    worn = worker.worn or recycle.worn(event, state.recycling)
    worker = worker._replace(unready=event.unready, worn=worn, beat_at=max(now, worker.beat_at))
    state = roster.put(state, worker)
    serves = worker.generation == state.current and worker.phase is Phase.SERVING
    if event.unready and serves and takeover.better_before(state):
        return takeover.turn_back(state, f"it became unready: {event.unready}", event.key, now)
    return state, []


def _stop(state: State, signal: int, now: float) -> tuple[State, list[Action]]:
    if state.leaving:
        state = state._replace(code=state.code or 128 + signal, reason=state.reason or "stopped at once")
        return _kill_all(state, "stopped at once")
    actions: list[Action] = []
    if state.current and (state.coming or state.back):
        actions.append(Refused(state.coming or state.back, "the server was told to stop", 0))
    if state.before:
        actions.append(Replaced(state.current, state.before))  # what was asked for has happened; all of it leaves now
    state = state._replace(leaving=True, coming=0, before=0, back=0, slots=(), reason="", bake_until=NEVER)
    for worker in state.workers:
        if worker.phase in LOADING:
            actions.append(Kill(worker.key, "the server was told to stop"))
        elif worker.phase is not Phase.LEAVING:
            actions.append(Drain(worker.key))
        state = roster.leaving(state, worker, now)
    return state, actions


def _kill_all(state: State, reason: str) -> tuple[State, list[Action]]:
    actions: list[Action] = [Kill(worker.key, reason) for worker in state.workers]
    gone = tuple(w._replace(phase=Phase.LEAVING, deadline=NEVER) for w in state.workers)
    return state._replace(workers=gone, slots=(), coming=0), actions


def _awake(state: State, now: float) -> State:
    if now - due(state) < OVERSLEPT_S:
        return state
    return state._replace(workers=tuple(w._replace(beat_at=max(now, w.beat_at)) for w in state.workers))


def _may_fill(state: State) -> bool:
    return not state.scaling or roster.room(state, state.current) > 0


def _follow(state: State, actions: list[Action], now: float) -> tuple[State, list[Action]]:
    """What is to be done in the present state, whichever event led to it."""
    state = takeover.follow(state, actions, now)
    for number, slot in enumerate(state.slots):
        if slot.retry_at <= now and _may_fill(state):
            state = roster.refilled(state, number, slot._replace(retry_at=NEVER))
            state, action = roster.started(state, state.current, number, now)
            actions.append(action)
    state = recycle.follow(state, actions, now)
    state = losses.follow(state, actions, now)
    if state.leaving and not state.workers:
        state = state._replace(ended=True)
        actions.append(Finish(state.code, state.reason))
    return state, actions
