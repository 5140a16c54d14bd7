"""`analysis:` of a service."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from gapless.config.base import Settings
from gapless.config.quantities import Duration, Share
from gapless.config.settings.fields import Name, text
from gapless.core.model import Better, MetricRule

_RULE = MetricRule(name="")
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def _metric(value: str) -> str:
    if not _METRIC.fullmatch(value):
        raise ValueError("the name of a metric has letters, digits and underscores")
    return value


MetricName = Annotated[str, BeforeValidator(lambda value: _metric(text(value)))]


class MetricSettings(Settings):
    name: Annotated[Name, Field(description="What it is called in verdicts.", examples=["conversion"])]
    metric: Annotated[
        MetricName | None,
        Field(description="As it is recorded, by `service` and `release`.", examples=["orders_paid_total"]),
    ] = None
    per: Annotated[
        MetricName | None,
        Field(
            description="The counter of all that could have become such an event: `metric` is then compared in an "
            "anytime-valid test.",
            examples=["carts_total"],
        ),
    ] = None
    query: Annotated[
        str,
        BeforeValidator(text),
        Field(
            description="PromQL instead of `metric`; `$service` and `$release` are replaced.",
            examples=['avg(basket_eur{service="$service", release="$release"})'],
        ),
    ] = ""
    of: Annotated[
        Literal["value", "rate", "mean", "quantile"],
        Field(description="What of a single metric is read; `quantile` is the p99."),
    ] = "value"
    better: Annotated[Better, Field(description="Which of two values is the better one.")] = _RULE.better
    tolerance: Annotated[
        Share,
        Field(
            lt=1,
            description="How much worse than the stable release is no harm.",
            examples=["10%"],
            json_schema_extra={"default": "10%"},
        ),
    ] = _RULE.tolerance
    samples: Annotated[
        int, Field(ge=1, description="Of a counted one: how many of `per` the new release must have had at a step.")
    ] = _RULE.samples
    after: Annotated[
        Duration,
        Field(description="Read only after a step has held for so long: effects come later.", examples=["60s"]),
    ] = _RULE.after_s

    @model_validator(mode="after")
    def _one_source(self) -> MetricSettings:
        if bool(self.metric) == bool(self.query):
            raise ValueError("give either a metric or a query")
        if self.per and self.query:
            raise ValueError("per goes with metric: a query is one value")
        if self.per and self.of != "value":
            raise ValueError("of goes with a single metric: what is counted per something else is compared by events")
        return self

    def value(self) -> MetricRule:
        return MetricRule(
            name=self.name,
            metric=self.metric or "",
            per=self.per or "",
            query=self.query,
            of=self.of,
            better=self.better,
            tolerance=self.tolerance,
            samples=self.samples,
            after_s=self.after,
        )


class AnalysisSettings(Settings):
    metrics: Annotated[
        tuple[MetricSettings, ...],
        Field(description="What its releases are judged by beside errors and latency."),
    ] = ()

    @model_validator(mode="after")
    def _names(self) -> AnalysisSettings:
        names = [metric.name for metric in self.metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is there twice; give each metric a name of its own")
        return self
