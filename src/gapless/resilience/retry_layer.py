"""`retry(on=Transient, attempts=3, budget=ratio(0.2))`: ask again where that is safe, affordable and in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience import pushback
from gapless.resilience.budget import Budget, Ratio
from gapless.resilience.causes import Cause, causes, name_of
from gapless.resilience.deadline import current
from gapless.resilience.deadline_layer import DeadlineLayer, deadline
from gapless.resilience.errors import DeadlineExceeded, Transient
from gapless.resilience.events import CallRetried, RetriesSpent
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Kwargs, Layer, Site, Statistics
from gapless.resilience.retry import backoff, retry_after_s

PASSING = (Transient, ConnectionError, TimeoutError)
"""Failures that may pass by themselves. A bug (TypeError …) fails again, and an open breaker says not to ask."""
KEY_NAME = "idempotency_key"
"""A parameter of this name makes calls repeatable without further ado."""

May = Callable[[Args, Kwargs], Any]


class Retry(Value):
    kind: ClassVar[str] = "retry"
    on: Cause = PASSING
    attempts: int = 3
    budget: Ratio | Budget | None = None
    result: Callable[[Any], bool] | None = None
    idempotent: bool = False
    key: str | Callable[..., Hashable] | None = None
    each_s: float = math.inf
    base_s: float = 0.025
    cap_s: float = 1.0
    longest_s: float = 5.0

    def bind(self, binding: Binding) -> RetryLayer:
        return RetryLayer(self, binding)


def retry(
    on: Cause = PASSING,
    *,
    attempts: int = 3,
    budget: Ratio | Budget | None = None,
    result: Callable[[Any], bool] | None = None,
    idempotent: bool = False,
    key: str | Callable[..., Hashable] | None = None,
    each: float = math.inf,
    base: float = 0.025,
    cap: float = 1.0,
    longest: float = 5.0,
) -> Retry:
    """At most `attempts` in all, with full jitter in between: a pause is uniform in [0, min(cap, base · 2ⁿ)] seconds.

    Tried again is what raised `on` (exceptions, or a function of one) or returned what `result` calls bad, and only
    where asking twice is safe: `idempotent=True`, the function is marked `@idempotent`, `key` (a template such as
    "{order.id}") gives something, it has an `idempotency_key`, or the error says that nothing was sent. Anything else
    is refused when the function is guarded.

    `each`: seconds for one attempt, apart from the deadline. A Retry-After of the error or the result is honoured; one
    of more than `longest` seconds, or beyond the deadline, ends the retries at once; so does what somebody further down
    has asked again already (`pushback`). `budget` is shared with hedges, and with other guards when it is a `Budget`.
    """
    if attempts < 1 or not each > 0 or base < 0 or cap < 0:
        raise ConfigError(
            f"retry(attempts={attempts}, each={each}, base={base}, cap={cap}) cannot be done",
            "Give at least one attempt and times above 0.",
        )
    return Retry(
        on=on, attempts=attempts, budget=budget, result=result, idempotent=idempotent, key=key,
        each_s=each, base_s=base, cap_s=cap, longest_s=longest,
    )  # fmt: skip


class _Counts:
    __slots__ = ("recovered", "retried", "spent")

    def __init__(self) -> None:
        self.retried = self.recovered = 0
        self.spent = {"attempts": 0, "budget": 0, "deadline": 0, "not idempotent": 0, "pushback": 0}
        """Calls that were not tried again, by reason."""


class _Failure:
    """How the latest attempt ended: with an error, or a result that is called bad."""

    __slots__ = ("_final", "error", "result")

    def __init__(self, error: BaseException | None, result: Any = None, *, final: bool = False) -> None:
        self.error, self.result, self._final = error, result, final

    @property
    def outcome(self) -> Any:
        return self.result if self.error is None else self.error

    @property
    def final(self) -> bool:
        """Whether it was asked again already, further down."""
        return self._final or pushback.is_final(self.outcome)

    def end(self) -> Any:
        """There is no further attempt: the caller gets what came last, unchanged."""
        if self.error is None:
            return self.result
        try:
            raise self.error
        finally:
            self.error = None  # no cycle of frame and traceback


class RetryLayer(Layer):
    kind = "retry"

    def __init__(self, policy: Retry, binding: Binding) -> None:
        self._policy, self._binding = policy, binding
        self._budget = binding.budget(policy.budget)
        self._counts = _Counts()
        kinds, self._asked = causes(policy.on)
        timed = policy.each_s < math.inf
        self._kinds: tuple[type[BaseException], ...] = (*kinds, DeadlineExceeded) if timed else kinds

    def adopt(self, old: Layer) -> None:
        assert isinstance(old, RetryLayer)
        self._counts = old._counts  # noqa: SLF001 its own kind

    def statistics(self) -> Statistics:
        counts = self._counts
        spent = {f"spent_{reason.replace(' ', '_')}": count for reason, count in counts.spent.items()}
        return {"retried": counts.retried, "recovered": counts.recovered, **spent, "budget_tokens": self._budget.tokens}

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        attempt, may = self._limit().around(call, site), self._may(site)
        budget, kinds, bad, again = self._budget, self._kinds, self._policy.result, self._again
        finals = pushback.finals.get

        async def retried(args: Args, kwargs: Kwargs) -> Any:
            budget.calls += 1
            before = finals()
            try:
                result = await attempt(args, kwargs)
            except kinds as error:
                failure = _Failure(error, final=finals() != before)
            else:
                if bad is None or not bad(result):
                    return result
                failure = _Failure(None, result, final=finals() != before)
            return await again(attempt, may, args, kwargs, failure)

        return retried

    def around_sync(self, call: Call, site: Site) -> Call:
        attempt, may = self._limit().around_sync(call, site), self._may(site)
        budget, kinds, bad, again = self._budget, self._kinds, self._policy.result, self._again_sync

        def retried(args: Args, kwargs: Kwargs) -> Any:
            budget.calls += 1
            try:
                result = attempt(args, kwargs)
            except kinds as error:
                failure = _Failure(error)
            else:
                if bad is None or not bad(result):
                    return result
                failure = _Failure(None, result)
            return again(attempt, may, args, kwargs, failure)

        return retried

    async def _again(self, attempt: AsyncCall, may: May, args: Args, kwargs: Kwargs, failure: _Failure) -> Any:
        number, bad, finals = 1, self._policy.result, pushback.finals.get
        while (wait_s := self._wait(number, failure, may, args, kwargs)) is not None:
            if wait_s > 0:
                await self._binding.world.sleep(wait_s)
            if self._over(number, failure):
                break
            number += 1
            before = finals()
            try:
                result = await attempt(args, kwargs)
            except self._kinds as error:
                failure = _Failure(error, final=finals() != before)
            else:
                if bad is None or not bad(result):
                    self._counts.recovered += 1
                    return result
                failure = _Failure(None, result, final=finals() != before)
        return failure.end()

    def _again_sync(self, attempt: Call, may: May, args: Args, kwargs: Kwargs, failure: _Failure) -> Any:
        number, bad = 1, self._policy.result
        while (wait_s := self._wait(number, failure, may, args, kwargs)) is not None:
            if wait_s > 0:
                self._binding.world.pause(wait_s)
            if self._over(number, failure):
                break
            number += 1
            try:
                result = attempt(args, kwargs)
            except self._kinds as error:
                failure = _Failure(error)
            else:
                if bad is None or not bad(result):
                    self._counts.recovered += 1
                    return result
                failure = _Failure(None, result)
        return failure.end()

    def _wait(self, number: int, failure: _Failure, may: May, args: Args, kwargs: Kwargs) -> float | None:
        """Seconds before the next attempt; None when there shall be none."""
        if not self._wanted(failure.error):
            return None
        wait_s = self._pause(number, failure)
        safe = not getattr(failure.error, "sent", True) or bool(may(args, kwargs))
        if (reason := self._reason(number, wait_s, failure, safe)) is not None:
            self._stop(reason, number, failure.error)
            return None
        self._counts.retried += 1
        if self._binding.hooks:
            event = CallRetried(
                guard=self._binding.guard, policy="retry", attempt=number, wait_s=wait_s, error=failure.error
            )
            self._binding.emit(event)
        return wait_s

    def _reason(self, number: int, wait_s: float, failure: _Failure, safe: bool) -> str | None:
        """Why there is no further attempt. Takes from the budget last: only what is truly tried again costs."""
        if failure.final:
            return "pushback"
        if number >= self._policy.attempts:
            return "attempts"
        if not safe:
            return "not idempotent"
        if self._binding.now() + wait_s >= current.get() or wait_s == math.inf:
            return "deadline"
        return None if self._budget.withdraw() else "budget"

    def _wanted(self, error: BaseException | None) -> bool:
        if error is None or self._asked is None:
            return True
        attempt_ended = isinstance(error, DeadlineExceeded) and error.policy == "retry"
        return attempt_ended or self._asked(error)

    def _pause(self, number: int, failure: _Failure) -> float:
        """Full jitter, after what the other side asked for; infinite when that is too long to wait for."""
        asked_s = _asked_s(failure.outcome, self._binding.world.time)
        if asked_s > self._policy.longest_s:
            return math.inf
        return asked_s + backoff(self._policy.base_s, self._policy.cap_s, number, self._binding.world.random())

    def _over(self, number: int, failure: _Failure) -> bool:
        """The pause took longer than it should have: nothing starts after the deadline."""
        if self._binding.now() < current.get():
            return False
        self._budget.refund()
        self._counts.retried -= 1
        self._stop("deadline", number, failure.error)
        return True

    def _stop(self, reason: str, number: int, error: BaseException | None) -> None:
        self._counts.spent[reason] += 1
        if reason == "pushback":
            pushback.final()
        elif reason == "budget" or number > 1:
            pushback.spent()
        if self._binding.hooks:
            event = RetriesSpent(guard=self._binding.guard, policy="retry", reason=reason, attempt=number, error=error)
            self._binding.emit(event)

    def _limit(self) -> Layer:
        """Of one attempt."""
        return (
            Layer()
            if self._policy.each_s == math.inf
            else DeadlineLayer(deadline(self._policy.each_s), self._binding, "retry")
        )

    def _may(self, site: Site) -> May:
        """May these arguments be sent a second time?"""
        if self._policy.idempotent or site.idempotent:
            return lambda args, kwargs: True
        key = self._policy.key
        if key is None and site.signature is not None and KEY_NAME in site.signature.parameters:
            key = f"{{{KEY_NAME}}}"
        if key is not None:
            return site.key(key)
        if self._asked is None and not any(getattr(kind, "sent", True) for kind in self._kinds):
            return lambda args, kwargs: False
        raise ConfigError(
            f"guard {self._binding.guard!r} would retry {site.name} on {name_of(self._policy.on)}, "
            "after which its effect may have happened already",
            f"Mark it @idempotent, give it an {KEY_NAME}, use retry(idempotent=True) or retry(key=…), "
            "or retry only what was never sent: on=Unsent.",
        )


def _asked_s(outcome: Any, time: Callable[[], float]) -> float:
    """What an error or a response asks to wait: its `retry_after_s`, or the header of it or of its `response`."""
    given = getattr(outcome, "retry_after_s", None)
    if given is not None:
        return retry_after_s(given, time())
    for each in (outcome, getattr(outcome, "response", None)):
        headers = getattr(each, "headers", None)
        if isinstance(headers, Mapping):
            value = headers.get("retry-after") or headers.get("Retry-After")
            if value is not None:
                return retry_after_s(value, time())
    return 0.0
