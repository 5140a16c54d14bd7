"""`gapless up` on a store that several control planes share: stand by, lead while the lease holds, stand by again.

Only a wish to end takes the system down. Whatever else ends a term leaves gateway and instances running, for whoever
leads next.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gapless.config import System
from gapless.control.compose import compose, make_state
from gapless.control.election import Election
from gapless.control.fence import FencedStore, Leadership
from gapless.control.home import check_home, claim_home, home_of, machine
from gapless.control.leader import Candidate
from gapless.control.plane import ControlPlane
from gapless.control.seat import Seat
from gapless.control.standby import Standby, control_status
from gapless.core.errors import NotLeader, StoreUnreachable
from gapless.core.events import Events
from gapless.core.ports import Store, World


class Stop(Protocol):
    """The wish to end."""

    asked: asyncio.Event
    down: bool
    """It was asked for by `gapless down`: those who stand by are to end, too."""

    def at_once(self) -> bool: ...


class Show(Protocol):
    """What people and programs are told."""

    def event(self, event: Any) -> None: ...
    def standing_by(self, leader: str) -> None: ...
    def leading(self) -> None: ...
    def deposed(self, reason: str) -> None: ...
    def handing_over(self, to: str) -> None: ...
    def stopping(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What a control plane does in each, from the layer above: `leading` and `standing_by` open its socket, `serve`
    returns when the one that leads is to end."""

    leading: Callable[[ControlPlane], AbstractAsyncContextManager[None]]
    standing_by: Callable[[Standby], AbstractAsyncContextManager[None]]
    serve: Callable[[ControlPlane], Awaitable[None]]


class Turns:
    """`read` gives the system as the file has it now: who takes over goes by the newest."""

    def __init__(
        self,
        read: Callable[[], System],
        store: Store,
        world: World,
        roles: Roles,
        stop: Stop,
        show: Show,
        *,
        move: bool,
    ) -> None:
        self._read, self._store, self._world = read, store, world
        self._roles, self._stop, self._show = roles, stop, show
        self._move = move
        self._system = read()
        me = Candidate(id=world.token(), machine=machine(), pid=os.getpid(), since_at=world.time())
        self._election = Election(store, me, world)
        self._seat = Seat(self._system.state, world)

    async def run(self) -> None:
        """Until it is to end. Raises ConfigError for a store that holds something else, and what a start raises."""
        system = self._system
        make_state(system.state)
        sweep(system.state)
        await check_home(self._store, home_of(system.name, system.state), move=self._move)
        try:
            while (leadership := await self._stand_by()) and await self._turn(leadership):
                pass
        finally:
            await self._election.withdraw()
            await self._store.close()

    async def _stand_by(self) -> Leadership | None:
        """The next term; None when we are to end, or were sent home."""
        async with self._roles.standing_by(Standby(self._system, self._store, self._election)):
            winning = asyncio.create_task(self._election.win(lambda leader: self._show.standing_by(str(leader))))
            stopped = asyncio.create_task(self._stop.asked.wait())
            try:
                await asyncio.wait({winning, stopped}, return_when=asyncio.FIRST_COMPLETED)
                return winning.result() if winning.done() else None
            finally:
                winning.cancel()
                stopped.cancel()
                await asyncio.gather(winning, stopped, return_exceptions=True)

    async def _turn(self, leadership: Leadership) -> bool:
        """One term; whether to stand by again."""
        holding = asyncio.create_task(self._election.hold(leadership), name="lease")
        try:
            await self._seat.seize()
            return await self._lead(leadership)
        except (NotLeader, StoreUnreachable) as error:
            leadership.lose(error.what)
            self._show.deposed(leadership.reason)
            return True
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            self._seat.release()  # first: the next leader ends whoever still sits there
            await self._election.withdraw()

    async def _lead(self, leadership: Leadership) -> bool:
        self._system = system = self._read()
        fenced = FencedStore(self._store, leadership)
        await claim_home(fenced, home_of(system.name, system.state), move=self._move)
        plane = await compose(
            system, Events([self._show.event]), fenced, lambda: self._told(system, leadership.standbys)
        )
        self._show.leading()
        async with self._roles.leading(plane):
            try:
                await self._until_over(plane, leadership)
            except (NotLeader, StoreUnreachable):
                await plane.detach()
                raise
            except BaseException:
                await self._give_up(plane)
                raise
            if leadership.lost.is_set():
                await plane.detach()
                self._show.deposed(leadership.reason)
                return True
            await self._end(plane, leadership)
            return False

    async def _until_over(self, plane: ControlPlane, leadership: Leadership) -> None:
        """Start and serve, until that is to end or the term is over."""

        async def work() -> None:
            await plane.start()
            await self._roles.serve(plane)

        working = asyncio.create_task(work())
        lost = asyncio.create_task(leadership.lost.wait())
        try:
            await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            working.cancel()
            lost.cancel()
            await asyncio.gather(working, lost, return_exceptions=True)

    async def _give_up(self, plane: ControlPlane) -> None:
        """A start that failed: a system that was running goes on without us, a new one leaves nothing behind."""
        if plane.records.instances():
            await plane.detach()
        else:
            await plane.stop(at_once=self._stop.at_once)

    async def _end(self, plane: ControlPlane, leadership: Leadership) -> None:
        """Hand over to whoever stands by; take the system down when nobody does, or when that is what was asked."""
        standbys = () if self._stop.down else await self._election.standbys()
        if standbys:
            self._show.handing_over(str(standbys[0]))
            await plane.detach()
            return
        await self._election.dismiss_standbys()
        self._show.stopping()
        await plane.stop(at_once=self._stop.at_once)

    def _told(self, system: System, standbys: tuple[Candidate, ...]) -> dict[str, Any]:
        return control_status(system, self._election.me, standbys)


def standby_socket(state: Path, pid: int) -> Path:
    """Where a control plane that stands by can be asked."""
    return state / f"standby-{pid}.sock"


def sweep(state: Path) -> None:
    """Remove the sockets of those that were killed while they stood by."""
    for path in state.glob("standby-*.sock"):
        if not Path(f"/proc/{path.stem.rpartition('-')[2]}").exists():
            path.unlink(missing_ok=True)
