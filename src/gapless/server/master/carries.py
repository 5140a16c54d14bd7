"""How the master brings a worker's state to the one that takes its place. It never looks into it (`handover.carry`)."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from gapless.server.generations import generation as g
from gapless.server.generations import roster
from gapless.server.handover import handover
from gapless.server.master.child import Child

if TYPE_CHECKING:
    from gapless.server.master.master import Master

_log = logging.getLogger("gapless.server")


class Carries:
    """Whatever happens, the deciders hear that it is over, or do not wait any longer."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, action: g.Carry) -> None:
        task = asyncio.ensure_future(self._carry(action))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _carry(self, action: g.Carry) -> None:
        old, new = (self._master.children.get(key) for key in (action.source, action.key))
        if old is None or new is None or not await self._pass_on(old, new):
            self._master.feed(g.Carried(action.key))

    async def _pass_on(self, old: Child, new: Child) -> bool:
        """True when there is something, and the new one will say that it has taken it."""
        told = await old.ask_state(self._master.state.limits.carry_s)
        if told is None:
            self._count("lost", 1)
            _log.warning("the state of worker %d did not come in time: worker %d begins without it", old.pid, new.pid)
            return False
        self._count("left behind", len(told.body["behind"]))
        if not told.fds:
            return False
        worker = roster.find(self._master.state, new.key)
        if worker is None or worker.phase is not g.Phase.CARRYING:
            os.close(told.fds[0])
            self._count("lost", 1)
            return False
        new.send(handover.State(), told.fds, give=True)
        return True

    def taken(self, child: Child, message: handover.Taken) -> None:
        self._count("carried", len(message.names))
        self._count("left behind", len(message.behind))
        _log.info("worker %d has taken over the state %s", child.pid, ", ".join(message.names) or "of nobody")
        self._master.feed(g.Carried(child.key))

    def _count(self, result: str, number: int) -> None:
        self._master.archive.state[result] += number
