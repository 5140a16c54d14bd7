"""Alerts: the rules, what stands of them, who silenced them, and what was done about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Severity(StrEnum):
    """P0 and P1 open incidents; P2 is for working hours; P3 is for the record."""

    P0 = "P0"
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"


class Mode(StrEnum):
    """What may be done about an alert without a person."""

    OFF = "off"
    PROPOSE = "propose"
    """Say what would be done, and do nothing."""
    ACT = "act"


class ActionKind(StrEnum):
    BREAK = "break"
    """Force the breakers before a service open: it is asked nothing for a while."""
    ROLL_BACK = "roll back"
    """Undo what changed last."""
    SCALE = "scale"
    """More instances."""
    PAGE = "page"
    """Tell people again and again until somebody acknowledges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """When to alert, of each service by itself (`each_service`) or of the system.

    The value is `metric` (`of`, looking back `over_s`), divided by the same of `per` where that is given. It must be
    `above` or `below` a bound for `for_s`. A share of counted events is compared by the end of its confidence
    interval: one error in ten requests is no error rate of 10 %.
    """

    name: str
    severity: Severity = Severity.P2
    services: tuple[str, ...] = ()
    """Only of these; (): of all."""
    each_service: bool = True
    metric: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    """Labels that must have these values; one that ends in `*` must begin so."""
    by: tuple[str, ...] = ()
    """An alert for each combination of these labels."""
    of: Literal["value", "max", "rate", "increase", "quantile", "mean"] = "value"
    q: float = 0.99
    over_s: float = 60.0
    short_s: float = 0.0
    """The same must hold looking back so far only: a burn that has ended does not alert. 0: not asked."""
    per: str = ""
    per_where: Mapping[str, str] = field(default_factory=dict)
    past_s: float = 0.0
    """Divided by what it was over so long a time: what is usual for one service is an alarm for another. 0: not."""
    above: float | None = None
    below: float | None = None
    recover: float | None = None
    """The bound beyond which it is over; None: the same. A gap between both keeps what sways from flapping."""
    absent_s: float = 0.0
    """Alert when there was something to see before, and nothing for so long. 0: this is no rule about absence."""
    for_s: float = 0.0
    calm_s: float = 60.0
    """How long it must be over before it counts as resolved; longer with each time that it came back at once."""
    summary: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    actions: tuple[ActionKind, ...] = ()
    guard: str = ""
    """What `break` forces open; empty: all that `protect` puts before the service."""
    act: Mode | None = None
    """None: as `AlertPolicy.act`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPolicy:
    """`alerts:` of gapless.yaml."""

    act: Mode = Mode.PROPOSE
    defaults: bool = True
    """Whether the built-in rules are there (`observe.alert_defaults`)."""
    rules: tuple[AlertRule, ...] = ()
    """A rule with the name of a built-in one takes its place."""
    off: tuple[str, ...] = ()
    """Names of rules that are not evaluated."""
    alertmanager: tuple[str, ...] = ()
    """URLs of Alertmanagers; when there are any, alerts go there as well."""
    most: int = 3
    """Actions at most in `within_s`, on each service."""
    within_s: float = 3600.0
    cooldown_s: float = 300.0
    """Between two actions on the same service."""
    most_instances: float = 2.0
    """`scale` goes up to so many times what the service has asked for."""
    lookback_s: float = 3600.0
    """`roll back` only undoes what changed so shortly before the alert."""


class AlertState(StrEnum):
    PENDING = "pending"
    """It holds, but not for long enough yet."""
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One time that a rule held. `key` names what it is about: the rule, the service and the labels."""

    number: int
    key: str
    rule: str
    service: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those of the rule, and those that the series had (`AlertRule.by`)."""
    severity: Severity = Severity.P2
    summary: str = ""
    state: AlertState = AlertState.PENDING
    value: float = 0.0
    """When it entered this state."""
    bound: float = 0.0
    since_at: float = 0.0
    """Since when it has held."""
    seen_at: float = 0.0
    """When that was last written down; it is looked at more often."""
    fired_at: float = 0.0
    calm_at: float = 0.0
    """Since when it has not held any more, while it is not resolved yet; 0: it holds."""
    blind_at: float = 0.0
    """Since when nobody can see whether it holds: no data is not good news. 0: it can be seen."""
    resolved_at: float = 0.0
    flaps: int = 0
    """How often it came back shortly after it was resolved."""
    acked_by: str = ""
    acked_at: float = 0.0
    why: str = ""
    """What the one who acknowledged it said."""
    told: bool = False
    """Whether people were told that it fires; one that is silenced is told when the silence ends."""
    paged: int = 0
    """How often people were paged."""
    paged_at: float = 0.0
    test: bool = False
    """Fired by hand, to see who hears of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Alerts that match are shown, but nobody is told and nothing is done. Empty fields match everything."""

    number: int
    rule: str = ""
    service: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    since_at: float = 0.0
    until_at: float = 0.0
    who: str = ""
    why: str = ""


class ActionState(StrEnum):
    PROPOSED = "proposed"
    """It would have been done, with `act: act`."""
    REFUSED = "refused"
    """A limit, or nothing to do it to; `detail` tells."""
    BEGUN = "begun"
    """Written before it is done: a control plane that is killed in between does not do it twice."""
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What was done about an alert, or was not, and why."""

    number: int
    alert: int
    service: str
    kind: ActionKind
    state: ActionState
    what: str
    """A sentence."""
    at: float = 0.0
    ended_at: float = 0.0
    undo: Mapping[str, str] = field(default_factory=dict)
    """What brings back the state before: `instances`, `guard`."""
    undone_at: float = 0.0
    effective: bool | None = None
    """Whether the alert was over within the time that such an action takes; None: not known yet."""
    detail: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """A guard's breakers in all instances of a service, forced until a moment at most: an instance ends it by itself
    when nobody tells it to."""

    service: str
    guard: str
    """Empty: all that `protect` puts before the service."""
    mode: str
    until_at: float
    action: int = 0
