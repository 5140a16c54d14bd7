"""The real world: the only clock, dice, processes and ports of Gapless (`core.ports.World`).

Everything that decides takes time and chance as arguments; everything that acts gets them from here, so that
`gapless.testing.FakeWorld` can stand in and no unit test ever sleeps.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ChildProcess:
    """A child in a session of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self, signal: int) -> None:
        try:
            self._process.send_signal(signal)
        except ProcessLookupError:
            return  # it ended by itself, which is what was wanted


class RealWorld:
    """`core.ports.World` on the operating system."""

    # The functions themselves, without a method around them: guards read the clock several times for each call.
    now = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    @cached_property
    def random(self) -> Callable[[], float]:
        from random import random  # not secrets, but jitter and sampling: few need any of it at once

        return random

    @cached_property
    def bits(self) -> Callable[[int], int]:
        from random import Random  # one of its own: applications may seed the shared one, all workers alike

        return Random().getrandbits  # noqa: S311 - names for what may be known

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def token(self) -> str:
        from secrets import token_hex

        return token_hex(4)

    def free_port(self, host: str) -> int:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> ChildProcess:
        sink = os.open(output or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        finally:
            os.close(sink)
        return ChildProcess(process)

    def after(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(seconds, call).cancel
