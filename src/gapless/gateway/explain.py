"""Which release answers a request, and why: every route and rule that was looked at, as plain data. Pure."""

from __future__ import annotations

from typing import Any

from gapless.core.model import BUCKETS, Route, RouteTable, ServiceTable
from gapless.gateway.match import Request, candidates, mismatch, without_port
from gapless.gateway.rules import Step, choose
from gapless.gateway.shares import answered_shares, reachable, shares

Json = dict[str, Any]


def listed(table: RouteTable) -> list[Json]:
    """All routes in the order in which they are tried, whatever the host."""
    found = [(route, service) for service in table.services for route in service.routes]
    found.sort(key=lambda each: (each[0].precedence, each[1].service))
    return [_listed(route, service) for route, service in found]


def explain(table: RouteTable, request: Request) -> Json:
    """`service` is empty when nobody answers; `release` is, too, when chance will decide (`chance`)."""
    looked: list[Json] = []
    for route, service in candidates(table, without_port(request.host)):
        why = mismatch(route, request)
        looked.append({"service": service.service, "route": str(route), "matches": not why, "why": why})
        if not why:
            return {**_answer(service, route, request), "routes": looked}
    return {"service": "", "release": "", "chance": False, "routes": looked, "why": "no route matches: 404"}


def _answer(service: ServiceTable, route: Route, request: Request) -> Json:
    release, steps = choose(service, request, None)
    alive = reachable(service)
    return {
        "service": service.service,
        "route": str(route),
        "release": release,
        "chance": not release,
        "why": _why(service, steps, alive),
        "rules": [_step(step) for step in steps],
        "split": {name: weight / BUCKETS for name, weight in answered_shares(service.split, alive)},
        "timeout_s": route.timeout_s or service.timeout_s,
    }


def _step(step: Step) -> Json:
    found: Json = {"rule": step.what, "applies": step.passed, "why": step.why}
    if step.passed:
        found["release"] = step.release
    if step.bucket is not None:
        found |= {"bucket": step.bucket, "of": step.size, "range": step.range}
    return found


def _why(service: ServiceTable, steps: list[Step], alive: frozenset[str]) -> str:
    if not alive:
        return "no instance can be asked: 503"
    last = steps[-1]
    if last.range is not None:
        low, high = last.range
        found = f"{last.what}, {last.why}: bucket {last.bucket} of {last.size}, in {low}…{high}"
    else:
        found = f"{last.what}: {last.why}"
    absent = sorted({name for name, _ in shares(service.split)} - alive)
    return f"{found}; {', '.join(absent)} has no instance that answers" if absent else found


def _listed(route: Route, service: ServiceTable) -> Json:
    alive = reachable(service)
    return {
        "service": service.service,
        "route": str(route),
        "split": {name: weight / BUCKETS for name, weight in answered_shares(service.split, alive)},
        "by": f"{service.split.by} {service.split.by_name}".strip(),
        "answers": bool(alive),
        "timeout_s": route.timeout_s or service.timeout_s,
        "attempts": route.retries.attempts,
    }
