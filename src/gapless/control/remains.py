"""Taking down what is left in a state directory of a system on a shared store, when no control plane answers there."""

from __future__ import annotations

import asyncio
import os

from gapless.config import System
from gapless.control.compose import compose
from gapless.control.election import Election
from gapless.control.fence import FencedStore
from gapless.control.home import home_of, known_home, machine
from gapless.control.leader import Candidate
from gapless.control.seat import Seat
from gapless.core.errors import StoreLocked
from gapless.core.events import Events
from gapless.core.model import Address, Instance
from gapless.core.ports import Fleet, Store
from gapless.core.world import RealWorld
from gapless.store import open_store

ELECTION_S = 30.0
"""A dead leader's lease lapses long before."""


async def take_down(system: System) -> None:
    """As leader, if the system lives here. If it lives elsewhere by now, only what still runs here is ended, and its
    records, which are of what runs there, are left alone. Raises StoreLocked, StoreUnreachable."""
    world = RealWorld()
    store = await open_store(system.store, world)
    seat = Seat(system.state, world)
    try:
        if await known_home(store) == home_of(system.name, system.state):
            await _lead(system, store, seat)
        else:
            await seat.seize()
            await _end_local(system, store)
    finally:
        seat.release()
        await store.close()


async def _lead(system: System, store: Store, seat: Seat) -> None:
    world = RealWorld()
    me = Candidate(id=world.token(), machine=machine(), pid=os.getpid(), since_at=world.time())
    election = Election(store, me, world)
    try:
        async with asyncio.timeout(ELECTION_S):
            leadership = await election.win()
    except TimeoutError:
        raise StoreLocked(f"{await election.leader()} leads {system.name}, and does not answer here") from None
    if leadership is None:
        return  # whoever leads takes it down this very moment
    holding = asyncio.create_task(election.hold(leadership))
    try:
        await seat.seize()
        plane = await compose(system, Events(), FencedStore(store, leadership))
        await election.dismiss_standbys()
        await plane.take_down()
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await election.withdraw()


async def _end_local(system: System, store: Store) -> None:
    plane = await compose(system, Events(), store)
    await plane.gateway.adopt()
    await plane.gateway.stop(0.0)
    await _end_all(plane.fleet)


async def _end_all(fleet: Fleet) -> None:
    for running in await fleet.list():
        await fleet.stop(Instance(id=running.id, service="", release="", address=Address(host="", port=0)), 0.0)
        await fleet.forget(running.id)
    await fleet.close()
