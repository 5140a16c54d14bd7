"""A master takes over from one that was killed, or that left in its favour: listeners, workers, counters, and the
reload or the drain that was under way.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gapless.server.generations import generation as g
from gapless.server.keeper import WORKER
from gapless.server.master.keep import Legacy
from gapless.server.master.plain import from_plain
from gapless.server.master.record import STATE

if TYPE_CHECKING:
    from gapless.server.master.master import Master

_log = logging.getLogger("gapless.server")


def adopt(master: Master, legacy: Legacy) -> None:
    """Everything that `legacy` tells of. Raises KeyError, TypeError or ValueError when it cannot be read."""
    record = legacy.value(STATE)
    state: g.State = from_plain(g.State, record["state"])
    master.state = state._replace(limits=master.state.limits)
    master.orders.stops, master.orders.had_terminal = record["stops"], record["terminal"]
    master.archive.resume(legacy.value("archive") or {})
    pids = dict(record["pids"])
    for worker in state.workers:
        if f"{WORKER}{worker.key}" in legacy.held:
            _adopt_worker(master, legacy, worker, pids.get(worker.key, 0))
    _drop_ended(master, legacy)
    _log.warning("master %s, this one has adopted %d workers", _ending(legacy.before), len(master.children))
    master.save_archive()
    master.feed(g.Resume(frozenset(master.children)))
    for number in legacy.stops[master.orders.stops :]:
        master.orders.obey(number)


def _adopt_worker(master: Master, legacy: Legacy, worker: g.Worker, pid: int) -> None:
    child = master.make_child(worker.key, worker.generation, worker.slot)
    child.talks = worker.phase is not g.Phase.STARTING
    child.samples = master.archive.shown.get(worker.key, [])
    child.adopt(legacy.held[f"{WORKER}{worker.key}"], pid)
    master.children[worker.key] = child
    if pid in legacy.ended:
        child.reaped(legacy.ended[pid])


def _drop_ended(master: Master, legacy: Legacy) -> None:
    """What is held of workers of whose end the earlier master had already taken note."""
    for name in legacy.held:
        if name.startswith(WORKER) and int(name.removeprefix(WORKER)) not in master.children:
            master.keep.drop(name)


def _ending(before: str) -> str:
    """`pid:status` for people."""
    pid, _, status = before.partition(":")
    return f"{pid} has ended" + (f" (status {status})" if status else "")
