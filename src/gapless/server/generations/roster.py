"""The workers of a `State`: who is there, and the same state with one of them changed. All pure."""

from __future__ import annotations

from gapless.server.generations.generation import LOADING, NEVER, Action, Phase, Slot, Stage, Start, State, Worker


def find(state: State, key: int) -> Worker | None:
    return next((worker for worker in state.workers if worker.key == key), None)


def of(state: State, generation: int, *phases: Phase) -> list[Worker]:
    """Those of a generation, in any of the phases (in all of them when none is named)."""
    return [w for w in state.workers if w.generation == generation and (w.phase in phases or not phases)]


def put(state: State, worker: Worker) -> State:
    return state._replace(workers=tuple(worker if w.key == worker.key else w for w in state.workers))


def without(state: State, key: int) -> State:
    return state._replace(workers=tuple(worker for worker in state.workers if worker.key != key))


def started(state: State, generation: int, slot: int, now: float, replaces: int = 0) -> tuple[State, Start]:
    key = state.keys + 1
    deadline = now + state.limits.start_s
    worker = Worker(key, generation, slot, Phase.STARTING, deadline, now, replaces=replaces)
    return state._replace(keys=key, workers=(*state.workers, worker)), Start(key, generation, slot)


def leaving(state: State, worker: Worker, now: float) -> State:
    """It has been told to go, and may take its time until a deadline."""
    deadline = worker.deadline if worker.phase is Phase.LEAVING else NEVER
    deadline = min(deadline, now + state.limits.leave_s)
    return put(state, worker._replace(phase=Phase.LEAVING, deadline=deadline))


def committed(state: State, worker: Worker, now: float) -> State:
    """It has been told to accept."""
    deadline = now + state.limits.commit_s
    return put(state, worker._replace(phase=Phase.COMMITTED, deadline=deadline, accepting=True))


def refilled(state: State, number: int, slot: Slot) -> State:
    slots = list(state.slots)
    slots[number] = slot
    return state._replace(slots=tuple(slots))


def able(state: State, generation: int) -> int:
    """How many of a generation could answer now."""
    return sum(not worker.unready for worker in of(state, generation, Phase.SERVING, Phase.PAUSED))


def kept(state: State) -> int:
    """How many slots are filled again whenever they are empty."""
    return sum(not slot.given_up for slot in state.slots)


def room(state: State, generation: int) -> int:
    """How many more workers of a generation may load now without taking the core of one that serves."""
    if not any(worker.phase is Phase.SERVING for worker in state.workers):
        return len(state.slots) + state.wanted
    return state.abreast - len(of(state, generation, Phase.STARTING))


def successor(state: State, key: int) -> Worker | None:
    """The fresh one that is to replace a recycled worker."""
    return next((w for w in state.workers if w.replaces == key and w.phase is not Phase.LEAVING), None)


def busy(state: State) -> str:
    """Why nothing else can be changed now; empty when it can."""
    if state.leaving:
        return "the server is draining"
    if not state.current:
        return "the server is still starting"
    if state.coming:
        return f"generation {state.coming} is being started"
    if state.back:
        return f"generation {state.current} is coming back for {state.back}"
    if state.before and state.bake_until < NEVER:
        return f"generation {state.current} is in its bake time"
    return f"generation {state.current} is still taking over from {state.before}" if state.before else ""


def staged(state: State, name: str, actions: list[Action], now: float) -> State:
    actions.append(Stage(state.coming or state.current, name, now - state.stage_at))
    return state._replace(stage_at=now)


def loading(state: State, generation: int) -> list[Worker]:
    return of(state, generation, *LOADING)
