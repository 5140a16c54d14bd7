"""Receives mirrored requests (ASGI), answers each at once, and then compares what both releases answer.

The gateway throws our answer away and does not wait for it; it is given all the same, at once, so that the gateway
holds nothing for us. What there is no room for is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any

from gapless.core.masks import Masks
from gapless.core.model.gates import SAFE_METHODS
from gapless.core.model.mirror import MirrorPlan
from gapless.core.ports import World
from gapless.gateway.mirror.answers import NO_ANSWER, STATUS, Answer, Difference, but_for, differences
from gapless.gateway.mirror.ask import Asker, Question
from gapless.gateway.mirror.tally import Tally, shown

AT_ONCE = 64
"""Comparisons under way; each has at most two bodies of `ask.KEPT_BYTES` in memory, and a third one after a
difference."""
BODY_BYTES = 64_000
"""The gateway mirrors no request with a larger body."""
BODY_S = 5.0
LOOKING = (*SAFE_METHODS, "OPTIONS")
"""Methods that may be asked of the stable release once more."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Comparer:
    def __init__(self, world: World, plan: MirrorPlan) -> None:
        self.tally = Tally()
        self._asker = Asker(world, 2 * AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = count()
        self.follow(plan)

    def follow(self, plan: MirrorPlan) -> None:
        """Ask these from now on. Raises ValueError for a mask that cannot be read."""
        self._masks = Masks.of(plan.ignore)
        self._plan = plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.tally.asked += 1
        body = await _body(receive)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        if body is None:
            self.tally.skipped += 1
        elif len(self._tasks) >= AT_ONCE:
            self.tally.dropped += 1
        else:
            self._begin(Question(scope["method"], _target(scope), scope["headers"], body))

    def _begin(self, question: Question) -> None:
        task = asyncio.create_task(self._compare(question, self._plan))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, question: Question, plan: MirrorPlan) -> None:
        turn = next(self._turns)
        if not plan.new:
            self.tally.skipped += 1
        elif question.method not in LOOKING:
            await self._effect(question, plan, turn)
        elif not plan.compare:
            self._alone(question, await self._ask(question, plan.new, plan, turn))
        else:
            await self._both(question, plan, turn)

    async def _ask(self, question: Question, among: tuple[Any, ...], plan: MirrorPlan, turn: int) -> Answer:
        again = question.method in LOOKING
        return await self._asker.ask(question, among[turn % len(among)], plan.timeout_s, again=again)

    async def _effect(self, question: Question, plan: MirrorPlan, turn: int) -> None:
        """It has an effect: the stable release has had it already, and must not have it once more."""
        answer = await self._ask(question, plan.new, plan, turn)
        self.tally.unsafe += 1
        self.tally.unsafe_errors += answer.failed

    def _alone(self, question: Question, new: Answer) -> None:
        place = STATUS if new.status else NO_ANSWER
        found = (Difference(place, str(new.status or new.cause)),) if new.failed else ()
        self.tally.add(shown(question.method, question.target), None, new, found)

    async def _both(self, question: Question, plan: MirrorPlan, turn: int) -> None:
        if not plan.stable:
            self.tally.skipped += 1
            return
        stable, new = await asyncio.gather(
            self._ask(question, plan.stable, plan, turn), self._ask(question, plan.new, plan, turn)
        )
        if not stable.status:
            self.tally.skipped += 1
            return
        found = differences(stable, new, self._masks)
        left = await self._but_for_noise(question, plan, turn, stable, found) if found else ()
        self.tally.add(shown(question.method, question.target), stable, new, left, noisy=bool(found) and not left)

    async def _but_for_noise(
        self, question: Question, plan: MirrorPlan, turn: int, stable: Answer, found: tuple[Difference, ...]
    ) -> tuple[Difference, ...]:
        """The stable release is asked once more: what it answers otherwise each time is no difference between releases,
        nor is what somebody has changed in between. Source: Twitter's Diffy, 2015."""
        again = await self._ask(question, plan.stable, plan, turn + 1)
        return but_for(found, differences(stable, again, self._masks))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._asker.close()


def _target(scope: Scope) -> str:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (path + b"?" + query if query else path).decode("latin-1")


async def _body(receive: Receive) -> bytes | None:
    """None: too large, or it did not come in time."""
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += bytes(message.get("body", b""))
                if len(body) > BODY_BYTES:
                    return None
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        return None
