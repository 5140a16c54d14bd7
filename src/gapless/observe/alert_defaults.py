"""The rules that are there without a word in gapless.yaml, and what a rule means for each service. Pure.

Burn rates: Beyer et al., "The Site Reliability Workbook" (2018), chapter 5: a short and a long window, both above so
many times the rate at which the budget lasts exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gapless.core.model import Service
from gapless.core.model.alert import ActionKind, AlertPolicy, AlertRule, Mode, Severity

OWN, GATEWAY = "gapless_requests_total", "gapless_gateway_requests_total"
OWN_TOOK, GATEWAY_TOOK = "gapless_request_duration_seconds", "gapless_gateway_request_duration_seconds"
CPU = "process_cpu_seconds_total"
ERRORS = {"status": "5*"}

HELD_S = 24 * 3600.0
"""What the embedded recorder holds: three days are scaled down to it."""
FRESH_S = 20.0
"""A gauge that is older is of somebody who has gone; metrics come every five seconds."""

ERROR_SHARE = 0.005
BUSY = 0.85
LEAST_DOWN_S = 15.0
DROP = 0.8
"""A ratio of the business below so much of what it was in the hour before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A rule for one service ("" for the system)."""

    rule: AlertRule
    service: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What tells it from the same rule for the same service, beside what its series have."""

    @property
    def every_s(self) -> float:
        """How often it is worth looking: what looks back for hours does not change in seconds."""
        shortest_s = min(self.rule.over_s, self.rule.short_s or self.rule.over_s)
        return min(max(shortest_s / 20, 1.0), 60.0)


def watches(policy: AlertPolicy, services: Iterable[Service], processors: int) -> list[Watch]:
    """All rules for all services. One of gapless.yaml takes the place of the built-in one of its name."""
    services = list(services)
    given = {rule.name for rule in policy.rules} | set(policy.off)
    found = [watch for rule in policy.rules if rule.name not in policy.off for watch in _spread(rule, services)]
    if policy.defaults:
        found += [watch for each in services for watch in built_in(each, processors) if watch.rule.name not in given]
        found += [Watch(rule=DISK)] if DISK.name not in given else []
    return found


def _spread(rule: AlertRule, services: Iterable[Service]) -> Iterable[Watch]:
    if not rule.each_service:
        return [Watch(rule=rule)]
    return [Watch(rule=rule, service=s.name) for s in services if not rule.services or s.name in rule.services]


def built_in(service: Service, processors: int) -> Iterable[Watch]:
    """What is watched of a service by itself."""
    rules = [down_of(service), errors_of(service), *_burns(service), *_latency(service)]
    if service.app:
        rules += [SILENT, cpu_of(service, processors)]
    yield from (Watch(rule=rule, service=service.name) for rule in rules)
    yield from _business(service)


def down_of(service: Service) -> AlertRule:
    """For as long as a start may take: a service that has just been added is not down."""
    return AlertRule(
        name="down",
        severity=Severity.P0,
        metric="gapless_instances",
        where={"phase": "ready"},
        per="gapless_instances_wanted",
        over_s=FRESH_S,
        below=0.001,
        for_s=max(service.start_s, LEAST_DOWN_S),
        calm_s=15.0,
        summary="{service}: no instance is ready",
        actions=(ActionKind.PAGE,),
    )


SILENT = AlertRule(
    name="silent",
    severity=Severity.P2,
    metric=CPU,
    absent_s=300.0,
    over_s=300.0,
    summary="{service}: its instances have told no metrics for {bound:g} s",
)
DISK = AlertRule(
    name="disk",
    severity=Severity.P2,
    each_service=False,
    metric="gapless_disk_free_bytes",
    per="gapless_disk_bytes",
    over_s=FRESH_S,
    below=0.05,
    recover=0.07,
    for_s=60.0,
    summary="{value:.1%} of the disk with the state directory is free",
)


def counted(service: Service) -> str:
    """Where a service's answers are counted: in front of it, where also those are seen that no instance gave; for one
    that the gateway does not lead to, by itself."""
    return GATEWAY if service.routes else OWN


def errors_of(service: Service) -> AlertRule:
    """`break` refuses requests that would mostly have been answered: by itself it is only proposed."""
    return AlertRule(
        name="errors",
        severity=Severity.P1,
        metric=counted(service),
        where=ERRORS,
        per=counted(service),
        of="rate",
        over_s=30.0,
        above=ERROR_SHARE,
        for_s=5.0,
        calm_s=60.0,
        summary="{service}: {value:.2%} of the answers are errors (bound {bound:.2%})",
        actions=(ActionKind.ROLL_BACK, ActionKind.BREAK),
    )


def cpu_of(service: Service, processors: int) -> AlertRule:
    """Above 85 % of the processors that its workers can use, as far as the machine has them."""
    usable = max(min(service.instances * service.workers, processors), 1)
    return AlertRule(
        name="cpu",
        severity=Severity.P2,
        metric=CPU,
        of="rate",
        over_s=60.0,
        above=BUSY * usable,
        recover=0.7 * usable,
        for_s=300.0,
        calm_s=300.0,
        summary="{service}: it takes {value:.2f} processors (bound {bound:.2f})",
        actions=(ActionKind.SCALE,),
    )


def _burns(service: Service) -> Iterable[AlertRule]:
    availability = getattr(service.objective, "availability", 0.0)
    if not 0 < availability < 1:
        return
    for name, factor, long_s, short_s, severity in burn_windows(HELD_S):
        yield AlertRule(
            name=f"burn-{name}",
            severity=severity,
            metric=counted(service),
            where=ERRORS,
            per=counted(service),
            of="rate",
            over_s=long_s,
            short_s=short_s,
            above=factor * (1 - availability),
            calm_s=min(short_s, 300.0),
            summary=f"{{service}}: the error budget goes {factor:g} times too fast: {{value:.2%}} errors in "
            f"{_span(long_s)} (objective {availability:.5g})",
            labels={"objective": "availability"},
        )


def burn_windows(held_s: float) -> list[tuple[str, float, float, float, Severity]]:
    """Name, factor, long and short window in seconds, severity. Those longer than what is recorded are as long as that,
    with their short window in the same proportion."""
    rows = [
        ("fast", 14.4, 3_600.0, 300.0, Severity.P1),
        ("slow", 6.0, 21_600.0, 1_800.0, Severity.P2),
        ("drift", 1.0, 259_200.0, 21_600.0, Severity.P3),
    ]
    return [
        (name, factor, min(long_s, held_s), short_s * min(1.0, held_s / long_s), severity)
        for name, factor, long_s, short_s, severity in rows
    ]


def _latency(service: Service) -> Iterable[AlertRule]:
    p99_s = getattr(service.objective, "p99_s", 0.0)
    if p99_s > 0:
        yield AlertRule(
            name="slow",
            severity=Severity.P2,
            metric=GATEWAY_TOOK if service.routes else OWN_TOOK,
            of="quantile",
            over_s=300.0,
            above=p99_s,
            for_s=120.0,
            summary="{service}: p99 is {value:.3g} s (objective {bound:.3g} s)",
            labels={"objective": "p99"},
        )


def _business(service: Service) -> Iterable[Watch]:
    """A ratio that gapless.yaml declares (`metrics:` of the service), below what it was in the hour before."""
    for name, metric in getattr(service, "metrics", {}).items():
        if metric.to:
            rule = AlertRule(
                name="business",
                severity=Severity.P1,
                metric=metric.metric,
                per=metric.to,
                of="rate",
                over_s=300.0,
                past_s=3_600.0,
                below=DROP,
                recover=(1 + DROP) / 2,
                for_s=60.0,
                summary=f"{{service}}: {name} is {{value:.0%}} of what it was in the hour before",
                actions=(ActionKind.PAGE,),
            )
            yield Watch(rule=rule, service=service.name, labels={"metric": name})


def mode_of(rule: AlertRule, kind: ActionKind, policy: AlertPolicy) -> Mode:
    """What may be done. The built-in rule's `break` is never done unasked, see `errors_of`."""
    if rule.act is not None:
        return rule.act
    theirs = any(rule.name == each.name for each in policy.rules)
    if kind is ActionKind.BREAK and not theirs and policy.act is Mode.ACT:
        return Mode.PROPOSE
    return policy.act


def _span(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"


def with_labels(watch: Watch, found: Mapping[str, str]) -> dict[str, str]:
    """What an alert carries: the rule's labels, the watch's, and the series' own."""
    return {**watch.rule.labels, **watch.labels, **found}


UNSEEN = AlertRule(
    name="unseen",
    severity=Severity.P2,
    each_service=False,
    for_s=120.0,
    calm_s=30.0,
    summary="the recorded metrics cannot be asked: nobody can see whether anything is wrong",
)
"""Fires when metrics are unavailable. No data is not good news."""
