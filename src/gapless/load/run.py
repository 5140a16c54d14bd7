"""The loop that sends what is due, on as many connections as it may, and records what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from gapless.core.ports import World
from gapless.load import schedule
from gapless.load.cause import Answer, Cause, Loss, judge, unconnected
from gapless.load.request import Request, Template
from gapless.load.spec import LoadSpec
from gapless.load.summary import Record, Summary, Tally
from gapless.load.wire import Line, connect

STOP_LOOK_S = 0.2
"""The longest sleep between two looks at `stop`: a stop is answered within it at any rate."""

BURST = 64
"""So many requests that are already due are sent before the answers are looked at: a client that is behind its schedule
must go on reading."""


class Load:
    """Runs a spec once. `watch` hears of every request, in the order in which they end; it must not block."""

    def __init__(self, spec: LoadSpec, world: World, watch: Callable[[Record], None] | None = None) -> None:
        self.spec = spec
        self.tally = Tally()
        self._world = world
        self._watch = watch
        self._target = spec.check()
        self._template = Template.of(spec, self._target)
        self._queue: asyncio.Queue[Request | None] = asyncio.Queue()
        self._began = 0.0
        self._epoch = 0.0
        self._ended = 0.0

    async def run(self, stop: asyncio.Event | None = None) -> Summary:
        """Until the spec's time is over or `stop` is set; then wait for what is under way (no longer than the time
        limit of a request). Raises nothing for lost requests: they are in the summary."""
        self._began, self._epoch = self._world.now(), self._world.time()
        async with asyncio.TaskGroup() as group:
            for _ in range(self.spec.connections):
                group.create_task(self._slot())
            await self._dispatch(stop or asyncio.Event())
            self._ended = self._world.now()
            for _ in range(self.spec.connections):
                self._queue.put_nowait(None)
        return self.summary()

    def summary(self) -> Summary:
        """How it stands now."""
        return self.tally.summary((self._ended or self._world.now()) - self._began)

    async def _dispatch(self, stop: asyncio.Event) -> None:
        for n, offset in enumerate(schedule.offsets(self.spec.rate, self.spec.for_s)):
            due = self._began + offset
            while (left := due - self._world.now()) > 0 and not stop.is_set():
                await self._world.sleep(min(left, STOP_LOOK_S))
            if stop.is_set():
                return
            self._queue.put_nowait(self._request(n, due))
            if n % BURST == 0:
                await self._world.sleep(0)
        await self._rest(stop)

    async def _rest(self, stop: asyncio.Event) -> None:
        """The last request's own interval belongs to the load, or its rate would seem higher than it was."""
        end = self._began + self.spec.for_s
        while (left := end - self._world.now()) > 0 and not stop.is_set():
            await self._world.sleep(min(left, STOP_LOOK_S))

    def _request(self, n: int, due: float) -> Request:
        now = self._world.now()
        crowded = self.tally.due - self.tally.done >= self.spec.connections
        self.tally.due += 1
        self.tally.lag_s = max(self.tally.lag_s, now - due)
        user = str(int(self._world.random() * self.spec.users)) if self.spec.users else ""
        return Request(n, due, now, user, self._uuid(), crowded)

    def _uuid(self) -> str:
        digits = "".join(self._world.token() for _ in range(4))
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    async def _slot(self) -> None:
        connection: Line | None = None
        try:
            while (request := await self._queue.get()) is not None:
                connection = await self._renewed(connection)
                connection = await self._perform(request, connection)
        finally:
            if connection is not None:
                await connection.close()

    async def _renewed(self, connection: Line | None) -> Line | None:
        """The connection if it can carry another request, else None."""
        if connection is None or (connection.usable() and not self.spec.fresh):
            return connection
        self.tally.reconnects += 1
        await connection.close()
        return None

    async def _perform(self, request: Request, connection: Line | None) -> Line | None:
        """Ask once; returns the connection when it can be used again."""
        reused = connection is not None
        outcome: Answer | Loss = Loss(Cause.TIMEOUT, "no connection was free in time")
        left = request.due + self.spec.timeout_s - self._world.now()
        if left <= 0:
            self._record(request, outcome, reused=False)
            return connection
        connection, outcome = await self._ask(request, connection, left)
        self._record(request, outcome, reused=reused)
        if connection is None or (isinstance(outcome, Answer) and outcome.keep_alive):
            return connection
        await connection.close()
        return None

    async def _ask(self, request: Request, connection: Line | None, left_s: float) -> tuple[Line | None, Answer | Loss]:
        try:
            async with asyncio.timeout(left_s):
                connection = connection or await connect(self.spec, self._target, self._template)
                return connection, await connection.ask(request)
        except TimeoutError:
            outcome = Loss(Cause.TIMEOUT, f"no whole answer within {self.spec.timeout_s:g} s")
        except OSError as error:
            outcome = unconnected(error)
        if connection is not None:
            await connection.close()
        return None, outcome

    def _record(self, request: Request, outcome: Answer | Loss, *, reused: bool) -> None:
        base = Record(
            n=request.n,
            due_at=self._epoch + (request.due - self._began),
            latency_s=max(0.0, self._world.now() - request.due),
            user=request.user,
            uuid=request.uuid,
            reused=reused,
            late=request.crowded,
        )
        record = _told(base, outcome, self.spec)
        self.tally.add(record)
        if self._watch is not None:
            self._watch(record)


def _told(record: Record, outcome: Answer | Loss, spec: LoadSpec) -> Record:
    """The record with what the outcome says."""
    loss = judge(outcome, spec.expect) if isinstance(outcome, Answer) else outcome
    if isinstance(outcome, Answer):
        record = replace(record, status=outcome.status, release=outcome.release)
    return record if loss is None else replace(record, cause=str(loss.cause), detail=loss.detail)
