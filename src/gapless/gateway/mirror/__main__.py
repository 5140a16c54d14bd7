"""The comparer's process: `python -m gapless.gateway.mirror PLANS REPORTS HOST`, two descriptors of pipes and
the address of this machine that it listens on.

A line of `PLANS` is a plan; it ends with its last writer, and so does this process: nothing is left behind by a control
plane that is killed. A line of `REPORTS` is first the port that is listened on, then a tally, twice a second at most.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import uvicorn

from gapless.core import codec
from gapless.core.model.mirror import MirrorPlan
from gapless.core.world import RealWorld
from gapless.gateway.mirror.comparer import Comparer

REPORT_S = 0.5
LONGEST_PLAN = 1 << 20


async def main(plans: int, reports: int, host: str) -> None:
    world = RealWorld()
    lines = await _reader(plans)
    comparer = Comparer(world, codec.decode(await lines.readline(), MirrorPlan))
    server = uvicorn.Server(_config(comparer, host))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await world.sleep(0.01)
    reporting = asyncio.create_task(_report(server, comparer, reports, world))
    try:
        while line := await lines.readline():
            comparer.follow(codec.decode(line, MirrorPlan))
    finally:
        server.should_exit = server.force_exit = True
        reporting.cancel()
        await comparer.close()
        await asyncio.gather(serving, reporting, return_exceptions=True)


def _config(comparer: Comparer, host: str) -> uvicorn.Config:
    return uvicorn.Config(
        comparer,
        host=host,
        port=0,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        date_header=False,
        timeout_keep_alive=60,  # the gateway closes idle connections first
    )


async def _reader(descriptor: int) -> asyncio.StreamReader:
    stream = asyncio.StreamReader(limit=LONGEST_PLAN)
    protocol = asyncio.StreamReaderProtocol(stream)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb", buffering=0))
    return stream


async def _report(server: uvicorn.Server, comparer: Comparer, descriptor: int, world: RealWorld) -> None:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    writer.write(f"{server.servers[0].sockets[0].getsockname()[1]}\n".encode())
    told = b""
    while True:
        tally = codec.encode(comparer.tally.value())
        if tally != told:
            writer.write(tally + b"\n")
            told = tally
        await writer.drain()
        await world.sleep(REPORT_S)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
