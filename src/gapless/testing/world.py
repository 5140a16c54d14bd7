"""A world where time passes only when the test says so, dice fall the same each time and processes are pretended."""

from __future__ import annotations

import asyncio
import heapq
import signal as signals
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

EPOCH_AT = 1_700_000_000.0
"""What `time()` says when `now()` is 0: a plausible date, so that a mix-up of the two clocks shows."""
SPIN_LIMIT = 10_000
"""Passes of the loop after which tasks that never come to rest are called a busy loop."""
BLIND_PASSES = 50
"""Passes on a loop that does not show its queue (uvloop): chains of woken tasks are rarely longer."""

THREAD_LOOK_S = 0.001
"""Real seconds between two looks whether a thread is still at work."""

_MASK = (1 << 64) - 1


class Dice:
    """SplitMix64 (Steele, Lea, Flood 2014): the same numbers from the same seed on every version of Python."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def roll(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """What `FakeWorld.spawn` was asked for."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    output: Path | None
    pass_fds: tuple[int, ...]


@dataclass(slots=True, eq=False)
class FakeProcess:
    """A pretended child. It runs until the test calls `exit`; SIGKILL ends it at once, as the kernel would.

    `on_signal`, when set, is called with every other signal: `process.on_signal = lambda _: process.exit(0)` obeys.
    """

    pid: int
    spawned: Spawned
    signals: list[int] = field(default_factory=list)
    on_signal: Callable[[int], None] | None = None
    status: int | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        """The exit status, once there is one."""
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def kill(self, signal: int) -> None:
        """Send a signal. A process that has ended does not hear it."""
        if self.status is not None:
            return
        self.signals.append(signal)
        if signal == signals.SIGKILL:
            self.exit(-signal)
        elif self.on_signal:
            self.on_signal(signal)

    def exit(self, status: int) -> None:
        """End it. Only the first end counts."""
        if self.status is None:
            self.status = status
            self._ended.set()


@dataclass(slots=True, eq=False)
class _Timer:
    call: Callable[[], None] | None

    def cancel(self) -> None:
        self.call = None


class FakeWorld:
    """`core.ports.World` for tests.

    `await world.advance(seconds)` is the only way in which time passes. Everything that falls due on the way runs in
    order, each at its own moment, and whoever it wakes runs until everybody waits again before time moves on. Work in
    threads takes real time, and is waited for only where `wait_for` says how to see it.

    `processes` holds every pretended process in order of its start. `script`, when set, is called with each new one and
    may end it at once, set `on_signal`, or raise OSError as a failing `spawn` does.
    """

    def __init__(self, seed: int = 0) -> None:
        self.processes: list[FakeProcess] = []
        self.script: Callable[[FakeProcess], None] | None = None
        self._now = 0.0
        self._set_s = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        """When each is due; of those at the same moment the first comer's number is the lowest."""
        self._order = count()
        self._dice = Dice(seed)
        self._tokens: set[str] = set()
        self._ports = count(20_000)
        self._pids = count(10_000)
        self._busy: list[Callable[[], bool]] = []

    def now(self) -> float:
        return self._now

    def time(self) -> float:
        return EPOCH_AT + self._now + self._set_s

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock of the machine, forward or back; what waits is not concerned."""
        self._set_s += seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return await asyncio.sleep(0)
        woken = asyncio.Event()
        cancel = self.after(seconds, woken.set)
        try:
            await woken.wait()
        finally:
            cancel()

    def pause(self, seconds: float) -> None:
        """Time passes at once: a thread that waits has nobody who could `advance` meanwhile."""
        self._now += max(seconds, 0.0)

    def after(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        timer = _Timer(call)
        heapq.heappush(self._timers, (self._now + max(seconds, 0.0), next(self._order), timer))
        return timer.cancel

    def random(self) -> float:
        return (self._dice.roll() >> 11) / (1 << 53)

    def bits(self, count: int) -> int:
        rolls = -(-count // 64)
        return sum(self._dice.roll() << 64 * place for place in range(rolls)) >> (64 * rolls - count)

    def token(self) -> str:
        token = f"{self._dice.roll() & 0xFFFFFFFF:08x}"
        if token in self._tokens:
            return self.token()
        self._tokens.add(token)
        return token

    def free_port(self, host: str) -> int:
        return next(self._ports)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> FakeProcess:
        spawned = Spawned(argv=tuple(argv), env=dict(env), cwd=cwd, output=output, pass_fds=tuple(pass_fds))
        process = FakeProcess(pid=next(self._pids), spawned=spawned)
        if self.script:
            self.script(process)
        self.processes.append(process)
        return process

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass. `advance(0)` runs what is due now and lets woken tasks come to rest."""
        until = self._now + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= until:
            self._now = max(self._now, self._timers[0][0])
            self._ring()
            await self.settle()
        self._now = until

    def stall(self, seconds: float) -> None:
        """Time passes and nothing runs, as when the process is stopped (SIGSTOP): what was due rings late."""
        self._now += seconds

    def _ring(self) -> None:
        """Run everything that is due at this moment, first come first served."""
        while self._timers and self._timers[0][0] <= self._now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.call:
                timer.call()

    def wait_for(self, busy: Callable[[], bool]) -> None:
        """Let no time pass while `busy()`: a thread is at work, and who waits for it would seem to wait for hours."""
        self._busy.append(busy)

    async def settle(self) -> None:
        """Let the loop go round until every task waits for something that only time or the test can bring."""
        await self._rest()
        while any(busy() for busy in self._busy):
            await asyncio.sleep(THREAD_LOOK_S)
            await self._rest()

    async def _rest(self) -> None:
        # The loop's own queue is the one exact sign of rest: a fixed number of passes is too few for a long chain of
        # woken tasks, and too slow for an hour of ticks.
        queue = getattr(asyncio.get_running_loop(), "_ready", None)
        for _ in range(BLIND_PASSES if queue is None else SPIN_LIMIT):
            await asyncio.sleep(0)
            if queue is not None and not queue:
                return
        if queue:
            raise RuntimeError("tasks keep running without ever waiting: FakeWorld cannot let time pass")

    @property
    def pending(self) -> int:
        """Timers and sleepers that still wait: 0 at a test's end means that nothing was left behind."""
        return sum(1 for _, _, timer in self._timers if timer.call)
