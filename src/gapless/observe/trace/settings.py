"""How a process is told what to trace."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gapless.core.errors import ConfigError
from gapless.core.tracing import SAMPLE, TracePolicy

VARIABLE = "GAPLESS_TRACING"


def render(policy: TracePolicy) -> str:
    """The value of `VARIABLE`."""
    return json.dumps(asdict(policy))


def from_env(env: Mapping[str, str]) -> TracePolicy:
    """From `VARIABLE`, or else from OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) and
    OTEL_TRACES_SAMPLER_ARG. Raises ConfigError."""
    if given := env.get(VARIABLE):
        return _parsed(given)
    otlp = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        otlp = ""
    text = env.get("OTEL_TRACES_SAMPLER_ARG", "")
    try:
        sample = float(text) if text else SAMPLE
        if not 0 <= sample <= 1:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"OTEL_TRACES_SAMPLER_ARG is {text!r}", "Give the share of requests to record: 0.01 is 1 %."
        ) from None
    return TracePolicy(sample=sample, otlp=otlp)


def _parsed(text: str) -> TracePolicy:
    try:
        found: dict[str, Any] = json.loads(text)
        known = {name: value for name, value in found.items() if name in TracePolicy.__slots__}
        return TracePolicy(**{**known, "instrument": tuple(known.get("instrument", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{VARIABLE} cannot be read: {error}", "It is set by `gapless up`.") from error
