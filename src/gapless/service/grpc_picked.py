"""Calls whose instance is chosen while they are under way: what `service.client_grpc` gives to its callers.

A call is two things, so that one that nobody holds any more can be cancelled as grpc's own are: the work, which a task
drives, and the handle, which callers have. Needs grpcio.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from gapless.core.errors import Unavailable
from gapless.core.model import Endpoint
from gapless.discovery.load import Outcome
from gapless.resilience import deadline, pushback
from gapless.service.attempts import Attempts
from gapless.service.callee import FIND_S
from gapless.service.outbound import KEY, USER, carried, told
from gapless.service.transport import Unsent

if TYPE_CHECKING:
    from gapless.service.client_grpc import Method

Code = grpc.StatusCode
FAILURES = (Code.UNAVAILABLE, Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS)
"""As 500 and above over HTTP; the other codes are about the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call as its caller asked for it."""

    request: Any
    """A message, or an iterator of messages, or None when they are written one by one."""
    timeout_s: float | None
    metadata: tuple[tuple[str, Any], ...]
    patient: bool
    options: dict[str, Any]


class Answer(NamedTuple):
    """What `Attempts` judges by, in the words of HTTP; and what the caller gets."""

    status: int
    headers: Mapping[str, str]
    call: Any
    result: Any = None
    error: grpc.aio.AioRpcError | None = None


class Work:
    """A call from the choice of its instance to its end."""

    def __init__(self, method: Method, asked: Asked, loop: asyncio.AbstractEventLoop) -> None:
        self.channel = method.channel
        self.world = method.channel.outbound.world
        self.end = math.inf
        self.placed: asyncio.Future[Any] = loop.create_future()
        """The call to the instance, once that will not change any more; None when there was none."""
        self._method, self._asked = method, asked
        self._given = {key: value for key, value in asked.metadata if isinstance(value, str)}
        self._error: grpc.aio.AioRpcError | None = None

    async def one(self) -> Any:
        """Unary: the whole call may be made again."""
        key = bool(self._given.get(KEY))
        attempts = await self._begin(repeatable=key or self._method.name in self.channel.idempotent, unary=True)
        answer = await self._answer(attempts, lambda endpoint: self._try(attempts, endpoint))
        if (error := answer.error) is not None:
            if answer.status == 200 or not _in_vain(attempts):
                raise error
            raise _final(error.code(), str(error.details()), error) from error
        return answer.result

    async def streaming(self, result: Callable[[Any], Any]) -> Any:
        """With a stream: what it brings is gone once it was read, so that only its place is looked for again."""
        attempts = await self._begin(repeatable=False, unary=False)
        places: list[tuple[Endpoint, Any]] = []
        answer = await self._answer(attempts, lambda endpoint: self._place(attempts, endpoint, places))
        (endpoint, channel), call = places[-1], answer.call
        began, outcome = self.world.now(), Outcome.ABANDONED
        took_s = 0.0
        try:
            await call.initial_metadata()
            took_s = self.world.now() - began
            done = await result(call)
            outcome = Outcome.ANSWERED
            return done
        except grpc.aio.AioRpcError as error:
            outcome = self._judged(error.code(), channel)
            raise
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            self.channel.callee.ended(endpoint, took_s, outcome)

    async def _begin(self, *, repeatable: bool, unary: bool) -> Attempts:
        callee, asked = self.channel.callee, self._asked
        now = self.world.now()
        limit_s = math.inf if asked.timeout_s is None else asked.timeout_s
        self.end = min(now + limit_s, deadline.current.get())
        try:
            table = await callee.found(self.end, math.inf if asked.patient else FIND_S)
        except Unavailable as error:
            raise _error(self._late() or Code.UNAVAILABLE, str(error)) from error
        self.channel.keep_to(table)
        if unary and asked.timeout_s is None:
            self.end = min(self.end, now + table.timeout_s)
        callee.budget.calls += 1
        user = self._given.get(USER, "")
        return Attempts(callee=callee, end=self.end, repeatable=repeatable, user=user, patient=asked.patient)

    async def _answer(self, attempts: Attempts, ask: Callable[[Endpoint], Any]) -> Answer:
        """Raises AioRpcError when there is none."""
        answer: Answer | None = await attempts.run(ask)
        if answer is None:
            raise self._failed(attempts)
        self.placed.set_result(answer.call)
        return answer

    async def _try(self, attempts: Attempts, endpoint: Endpoint) -> Answer | None:
        began, limit_s = self.world.now(), attempts.limit_s()
        outcome, detail, answer = Outcome.ABANDONED, "", None
        try:
            channel = await self.channel.places.ready(endpoint.address, limit_s)
            call = self._call(channel, limit_s)
            answer = await self._heard(call)
            outcome, detail = self._judged(await call.code(), channel), "answered"
            if answer.error is not None:
                self._error, detail = answer.error, f"{answer.error.code().name}: {answer.error.details()}"
        except Unsent as error:
            outcome, detail = Outcome.REFUSED, f"not reached ({error})"
        finally:
            self.channel.callee.ended(endpoint, self.world.now() - began, outcome)
        attempts.ended(endpoint, outcome, detail)
        return None if outcome in (Outcome.RESET, Outcome.LATE) else answer

    async def _heard(self, call: Any) -> Answer:
        try:
            return Answer(200, {}, call, result=await call)
        except grpc.aio.AioRpcError as error:
            final = {pushback.NAME: "1"} if pushback.pushed_back(error.trailing_metadata()) else {}
            return Answer(503 if error.code() is Code.UNAVAILABLE else 200, final, call, error=error)

    async def _place(self, attempts: Attempts, endpoint: Endpoint, places: list[tuple[Endpoint, Any]]) -> Answer | None:
        """A call that has an instance: `streaming` tells how it ends."""
        limit_s, outcome, detail = attempts.end - self.world.now(), Outcome.ABANDONED, ""
        try:
            channel = await self.channel.places.ready(endpoint.address, limit_s)
            places.append((endpoint, channel))
            return Answer(200, {}, self._call(channel, limit_s))
        except Unsent as error:
            outcome, detail = Outcome.REFUSED, f"not reached ({error})"
            attempts.ended(endpoint, outcome, detail)
            return None
        finally:
            if not places:
                self.channel.callee.ended(endpoint, 0.0, outcome)

    def _call(self, channel: Any, limit_s: float) -> Any:
        # gRPC refuses a call whose metadata are not of printable ASCII: an odd header of somebody's must not fail it.
        inherited = [
            (key, value) for key, value in carried(self._given).items() if value.isascii() and value.isprintable()
        ]
        metadata = [*self._asked.metadata, *inherited]
        if limit_s < math.inf:
            metadata += told(limit_s).items()
        begin = self._method.at(channel)
        limit = None if limit_s == math.inf else max(limit_s, 0.0)
        return begin(self._asked.request, timeout=limit, metadata=metadata, **self._asked.options)

    def _judged(self, code: grpc.StatusCode, channel: Any) -> Outcome:
        """What a status says about the instance. UNAVAILABLE is said by those who are busy, and by grpc itself when the
        connection has ended."""
        if code is Code.DEADLINE_EXCEEDED:
            return Outcome.LATE
        if code is Code.CANCELLED:
            return Outcome.ABANDONED
        if code is Code.UNAVAILABLE and self.channel.places.lost(channel):
            return Outcome.RESET
        return Outcome.FAILED if code in FAILURES else Outcome.ANSWERED

    def _late(self) -> grpc.StatusCode | None:
        return Code.DEADLINE_EXCEEDED if self.world.now() >= self.end else None

    def _failed(self, attempts: Attempts) -> grpc.aio.AioRpcError:
        """Every attempt failed."""
        last = self._error
        code = self._late() or (last.code() if last is not None else Code.UNAVAILABLE)
        return _final(code, attempts.why(), last) if _in_vain(attempts) else _error(code, attempts.why())


class Picked(grpc.aio.Call):  # type: ignore[misc]
    """The handle of a call, common to all kinds."""

    def __init__(self, method: Method, asked: Asked, loop: asyncio.AbstractEventLoop) -> None:
        self._work = Work(method, asked, loop)
        self._task = loop.create_task(self._begun(self._work), name=f"gRPC {method.name}")
        self._task.add_done_callback(_settled(self._work.placed))

    @staticmethod
    def _begun(work: Work) -> Any:
        raise NotImplementedError

    def __del__(self) -> None:
        task = getattr(self, "_task", None)
        if task is not None and not task.done() and not task.get_loop().is_closed():
            task.cancel()

    def cancel(self) -> bool:
        return self._task.cancel()

    def cancelled(self) -> bool:
        return self._task.cancelled()

    def done(self) -> bool:
        return self._task.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._task.add_done_callback(lambda _: callback(self))

    def time_remaining(self) -> float | None:
        work = self._work
        return None if work.end == math.inf else max(work.end - work.world.now(), 0.0)

    async def code(self) -> grpc.StatusCode:
        error = await self._ended()
        return Code.OK if error is None else error.code()

    async def details(self) -> str:
        error = await self._ended()
        return "" if error is None else str(error.details() or "")

    async def trailing_metadata(self) -> Any:
        error = await self._ended()
        return await self._work.placed.result().trailing_metadata() if error is None else error.trailing_metadata()

    async def initial_metadata(self) -> Any:
        return await (await self._placed()).initial_metadata()

    async def wait_for_connection(self) -> None:
        await (await self._placed()).wait_for_connection()

    async def _ended(self) -> grpc.aio.AioRpcError | None:
        """How it has ended, once it has."""
        await asyncio.wait({self._task})
        if self._task.cancelled():
            return _error(Code.CANCELLED, "cancelled by its caller")
        error = self._task.exception()
        if error is not None and not isinstance(error, grpc.aio.AioRpcError):
            raise error
        return error

    async def _placed(self) -> Any:
        """The call to the instance. Raises what ended it before it had one."""
        call = await asyncio.shield(self._work.placed)
        return call if call is not None else self._task.result()


class OneAsked(Picked, grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    @staticmethod
    def _begun(work: Work) -> Any:
        return work.one()

    def __await__(self) -> Generator[Any, None, Any]:
        return (yield from self._task)  # a frame that holds the handle, which must not be collected meanwhile


class _Writing(Picked):
    async def write(self, request: Any) -> None:
        await (await self._placed()).write(request)

    async def done_writing(self) -> None:
        await (await self._placed()).done_writing()


class OneAnswer(_Writing, grpc.aio.StreamUnaryCall):  # type: ignore[misc]
    @staticmethod
    def _begun(work: Work) -> Any:
        return work.streaming(_single)

    def __await__(self) -> Generator[Any, None, Any]:
        return (yield from self._task)  # a frame that holds the handle, which must not be collected meanwhile


class ManyAnswers(_Writing, grpc.aio.StreamStreamCall):  # type: ignore[misc]
    """With one request there is nothing to write, as grpc's own call says then."""

    @staticmethod
    def _begun(work: Work) -> Any:
        return work.streaming(_all)

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for message in await self._placed():
            yield message

    async def read(self) -> Any:
        return await (await self._placed()).read()


async def _single(call: Any) -> Any:
    return await call


async def _all(call: Any) -> None:
    """Returns when the stream has ended, whoever reads it. Raises AioRpcError."""
    code = await call.code()
    if code is not Code.OK:
        raise _error(code, await call.details(), await call.trailing_metadata(), await call.initial_metadata())


def _settled(placed: asyncio.Future[Any]) -> Callable[[asyncio.Task[Any]], None]:
    def settle(task: asyncio.Task[Any]) -> None:
        if not placed.done():
            placed.set_result(None)
        if not task.cancelled():
            task.exception()  # callers may look at the code alone

    return settle


def _sendable(pair: tuple[str, str]) -> bool:
    """gRPC refuses a call whose metadata are not printable ASCII: an odd header of somebody's must not fail it."""
    return pair[1].isascii() and pair[1].isprintable()


def _in_vain(attempts: Attempts) -> bool:
    return attempts.refused or attempts.sent > 1


def _final(code: grpc.StatusCode, details: str, last: grpc.aio.AioRpcError | None) -> grpc.aio.AioRpcError:
    """The last failure, telling guards around the call not to make the same attempts again."""
    trailing, initial = (last.trailing_metadata(), last.initial_metadata()) if last is not None else ((), ())
    return _error(code, details, (*(trailing or ()), (pushback.GRPC_KEY, "-1")), initial)


def _error(code: grpc.StatusCode, details: str, trailing: Any = (), initial: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(*(initial or ())), grpc.aio.Metadata(*(trailing or ())), details=details
    )
