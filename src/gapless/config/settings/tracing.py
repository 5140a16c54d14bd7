"""`tracing:`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gapless.config.base import Settings
from gapless.config.quantities import PositiveDuration, Share
from gapless.config.settings.fields import text
from gapless.core.tracing import TracePolicy

_POLICY = TracePolicy()


def _url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value):
        raise ValueError('not an address; write for instance "http://127.0.0.1:4318"')
    return value


class TracingSettings(Settings):
    sample: Annotated[
        Share,
        Field(
            description="Share of the requests that are recorded; slow and failed ones are kept anyway.",
            examples=["5%"],
            json_schema_extra={"default": "1%"},
        ),
    ] = _POLICY.sample
    slow: Annotated[PositiveDuration, Field(description="What takes longer is kept as slow.", examples=["500ms"])] = (
        _POLICY.slow_s
    )
    otlp: Annotated[
        str,
        BeforeValidator(text),
        AfterValidator(_url),
        Field(description="A collector that spans are sent to, by OTLP over HTTP.", examples=["http://127.0.0.1:4318"]),
    ] = ""
    instrument: Annotated[
        tuple[Literal["asyncpg", "grpc", "httpx", "redis", "sqlalchemy"], ...],
        Field(description="Libraries whose calls are recorded too.", examples=[["httpx", "redis"]]),
    ] = ()

    def value(self) -> TracePolicy:
        return TracePolicy(sample=self.sample, slow_s=self.slow, otlp=self.otlp, instrument=tuple(self.instrument))
