"""`protect:` of `gapless.yaml`: the guard's policies before a service or a route, without code.

The keys are those of the guard documents that `Guards.load` reads (`resilience.parse`); a test holds them together.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from gapless.config.base import Settings
from gapless.config.quantities import PositiveDuration, Share, seconds
from gapless.core.protect import BreakerRule, LimitRule, Protect, RateRule

_RATE = re.compile(r"(\d+)\s*/\s*(\d*\s*(?:ms|s|m|min|h))")
_COUNT = re.compile(r"\d+")
REDIS_URL = r"^(redis|rediss|unix)://.+$"
_BREAKER = BreakerRule()
_LIMIT = LimitRule(max=1)


def quota(value: Any) -> tuple[int, float]:
    """`100/s`, `10/min`, `5/10s` as requests and seconds. Raises ValueError."""
    found = _RATE.fullmatch(str(value).strip())
    if not found:
        raise ValueError('not a rate; write for instance "100/s", "600/min" or "5/10s"')
    unit = found[2].replace(" ", "").replace("min", "m")
    requests, per_s = int(found[1]), seconds(unit if unit[0].isdigit() else f"1{unit}")
    if not requests or not per_s:
        raise ValueError("a rate is above 0")
    return requests, per_s


def span(value: Any) -> tuple[int, float]:
    """`100` is the last hundred calls, `10s` the last ten seconds: (calls, seconds), one of them 0.
    Raises ValueError."""
    text = str(value).strip()
    calls, took_s = (int(text), 0.0) if _COUNT.fullmatch(text) else (0, seconds(text))
    if not calls and not took_s:
        raise ValueError('a window is a number of calls, or seconds such as "10s"')
    return calls, took_s


def _short(key: str) -> BeforeValidator:
    """A plain value is short for a mapping with this one key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, (str, int, float)) else value)


_RATE_SCHEMA = WithJsonSchema({"type": "string", "pattern": r"^\d+\s*/\s*\d*\s*(ms|s|m|min|h)$"})
_WINDOW_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h)?$"}]}
)


class RateSettings(Settings):
    limit: Annotated[
        tuple[int, float],
        BeforeValidator(quota),
        _RATE_SCHEMA,
        Field(description="Requests in a time.", examples=["100/s", "600/min"]),
    ]
    burst: Annotated[
        Annotated[int, Field(ge=1)] | None, Field(description="Requests at once. Left out: as many as in the limit.")
    ] = None
    by: Annotated[
        Literal["all", "user", "address"],
        Field(description="`all` together; each `user` (`x-user-id`, without one its address); each `address`."),
    ] = "all"

    shared: Annotated[
        Annotated[str, Field(pattern=REDIS_URL)] | None,
        Field(
            description="A Redis on which all workers and instances count together; `${NAME}` in it is taken from their"
            " environment. Left out: each worker counts for itself.",
            examples=["redis://127.0.0.1:6379/0", "redis://:${REDIS_PASSWORD}@cache:6379/0"],
        ),
    ] = None
    leased: Annotated[
        bool, Field(description="Count in the background: no round trip to `shared` for each request.")
    ] = False

    def value(self) -> RateRule:
        requests, per_s = self.limit
        return RateRule(
            limit=requests,
            per_s=per_s,
            burst=self.burst or 0,
            by="" if self.by == "all" else self.by,
            shared=self.shared or "",
            leased=self.leased,
        )

    @model_validator(mode="after")
    def _lease_is_of_something(self) -> RateSettings:
        if self.leased and not self.shared:
            raise ValueError("`leased` needs `shared`, the Redis to lease from")
        return self


class LimitSettings(Settings):
    max: Annotated[int, Field(ge=1, description="Requests at once in each worker.", examples=[50])]
    adaptive: Annotated[bool, Field(description="Fewer than `max` as soon as latency rises.")] = _LIMIT.adaptive
    queue: Annotated[int, Field(ge=0, description="How many may wait for a place.")] = _LIMIT.queue
    wait: Annotated[PositiveDuration, Field(description="How long they may.", examples=["1s"])] = _LIMIT.wait_s

    def value(self) -> LimitRule:
        return LimitRule(max=self.max, adaptive=self.adaptive, queue=self.queue, wait_s=self.wait)


class BreakerSettings(Settings):
    rate: Annotated[
        Share,
        Field(gt=0, description="Share of failed calls that opens it.", json_schema_extra={"default": "50%"}),
    ] = _BREAKER.rate
    slow: Annotated[
        PositiveDuration | None,
        Field(description="What takes longer counts as failed. In instances; the gateway does not look at time."),
    ] = None
    window: Annotated[
        tuple[int, float],
        BeforeValidator(span),
        _WINDOW_SCHEMA,
        Field(description="The calls that are counted.", examples=[100, "10s"], json_schema_extra={"default": "10s"}),
    ] = (_BREAKER.window_calls, _BREAKER.window_s)
    minimum: Annotated[int, Field(ge=1, description="No verdict on fewer calls.")] = _BREAKER.minimum
    open_for: Annotated[PositiveDuration, Field(description="Time before it is tried again.", examples=["5s"])] = (
        _BREAKER.open_for_s
    )
    probes: Annotated[int, Field(ge=1, description="Calls that try whether it can close.")] = _BREAKER.probes
    max_requests: Annotated[
        int,
        Field(ge=0, description="Requests that the gateway lets run, and as many wait, per release; 0: 20,000."),
    ] = _BREAKER.max_requests

    def value(self) -> BreakerRule:
        return BreakerRule(
            rate=self.rate,
            slow_s=self.slow or 0.0,
            window_calls=self.window[0],
            window_s=self.window[1],
            minimum=self.minimum,
            open_for_s=self.open_for,
            probes=self.probes,
            max_requests=self.max_requests,
        )

    @model_validator(mode="after")
    def _reachable(self) -> BreakerSettings:
        if 0 < self.window[0] < self.minimum:
            raise ValueError(
                f"a window of {self.window[0]} calls never holds the {self.minimum} that `minimum` asks for"
            )
        return self


class ProtectSettings(Settings):
    deadline: Annotated[
        PositiveDuration | None,
        Field(description="After it nobody waits for the answer: 504.", examples=["2s"]),
    ] = None
    rate: Annotated[
        Annotated[RateSettings, _short("limit")] | None,
        Field(description="Requests in a time; above it 429.", examples=["100/s"]),
    ] = None
    limit: Annotated[
        Annotated[LimitSettings, _short("max")] | None,
        Field(description="Requests at once; above it 503.", examples=[50]),
    ] = None
    breaker: Annotated[
        Annotated[BreakerSettings, _short("rate")] | None,
        Field(description="Refuses (503) while too many requests fail.", examples=["50%"]),
    ] = None

    def value(self) -> Protect:
        return Protect(
            deadline_s=self.deadline or 0.0,
            rate=self.rate.value() if self.rate else None,
            limit=self.limit.value() if self.limit else None,
            breaker=self.breaker.value() if self.breaker else None,
        )
