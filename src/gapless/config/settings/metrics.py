"""`metrics:` of the file, and of a service."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gapless.config.base import Settings
from gapless.config.settings.fields import AddressSchema, address, text
from gapless.core.model import Address, DerivedMetric

_METRIC = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def metric_name(value: str) -> str:
    """Raises ValueError."""
    if not _METRIC.fullmatch(value):
        raise ValueError("the name of a metric has letters, digits and underscores")
    return value


def recorded_name(value: str) -> str:
    """What `service.metric.count` counts is recorded with `_total`. Raises ValueError."""
    return value if metric_name(value).endswith("_total") else f"{value}_total"


def _url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value):
        raise ValueError('not an address; write for instance "http://127.0.0.1:9090"')
    return value.rstrip("/")


MetricName = Annotated[str, BeforeValidator(lambda value: metric_name(text(value)))]
Counted = Annotated[str, BeforeValidator(lambda value: recorded_name(text(value)))]


class MetricsSettings(Settings):
    prometheus: Annotated[
        str,
        BeforeValidator(text),
        AfterValidator(_url),
        Field(
            description="A Prometheus that has our metrics: it is asked instead of the embedded record.",
            examples=["http://127.0.0.1:9090"],
        ),
    ] = ""
    listen: Annotated[
        Address | None,
        BeforeValidator(lambda value: None if value is None else address(value)),
        AddressSchema,
        Field(
            description="Where a Prometheus finds the metrics of all instances at once, at `/metrics`.",
            examples=["127.0.0.1:9464"],
        ),
    ] = None


class DerivedSettings(Settings):
    ratio: Annotated[
        tuple[Counted, Counted] | None,
        Field(description="The rate of the first by that of the second.", examples=[["orders_paid", "orders_created"]]),
    ] = None
    rate: Annotated[
        Counted | None, Field(description="Events per second of what is counted.", examples=["orders_paid"])
    ] = None

    @model_validator(mode="after")
    def _one(self) -> DerivedSettings:
        if (self.ratio is None) == (self.rate is None):
            raise ValueError("give either a rate, or a ratio of two")
        return self

    def value(self, name: str) -> DerivedMetric:
        if self.ratio:
            return DerivedMetric(name=name, metric=self.ratio[0], to=self.ratio[1])
        return DerivedMetric(name=name, metric=str(self.rate))


def as_derived(value: Any) -> Any:
    """A plain name is short for its rate."""
    return {"rate": value} if isinstance(value, str) else value
