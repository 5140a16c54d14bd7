"""`alerts:`: when to alert, and what to do about it."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gapless.config.base import Settings
from gapless.config.quantities import Duration, PositiveDuration, fraction
from gapless.config.settings.fields import Name, text
from gapless.core.model.alert import ActionKind, AlertPolicy, AlertRule, Mode, Severity

_POLICY = AlertPolicy()
_RULE = AlertRule(name="")
LONGEST_S = 24 * 3600.0
"""The embedded recorder holds so much."""


def _bound(value: Any) -> float:
    """A number, or a share such as `0.5%`. Raises ValueError."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return fraction(value)
    if isinstance(value, str):
        with suppress(ValueError):  # as gapless.yaml says it
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError('not a number; write for instance 0.5, or "0.5%" for a share')
    return float(value)


def _url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError('not a URL; write for instance "http://127.0.0.1:9093"')
    return value.rstrip("/")


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _mode(value: Any) -> Any:
    return "off" if value is False else value  # what a bare `off` is to YAML


def _within(value: float) -> float:
    if value > LONGEST_S:
        raise ValueError("metrics are kept for 24h")
    return value


Bound = Annotated[float, BeforeValidator(_bound)]
LookBack = Annotated[PositiveDuration, AfterValidator(_within)]
ModeKey = Annotated[Mode, BeforeValidator(_mode)]


class RuleSettings(Settings):
    severity: Annotated[
        Severity, Field(description="P0 and P1 open incidents, P2 is for working hours, P3 for the record.")
    ] = _RULE.severity
    services: Annotated[tuple[Name, ...], Field(description="Only of these. Left out: of each.")] = ()
    each_service: Annotated[
        bool, Field(description="`false`: one alert for the system; the metric has no `service` label.")
    ] = _RULE.each_service
    metric: Annotated[str, Field(min_length=1, description="As scraped.", examples=["orders_paid_total"])]
    where: Annotated[
        dict[str, str], Field(description='Labels it must have; `"5*"` is what begins so.', examples=[{"status": "5*"}])
    ] = Field(default_factory=dict)
    by: Annotated[tuple[str, ...], Field(description="An alert for each combination of these labels.")] = ()
    of: Annotated[
        Literal["value", "max", "rate", "increase", "quantile", "mean"],
        Field(
            description="`value`, `max` of gauges; `rate`, `increase` of counters; `quantile`, `mean` of histograms."
        ),
    ] = _RULE.of
    q: Annotated[float, Field(gt=0, lt=1, description="Which quantile.")] = _RULE.q
    over: Annotated[LookBack, Field(description="How far it looks back.", examples=["5m"])] = _RULE.over_s
    short: Annotated[
        LookBack | None, Field(description="It must hold over this time as well: what is over does not alert.")
    ] = None
    per: Annotated[str, Field(description="Divided by the same of this metric: a share.")] = ""
    per_where: Annotated[dict[str, str], Field(description="Labels that this one must have.")] = Field(
        default_factory=dict
    )
    above: Annotated[Bound | None, Field(description="Alert above it.", examples=["0.5%", 100])] = None
    below: Annotated[Bound | None, Field(description="Alert below it.", examples=["95%"])] = None
    recover: Annotated[Bound | None, Field(description="It is over only beyond this. Left out: the same bound.")] = None
    absent: Annotated[LookBack | None, Field(description="Alert when nothing was recorded for so long.")] = None
    hold: Annotated[
        Duration, Field(alias="for", description="How long it must hold before it alerts.", examples=["5m"])
    ] = _RULE.for_s
    calm: Annotated[Duration, Field(description="How long it must be over before it is resolved.")] = _RULE.calm_s
    summary: Annotated[
        str, Field(description="A sentence for people; `{service}`, `{value}`, `{bound}` and labels are filled in.")
    ] = ""
    labels: Annotated[dict[str, str], Field(description="For routes and Alertmanager.")] = Field(default_factory=dict)
    do: Annotated[
        tuple[ActionKind, ...], Field(description="`break`, `roll back`, `scale`, `page`.", examples=[["page"]])
    ] = ()
    guard: Annotated[
        str, Field(description="What `break` forces open. Left out: what `protect` puts before the service.")
    ] = ""
    act: Annotated[ModeKey | None, Field(description="`act`, `propose` or `off`. Left out: as `alerts.act`.")] = None

    @model_validator(mode="after")
    def _asks_something(self) -> RuleSettings:
        bounds = [bound for bound in (self.above, self.below, self.absent) if bound is not None]
        if len(bounds) != 1:
            raise ValueError("give exactly one of `above`, `below` and `absent`")
        if self.per and self.of not in ("value", "rate", "increase"):
            raise ValueError("`per` divides values, rates and increases only")
        return self

    def value(self, name: str) -> AlertRule:
        return AlertRule(
            name=name,
            severity=self.severity,
            services=self.services,
            each_service=self.each_service,
            metric=self.metric,
            where=self.where,
            by=self.by,
            of=self.of,
            q=self.q,
            over_s=self.over,
            short_s=self.short or 0.0,
            per=self.per,
            per_where=self.per_where,
            above=self.above,
            below=self.below,
            recover=self.recover,
            absent_s=self.absent or 0.0,
            for_s=self.hold,
            calm_s=self.calm,
            summary=self.summary,
            labels=self.labels,
            actions=self.do,
            guard=self.guard,
            act=self.act,
        )


class LimitsSettings(Settings):
    most: Annotated[int, Field(ge=0, description="Actions at most on each service.")] = _POLICY.most
    within: Annotated[PositiveDuration, Field(description="In so long.", examples=["1h"])] = _POLICY.within_s
    cooldown: Annotated[Duration, Field(description="Between two actions on a service.", examples=["5m"])] = (
        _POLICY.cooldown_s
    )
    instances: Annotated[
        float, Field(ge=1, description="`scale` goes up to so many times the instances that were asked for.")
    ] = _POLICY.most_instances
    lookback: Annotated[
        PositiveDuration, Field(description="`roll back` undoes only what changed so shortly before.", examples=["1h"])
    ] = _POLICY.lookback_s


class AlertSettings(Settings):
    act: Annotated[
        ModeKey,
        Field(
            description="`propose`: say what would be done; `act`: do it; `off`: neither.",
            json_schema_extra={"default": "propose"},
        ),
    ] = _POLICY.act
    defaults: Annotated[bool, Field(description="Whether the built-in rules are there.")] = _POLICY.defaults
    disable: Annotated[tuple[str, ...], Field(description="Names of rules that are not evaluated.")] = ()
    rules: Annotated[
        dict[Name, RuleSettings],
        Field(description="Rules by name. One with the name of a built-in rule takes its place."),
    ] = Field(default_factory=dict)
    limits: LimitsSettings = Field(default_factory=LimitsSettings, description="How much is done without a person.")
    alertmanager: Annotated[
        tuple[Annotated[str, BeforeValidator(text), AfterValidator(_url)], ...],
        BeforeValidator(_several),
        Field(description="URLs of Alertmanagers that get all alerts.", examples=["http://127.0.0.1:9093"]),
    ] = ()

    def value(self) -> AlertPolicy:
        return AlertPolicy(
            act=self.act,
            defaults=self.defaults,
            rules=tuple(rule.value(name) for name, rule in self.rules.items()),
            off=self.disable,
            alertmanager=self.alertmanager,
            most=self.limits.most,
            within_s=self.limits.within,
            cooldown_s=self.limits.cooldown,
            most_instances=self.limits.instances,
            lookback_s=self.limits.lookback,
        )
