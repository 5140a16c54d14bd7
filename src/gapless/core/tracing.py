"""`tracing:` of gapless.yaml as a frozen value: how much is traced, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE = 0.01
"""Enough to see what is usual; what is unusual is kept anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePolicy:
    """`sample`: the share (0…1) of requests that are recorded when their caller says nothing. Requests slower than
    `slow_s`, and those that failed, are kept in any case. `otlp`: where spans are sent (OTLP over HTTP); empty:
    nowhere. `instrument`: libraries whose calls are recorded (`observe.trace.sdk`)."""

    sample: float = SAMPLE
    slow_s: float = 1.0
    otlp: str = ""
    instrument: tuple[str, ...] = ()

    @property
    def needs_sdk(self) -> bool:
        """OpenTelemetry's SDK is loaded for what only it can do; it costs every worker's start a tenth of a second."""
        return bool(self.otlp or self.instrument)
