"""`protect:` of gapless.yaml on its way into an instance, and the guards that it becomes there.

The fleet gives an instance the variable GAPLESS_PROTECT (JSON), and the routing table tells of changes; the kit puts
the guards before the app (`protection`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import NamedTuple

from gapless.core import codec
from gapless.core.errors import ConfigError, StoreBroken
from gapless.core.model import Route, Service, ServiceTable
from gapless.core.protect import BreakerRule, LimitRule, Protect, RateRule
from gapless.resilience.policy import Policy

VARIABLE = "GAPLESS_PROTECT"
KEYS = {"": "", "user": "{user}", "address": "{address}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A service's policies and those of its routes."""

    protect: Protect | None = None
    routes: tuple[Route, ...] = ()


def rules_of(service: Service | ServiceTable) -> Rules:
    """The policies in a service's definition, or in its part of the routing table."""
    return Rules(protect=service.protect, routes=tuple(route for route in service.routes if route.protect))


def render(service: Service) -> str:
    """The variable's value; empty when nothing is protected."""
    rules = rules_of(service)
    return codec.encode(rules).decode() if rules.protect or rules.routes else ""


def parse(text: str) -> Rules:
    """Raises ConfigError."""
    try:
        return codec.decode(text, Rules)
    except StoreBroken as error:
        raise ConfigError(
            f"{VARIABLE} is not what this version of Gapless writes: {error.what}",
            "Deploy the service again, or remove the variable.",
        ) from error


class Guarded(NamedTuple):
    """What stands before one place (host, path): the guard of that name, with these policies."""

    place: tuple[str, str]
    guard: str
    policies: tuple[Policy, ...]


def guarded(name: str, rules: Rules, env: Mapping[str, str]) -> list[Guarded]:
    """A guard for each protected route, and one for whatever else the service answers. Raises ConfigError."""
    found = [
        Guarded((route.host, route.path), _guard_of(name, route), policies(_over(route, rules.protect), env))
        for route in rules.routes
    ]
    if rules.protect and ("*", "/") not in [each.place for each in found]:
        found.append(Guarded(("*", "/"), name, policies(rules.protect, env)))
    return found


def _guard_of(name: str, route: Route) -> str:
    return f"{name} {'' if route.host == '*' else route.host}{route.path}"


def _over(route: Route, wider: Protect | None) -> Protect:
    return (route.protect or Protect()).over(wider)


def policies(protect: Protect, env: Mapping[str, str]) -> tuple[Policy, ...]:
    """In the order that is safe: a refusal must cost nothing of what lies further in."""
    from gapless.resilience.deadline_layer import deadline

    found: list[Policy] = [deadline(protect.deadline_s)] if protect.deadline_s else []
    found += [_rate(protect.rate, env)] if protect.rate else []
    found += [_breaker(protect.breaker)] if protect.breaker else []
    found += [_limit(protect.limit)] if protect.limit else []
    return tuple(found)


def _rate(rule: RateRule, env: Mapping[str, str]) -> Policy:
    from gapless.resilience.rate import leased, rate

    quota = f"{rule.limit}/{rule.per_s:g}s"
    url = _filled(rule.shared, env) if rule.shared else None
    return rate(quota, burst=rule.burst or None, key=KEYS[rule.by], shared=leased(url) if rule.leased else url)


def _filled(url: str, env: Mapping[str, str]) -> str:
    """With the instance's own secrets, which are no part of gapless.yaml."""
    try:
        return Template(url).substitute(env)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"rate.shared: {url}: there is no variable {error}", "Set it in the service's `env:`, or write $$ for a $."
        ) from error


def _breaker(rule: BreakerRule) -> Policy:
    from gapless.resilience.breaker import Last, breaker

    window = Last(calls=rule.window_calls) if rule.window_calls else Last(seconds=rule.window_s)
    return breaker(
        rate=rule.rate,
        slow=rule.slow_s or None,
        window=window,
        minimum=rule.minimum,
        probes=rule.probes,
        open_for=rule.open_for_s,
    )


def _limit(rule: LimitRule) -> Policy:
    from gapless.resilience.limit import adaptive, limit

    return limit(adaptive(max=rule.max) if rule.adaptive else rule.max, queue=rule.queue, wait=rule.wait_s)
