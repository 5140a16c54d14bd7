"""The comparer's process as the control plane has it. It ends with its pipe: whoever is killed leaves none behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from gapless.control.gates.process import environment
from gapless.control.gates.scene import Scene
from gapless.core import codec
from gapless.core.errors import GaplessError
from gapless.core.model import Address, Network
from gapless.core.model.mirror import MirrorPlan, MirrorTally
from gapless.core.model.network import ON_LOOPBACK
from gapless.core.ports import Process, World

START_S = 60.0
"""It listens after 0.3 s; machines are busy."""
LONGEST_REPORT = 1 << 20


class Comparer(Protocol):
    """What the loop needs of one."""

    @property
    def address(self) -> Address | None:
        """Where it listens; None once it has ended."""

    @property
    def tally(self) -> MirrorTally: ...
    def follow(self, plan: MirrorPlan) -> None: ...
    async def stop(self) -> None: ...


StartComparer = Callable[[MirrorPlan, Scene], Awaitable[Comparer]]


def comparers(world: World, network: Network = ON_LOOPBACK) -> StartComparer:
    """Real ones."""

    async def start(plan: MirrorPlan, scene: Scene) -> Comparer:
        return await start_comparer(plan, scene, world, network)

    return start


async def start_comparer(
    plan: MirrorPlan, scene: Scene, world: World, network: Network = ON_LOOPBACK
) -> ComparerProcess:
    """Until it listens. Raises GaplessError when it does not; then nothing is left."""
    plans_in, plans_out = os.pipe()
    reports_in, reports_out = os.pipe()
    os.set_blocking(plans_out, False)
    reports = await _reader(reports_in)
    try:
        process = await _spawn(scene, world, plans_in, reports_out, network.bind)
    except BaseException:
        os.close(plans_out)
        reports.close()
        raise
    finally:
        os.close(plans_in)
        os.close(reports_out)
    comparer = ComparerProcess(process, plans_out, reports, network.advertise)
    comparer.follow(plan)
    try:
        await comparer.listen(scene)
    except BaseException:
        await comparer.stop()
        raise
    return comparer


class _Reports:
    """Lines from a pipe."""

    def __init__(self, stream: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self.readline = stream.readline
        self.close = transport.close


class ComparerProcess:
    """Made by `start_comparer`."""

    def __init__(self, process: Process, plans: int, reports: _Reports, host: str) -> None:
        self._process = process
        self._plans = plans
        self._reports = reports
        self._host = host
        self._port = 0
        self._tally = MirrorTally()
        self._reading: asyncio.Task[None] | None = None

    async def listen(self, scene: Scene) -> None:
        """Until it tells its port. Raises GaplessError."""
        try:
            self._port = int(await asyncio.wait_for(self._reports.readline(), START_S) or 0)
        except TimeoutError:
            raise GaplessError(f"the comparer did not listen within {START_S:g} s") from None
        if not self._port:
            raise GaplessError(f"the comparer ended at once; its words are in {scene.scratch / LOG}")
        self._reading = asyncio.create_task(self._read(), name="comparer's reports")

    @property
    def address(self) -> Address | None:
        return None if self._reading is None or self._reading.done() else Address(host=self._host, port=self._port)

    @property
    def tally(self) -> MirrorTally:
        return self._tally

    def follow(self, plan: MirrorPlan) -> None:
        """What does not fit into the pipe is told by the next plan: a comparer that reads none is given up anyway."""
        try:
            os.write(self._plans, codec.encode(plan) + b"\n")
        except (BlockingIOError, BrokenPipeError):
            return

    async def _read(self) -> None:
        while line := await self._reports.readline():
            self._tally = codec.decode(line, MirrorTally)

    async def stop(self) -> None:
        if self._plans >= 0:
            os.close(self._plans)
            self._plans = -1
        self._process.kill(signal.SIGKILL)  # nobody waits for what it does
        if self._reading:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._reports.close()
        await self._process.wait()


LOG = "comparer.log"


async def _spawn(scene: Scene, world: World, plans: int, reports: int, bind: str) -> Process:
    scene.scratch.mkdir(parents=True, exist_ok=True)
    log = scene.scratch / LOG
    argv = [sys.executable, "-P", "-m", "gapless.gateway.mirror", str(plans), str(reports), bind]
    try:
        env = environment(os.environ, scene, Path(os.devnull))
        return await world.spawn(argv, env=env, cwd=scene.base, output=log, pass_fds=(plans, reports))
    except OSError as error:
        raise GaplessError(f"the comparer cannot be started: {error}") from error


async def _reader(descriptor: int) -> _Reports:
    stream = asyncio.StreamReader(limit=LONGEST_REPORT)
    protocol = asyncio.StreamReaderProtocol(stream)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    return _Reports(stream, transport)
