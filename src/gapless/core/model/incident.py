"""Incidents: what went wrong together, and what probably did it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gapless.core.model.alert import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A change that may be to blame."""

    kind: str
    """`rollout`, `config`, `scale`, `gateway`, `experiment`, `change`."""
    number: int
    """Of the change log."""
    service: str
    at: float
    what: str
    who: str = ""
    probability: float = 0.0
    """Among all suspects and `something else`, which has what is left to 1."""
    evidence: tuple[str, ...] = ()
    """Sentences, the strongest first."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What each kind of evidence adds, as natural logarithms of likelihood ratios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Alerts that belong together by time and by who needs whom. Opened by the first P0 or P1, closed when all of its
    alerts are resolved."""

    number: int
    opened_at: float
    title: str
    severity: Severity = Severity.P1
    services: tuple[str, ...] = ()
    alerts: tuple[int, ...] = ()
    state: Literal["open", "closed"] = "open"
    calm_at: float = 0.0
    """Since when none of its alerts fires; 0: one does."""
    closed_at: float = 0.0
    suspects: tuple[Suspect, ...] = ()
    blamed_at: float = 0.0
    """When `suspects` were last weighed."""
    onset_at: float = 0.0
    """When it began by the metrics, which is before anybody was alerted."""
    impact: Mapping[str, float] = field(default_factory=dict)
    """`requests` and `errors` from its onset to its end, and `p99_s`, the worst of a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """A line of an incident's time line."""

    at: float
    kind: Literal["alert", "change", "rollout", "experiment", "action", "incident"]
    text: str
    service: str = ""
    number: int = 0
