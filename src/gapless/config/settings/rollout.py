"""`rollout:` and `objective:` of a service."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gapless.config.base import Settings
from gapless.config.quantities import SHARE_SCHEMA, Duration, PositiveDuration, Share, Step, buckets, fraction, seconds
from gapless.config.settings.calendar import CalendarSettings
from gapless.config.settings.gates import GatingSettings
from gapless.config.settings.sharing import SharingSettings
from gapless.core.model import (
    BUCKETS,
    Amount,
    JudgedBy,
    NoEvidence,
    Objective,
    RolloutPolicy,
    SplitBy,
    StepRule,
    Strategy,
)
from gapless.core.model.routing import PERCENTS

_POLICY = RolloutPolicy()
_OBJECTIVE = Objective()


KEEP_S = 600.0
"""How long `blue-green` keeps the old pool unless told otherwise."""


def _rising(steps: tuple[StepSettings, ...]) -> tuple[StepSettings, ...]:
    weights = [step.share for step in steps]
    if weights != sorted(set(weights)):
        raise ValueError("each step must be above the one before")
    if weights[-1:] != [BUCKETS]:
        raise ValueError('the last step must be "100%": a rollout ends when everybody has the new release')
    return steps


def _step(value: Any) -> Any:
    return value if isinstance(value, (dict, StepSettings)) else StepSettings.model_construct(share=buckets(value))


def _pause(value: Any) -> float | None:
    """`true`: until it is resumed (0); `false`: none; or a duration."""
    if str(value).lower() in ("true", "false"):
        return 0.0 if str(value).lower() == "true" else None
    if not (found := seconds(value)):
        raise ValueError('a pause takes some time; write "true" for one until it is resumed')
    return found


def _amount(value: Any) -> Amount:
    """`2` or `25%`. Raises ValueError."""
    if isinstance(value, Amount):
        return value
    written = str(value).strip()
    if written.isdecimal():
        return Amount(count=int(written))
    try:
        return Amount(share=fraction(written))
    except ValueError:
        raise ValueError('neither a number of instances nor a share up to "100%"') from None


class _OrShare:
    """In the schema: the mapping, or a bare share."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [SHARE_SCHEMA, handler(core)]}


_AmountSchema = WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, SHARE_SCHEMA]})


class StepSettings(Settings):
    share: Annotated[Step, Field(description="Share of the users that the new release then has.", examples=["25%"])]
    hold: Annotated[
        Duration | None, Field(description="Least time at this step, instead of the rollout's.", examples=["10m"])
    ] = None
    approve: Annotated[
        bool, Field(description="Wait for `gapless rollout NAME approve` before any user comes to this share.")
    ] = False
    pause: Annotated[
        float | None,
        BeforeValidator(_pause),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string"}, {"type": "number"}]}),
        Field(
            description="Pause at this step: `true` until `gapless rollout NAME resume`, or for a time.",
            examples=["10m"],
            json_schema_extra={"default": False},
        ),
    ] = None

    def rule(self) -> StepRule | None:
        rule = StepRule(weight=self.share, hold_s=self.hold, approve=self.approve, pause_s=self.pause)
        return None if rule == StepRule(weight=self.share) else rule


class RolloutSettings(SharingSettings, CalendarSettings, GatingSettings):
    strategy: Annotated[
        Strategy,
        Field(
            description="`canary` moves users step by step; `rolling` replaces instance by instance; `blue-green` "
            "starts a whole new pool and switches at once."
        ),
    ] = Strategy.CANARY
    steps: Annotated[
        tuple[Annotated[StepSettings, BeforeValidator(_step), _OrShare()], ...],
        AfterValidator(_rising),
        Field(
            description="Shares of the users for `canary`, rising, the last one 100%. The other strategies make their "
            "own steps; `hold`, `approve` and `pause` then hold at the first one that reaches the share.",
            examples=[["10%", {"share": "50%", "hold": "10m", "approve": True}, "100%"]],
            json_schema_extra={"default": ["1%", "5%", "25%", "100%"]},
        ),
    ] = tuple(StepSettings.model_construct(share=weight) for weight in _POLICY.steps)
    hold: Annotated[Duration, Field(description="Least time at each step.", examples=["60s"])] = _POLICY.hold_s
    samples: Annotated[
        int, Field(ge=0, description="Requests that the new release must have answered at a step before the next one.")
    ] = _POLICY.min_samples
    judged_by: Annotated[
        JudgedBy | None,
        Field(
            description="`requests`: what is answered; `health`: readiness and crashes alone. Left out: `requests`, "
            "but `health` for a `command` without routes, whose requests nobody counts.",
            json_schema_extra={"default": "requests"},
        ),
    ] = None
    alpha: Annotated[
        float,
        Field(gt=0, lt=1, description="Greatest probability of rolling back a release as good as the stable one."),
    ] = _POLICY.alpha
    patience: Annotated[
        PositiveDuration,
        Field(description="How long a step may be without evidence; then see `no_evidence`.", examples=["1h"]),
    ] = _POLICY.patience_s
    no_evidence: Annotated[
        NoEvidence, Field(description="What then: `roll back`, `hold` on, or `promote` unless it looks worse.")
    ] = _POLICY.no_evidence
    power: Annotated[
        Share,
        Field(
            lt=1,
            description="A step is passed when a release at the greatest permitted error rate would have been found "
            "out so surely; 0%: not asked for.",
            examples=["80%"],
            json_schema_extra={"default": "80%"},
        ),
    ] = _POLICY.power
    surge: Annotated[
        Amount,
        BeforeValidator(_amount),
        _AmountSchema,
        Field(
            description="`rolling`: instances above `instances`, a number or a share (rounded up).",
            examples=["25%"],
            json_schema_extra={"default": 1},
        ),
    ] = _POLICY.surge
    unavailable: Annotated[
        Amount,
        BeforeValidator(_amount),
        _AmountSchema,
        Field(
            description="`rolling`: instances that may be missing meanwhile, a number or a share (rounded down).",
            examples=[1],
            json_schema_extra={"default": 0},
        ),
    ] = _POLICY.unavailable
    keep: Annotated[
        Duration | None,
        Field(
            description="How long the old pool is kept after the promotion, for an instant return. Left out: 10m for "
            "`blue-green`, else 0s.",
            examples=["10m"],
        ),
    ] = None
    bake: Annotated[
        Duration,
        Field(description="How long a promoted release is still watched, and rolled back by itself.", examples=["15m"]),
    ] = _POLICY.bake_s

    @model_validator(mode="after")
    def _moves(self) -> RolloutSettings:
        if self.surge == self.unavailable == Amount():
            raise ValueError("surge and unavailable are both 0: no instance could be replaced; raise one of them")
        if self.by.by is SplitBy.ID and any(step.share % (BUCKETS // PERCENTS) for step in self.steps):
            raise ValueError("by: id counts in whole percents; make the steps such, or split by: user")
        return self

    def value(self, counted: bool = True) -> RolloutPolicy:
        """`counted`: somebody counts what the service answers."""
        judged_by = self.judged_by or (JudgedBy.REQUESTS if counted else JudgedBy.HEALTH)
        keep_s = KEEP_S if self.strategy is Strategy.BLUE_GREEN else 0.0
        return RolloutPolicy(
            strategy=self.strategy,
            by=self.by.by,
            by_name=self.by.name,
            exceptions=self.exceptions(),
            steps=tuple(step.share for step in self.steps),
            rules=tuple(rule for step in self.steps if (rule := step.rule())),
            hold_s=self.hold,
            min_samples=0 if judged_by is JudgedBy.HEALTH else self.samples,
            judged_by=judged_by,
            alpha=self.alpha,
            patience_s=self.patience,
            no_evidence=self.no_evidence,
            power=self.power,
            surge=self.surge,
            unavailable=self.unavailable,
            keep_s=keep_s if self.keep is None else self.keep,
            bake_s=self.bake,
            **self.gating(),
        )


class ObjectiveSettings(Settings):
    max_error_rate: Annotated[
        Share,
        Field(
            description="A new release above it is rolled back at once.",
            examples=["5%"],
            json_schema_extra={"default": "5%"},
        ),
    ] = _OBJECTIVE.max_error_rate
    max_p99_ratio: Annotated[
        float, Field(gt=1, description="So is one whose p99 is so many times that of the stable release.", examples=[3])
    ] = _OBJECTIVE.max_p99_ratio
    availability: Annotated[
        Share,
        Field(
            lt=1,
            description="Share of the requests that get a good answer; alerts and budgets are made of it.",
            examples=["99.9%"],
            json_schema_extra={"default": "0%"},
        ),
    ] = _OBJECTIVE.availability
    p99: Annotated[Duration, Field(description="In which 99% of the requests are answered.", examples=["300ms"])] = (
        _OBJECTIVE.p99_s
    )

    def value(self) -> Objective:
        return Objective(
            max_error_rate=self.max_error_rate,
            max_p99_ratio=self.max_p99_ratio,
            availability=self.availability,
            p99_s=self.p99,
        )
