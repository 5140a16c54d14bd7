"""A call under way: whom to ask next, for how long, and when to give up.

What was never sent goes to the next instance until all have been tried; what was sent is sent again only where that is
safe, and never after an answer with `x-gapless-retried`. Every way of calling (`service.client` and the adapters beside
it) asks an `Attempts`, and does only the sending itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from gapless.core.errors import Unavailable
from gapless.core.model import Address, Endpoint
from gapless.discovery.load import Outcome
from gapless.resilience import pushback, retry
from gapless.service.call import Attempt, again, report
from gapless.service.callee import Callee

LEAST_S = 0.001
"""Less than a millisecond is not worth a request: it cannot even be told in the deadline's header."""


class Answer(Protocol):
    """As far as it matters here. Names of headers are in lower case."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


A = TypeVar("A", bound=Answer)


async def _keep(answer: Answer) -> None: ...


@dataclass(slots=True, kw_only=True)
class Attempts:
    """`end` is the call's deadline on `World.now()`'s clock. `repeatable`: may it be sent again after it was perhaps
    answered? `user` decides the release, and is what `consistent_hash` hashes."""

    callee: Callee
    end: float
    repeatable: bool
    keyed: bool = False
    """Has it an idempotency key?"""
    user: str = ""
    patient: bool = False
    """Go on until the deadline while nobody can be reached."""
    made: list[Attempt] = field(default_factory=list)
    sent: int = 0
    rounds: int = 0
    refused: bool = False
    """The budget had nothing left for another attempt."""
    tried: set[Address] = field(default_factory=set)
    """In this round; a new one begins when everybody has been tried."""

    async def run(
        self, ask: Callable[[Endpoint], Awaitable[A | None]], drop: Callable[[A], Awaitable[None]] = _keep
    ) -> A | None:
        """Ask until there is an answer to give back, whatever its status; None when there is none. `ask` sends one
        attempt and tells how it `ended`; `drop` closes an answer that is not given back."""
        while True:
            endpoint = self.choose()
            last = await ask(endpoint) if endpoint else None
            if last is not None and not self.asks_again(last.status, last.headers):
                return last
            wait_s = self.next_s(last.headers.get("retry-after") if last is not None else None)
            if wait_s is None:
                self.tell_spent()
                return last
            if last is not None:
                await drop(last)
            if wait_s > 0:
                await self.callee.world.sleep(wait_s)

    def choose(self) -> Endpoint | None:
        """Whom to ask; None when there is nobody."""
        return self.callee.choose(self.tried, self.user)

    def limit_s(self) -> float:
        """Seconds for the attempt that begins now. What may be repeated keeps half of the time for another attempt
        elsewhere: an instance that hangs must not use up the whole deadline."""
        last = not self.repeatable or self.sent + 1 >= self.callee.policy.attempts
        return (self.end - self.callee.world.now()) / (1 if last else 2)

    def ended(self, endpoint: Endpoint, outcome: Outcome, detail: str) -> None:
        """An attempt is over, as far as asking again is concerned."""
        self.made.append(Attempt(endpoint=endpoint, outcome=outcome, detail=detail))
        self.tried.add(endpoint.address)
        self.sent += outcome is not Outcome.REFUSED

    def asks_again(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether an answer is worth another attempt: not when somebody behind it has made those already. Names of
        headers are in lower case."""
        if pushback.answers_finally(status, headers):
            pushback.final()
            return False
        return again(status, headers, repeatable=self.repeatable, keyed=self.keyed)

    def next_s(self, retry_after: str | None = None) -> float | None:
        """Seconds to wait before the next attempt; None when there shall be none. `retry_after` is the header of the
        last answer."""
        world, policy = self.callee.world, self.callee.policy
        now = world.now()
        unsent = bool(self.made) and self.made[-1].outcome is Outcome.REFUSED
        if unsent and self.callee.left(self.tried):
            return 0.0 if now + LEAST_S < self.end else None
        if not self._may_repeat(unsent or not self.made):
            return None
        if not self.callee.left(self.tried):
            self.tried.clear()
            self.rounds += 1
        pause_s = retry.backoff(policy.base_s, policy.cap_s, self.sent + self.rounds, world.random())
        wait_s = max(pause_s, retry.retry_after_s(retry_after, world.time()))
        return wait_s if now + wait_s + LEAST_S < self.end else None

    def tell_spent(self) -> None:
        """The call has failed: say so to whoever would make the same attempts once more. Who could not be reached was
        not burdened by any, so that a guard of this process may go on."""
        if self.refused or self.sent > 1:
            pushback.final()
        elif self.rounds:
            pushback.spent()

    def why(self) -> str:
        """Why it has failed, and what was tried: the message of Unavailable."""
        return report(self.callee.service, self._why(), self.made)

    def unavailable(self) -> Unavailable:
        return Unavailable(self.why())

    def _may_repeat(self, unsent: bool) -> bool:
        if unsent:
            return self.patient or self.rounds < self.callee.policy.rounds
        if not self.repeatable or self.sent >= self.callee.policy.attempts:
            return False
        self.refused = not self.callee.budget.withdraw()
        return not self.refused

    def _why(self) -> str:
        if self.callee.world.now() + LEAST_S >= self.end:
            return "the deadline passed"
        if not self.made:
            return "it has no instance"
        if self.made[-1].outcome is Outcome.REFUSED:
            return "nobody could be reached"
        return "it may not be sent again" if not self.repeatable else "the attempts are used up"
