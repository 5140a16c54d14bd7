"""`protect:` of gapless.yaml on its way into an instance, and the guards that it becomes there.

The fleet gives an instance the variable GAPLESS_PROTECT (JSON); the kit puts the guards before the app.
"""

from __future__ import annotations

from dataclasses import dataclass

from gapless.core import codec
from gapless.core.errors import ConfigError, StoreBroken
from gapless.core.model import Route, Service
from gapless.core.ports import World
from gapless.core.protect import BreakerRule, LimitRule, Protect, RateRule
from gapless.resilience.guard import Guard
from gapless.resilience.policy import Policy

VARIABLE = "GAPLESS_PROTECT"
KEYS = {"": "", "user": "{user}", "address": "{address}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A service's policies and those of its routes."""

    protect: Protect | None = None
    routes: tuple[Route, ...] = ()


def render(service: Service) -> str:
    """The variable's value; empty when nothing is protected."""
    rules = Rules(protect=service.protect, routes=tuple(route for route in service.routes if route.protect))
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


def guards(name: str, rules: Rules, world: World) -> list[tuple[tuple[str, str], Guard]]:
    """A guard for each protected route, and one for whatever else the service answers."""
    found = [((route.host, route.path), _route_guard(name, route, rules.protect, world)) for route in rules.routes]
    if rules.protect and ("*", "/") not in [place for place, _ in found]:
        found.append((("*", "/"), _guard(name, rules.protect, world)))
    return found


def _route_guard(name: str, route: Route, wider: Protect | None, world: World) -> Guard:
    return _guard(f"{name} {route.path}", (route.protect or Protect()).over(wider), world)


def _guard(name: str, protect: Protect, world: World) -> Guard:
    return Guard(name, *policies(protect), world=world)


def policies(protect: Protect) -> list[Policy]:
    """In the order that is safe: a refusal must cost nothing of what lies further in."""
    from gapless.resilience.deadline_layer import deadline

    found: list[Policy] = [deadline(protect.deadline_s)] if protect.deadline_s else []
    found += [_rate(protect.rate)] if protect.rate else []
    found += [_breaker(protect.breaker)] if protect.breaker else []
    found += [_limit(protect.limit)] if protect.limit else []
    return found


def _rate(rule: RateRule) -> Policy:
    from gapless.resilience.rate import rate

    quota = f"{rule.limit}/{rule.per_s:g}s"
    return rate(quota, burst=rule.burst or None, key=KEYS[rule.by])


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
