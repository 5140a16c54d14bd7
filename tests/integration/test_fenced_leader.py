"""A leader that is stopped and goes on later (SIGSTOP, SIGCONT): another one leads by then, and it writes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gapless.control.election import Election
from gapless.control.fence import FencedStore, Leadership
from gapless.control.leader import LEASE_S, Candidate, Term
from gapless.core.errors import NotLeader, StoreUnreachable
from gapless.core.world import RealWorld
from gapless.store import open_store
from gapless.testing import FakeWorld
from tests.integration.etcd_kit import Etcd

FOLLOWED_S = LEASE_S + 10.0


async def write_for_ever(where: str) -> None:
    """As leader, write one number after the other; tell each that was acknowledged, and why it ends."""
    world = RealWorld()
    store = await open_store(where, world)
    election = Election(store, Candidate(id="paused", machine="here", pid=os.getpid()), world)
    term = await election.win()
    assert term is not None
    holding = asyncio.create_task(election.hold(term))
    # Its clock stands still, so that it never knows by itself: here the store alone is to refuse.
    unaware = Leadership(FakeWorld(), Term(revision=term.term.revision, held_at=0.0))
    fenced, number = FencedStore(store, unaware), 0
    while True:
        try:
            await fenced.put("k", str(number).encode())
        except NotLeader as error:
            tell({"ended": str(error)})
            break
        except StoreUnreachable:
            continue  # stopped for longer than an answer is waited for: it may be written, and is not told
        tell({"wrote": number})
        number += 1
    await holding
    await store.close()


def tell(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


@asynccontextmanager
async def writer(where: str) -> AsyncIterator[asyncio.subprocess.Process]:
    code = f"import asyncio; from {__name__} import write_for_ever; asyncio.run(write_for_ever({where!r}))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(process: asyncio.subprocess.Process) -> dict[str, object]:
    assert process.stdout is not None
    line: dict[str, object] = json.loads(await asyncio.wait_for(process.stdout.readline(), FOLLOWED_S))
    return line


async def test_a_stopped_leader_that_goes_on_is_refused() -> None:
    with Etcd() as server:
        where, world = server.address(), RealWorld()
        async with writer(where) as process:
            for number in range(5):
                assert await told(process) == {"wrote": number}
            process.send_signal(signal.SIGSTOP)
            store = await open_store(where, world)
            election = Election(store, Candidate(id="next", machine="here", pid=os.getpid()), world)
            term = await asyncio.wait_for(election.win(), FOLLOWED_S)
            assert term is not None
            revision = await FencedStore(store, term).put("k", b"the next leader's")
            process.send_signal(signal.SIGCONT)
            while "ended" not in (last := await told(process)):
                pass
            assert "another one leads" in str(last["ended"])
            entry = await store.get("k")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"the next leader's", revision)
            await store.close()
