"""What a master makes of the state that its killed predecessor left, decided purely.

The state is saved before anything is done, so the predecessor may have been killed before it did what the state says,
and after it heard what the state does not say yet. The first is done again, which never harms; about the second each
worker is asked.
"""

from __future__ import annotations

from collections.abc import Collection

from gapless.server.generations import generation as g
from gapless.server.generations import roster

GRACE_S = 5.0
"""What every deadline is put off to at least: nobody is judged by the time without a master."""


def resume(state: g.State, there: Collection[int], now: float) -> tuple[g.State, list[g.Action]]:
    """`there` are the keys of the workers whose channels are left. Of the others nothing was ever started."""
    slots = list(state.slots)
    for worker in state.workers:
        counts = worker.generation == state.current and worker.phase is not g.Phase.LEAVING and not worker.replaces
        if counts and worker.key not in there and worker.slot < len(slots):
            slots[worker.slot] = slots[worker.slot]._replace(retry_at=now)
    workers = tuple(_spared(worker, now) for worker in state.workers if worker.key in there)
    doomed = [w for w in workers if w.phase is g.Phase.LEAVING and w.deadline == g.NEVER]
    actions: list[g.Action] = [g.Kill(worker.key, "it was given up by an earlier master") for worker in doomed]
    return state._replace(workers=workers, slots=tuple(slots), ended=False), actions


def _spared(worker: g.Worker, now: float) -> g.Worker:
    return worker._replace(beat_at=max(worker.beat_at, now), deadline=max(worker.deadline, now + GRACE_S))


def catch_up(state: g.State, key: int, phase: str, accepting: bool) -> tuple[list[g.Event], list[g.Action]]:
    """What follows from a worker's own word about how far it has come (`handover.Here`): events that were missed, and
    orders that were never given."""
    worker = roster.find(state, key)
    if worker is None:
        return [], []
    return _missed(worker, phase, accepting), _untold(state, worker, phase)


def _missed(worker: g.Worker, phase: str, accepting: bool) -> list[g.Event]:
    match phase, worker.phase:
        case "prepared", g.Phase.STARTING:
            return [g.Prepared(worker.key)]
        case "prepared", g.Phase.CARRYING:
            return [g.Carried(worker.key)]
        case "serving", g.Phase.COMMITTED if accepting:
            return [g.Serving(worker.key)]
        case "leaving", other if other is not g.Phase.LEAVING:
            return [g.Left(worker.key)]
        case "paused" | "leaving", g.Phase.PAUSED | g.Phase.LEAVING if not accepting:
            return [g.Stopped(worker.key)]
    return []


def _untold(state: g.State, worker: g.Worker, phase: str) -> list[g.Action]:
    match phase, worker.phase:
        case "prepared", g.Phase.COMMITTED:
            return [g.Commit(worker.key)]
        case "serving", g.Phase.PAUSED:
            return [g.Pause(worker.key)]
        case "paused", g.Phase.COMMITTED:
            return [g.Recall(worker.key)]
        case "starting" | "prepared", g.Phase.LEAVING:
            return [g.Kill(worker.key, "it is not needed any more")]
        case "serving" | "paused", g.Phase.LEAVING:
            return [g.Drain(worker.key) if state.leaving else g.Retire(worker.key)]
    return []
