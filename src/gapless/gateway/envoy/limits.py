"""`protect:` as Envoy's own means: a pure mapping.

- A **rate** is a token bucket of the local rate limit filter. All buckets stand in the route configuration as
  descriptors, one for each route of a service: the several Envoy routes that a route becomes share it. (A bucket in the
  routes themselves would be one for each of them.) Every new route configuration begins with full buckets.
- A **breaker** is outlier detection by share of failures, for each instance by itself, and thresholds: part of the
  cluster, and so of the cluster's name (`clusters.mark_of`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from gapless.core.model import Route, RouteTable, ServiceTable
from gapless.core.model.routing import USER_HEADER
from gapless.core.protect import BreakerRule, Protect, RateRule
from gapless.gateway.envoy.parts import Parts

Json = dict[str, Any]

FILTER = "envoy.filters.http.local_ratelimit"
KEYS = 10_000
"""Users or addresses whose buckets are kept, per route; the one that was quiet longest goes first."""
UNBOUNDED = 2**32 - 1
SHORTEST_FILL_S = 0.05
"""Envoy's least fill interval."""

ROUTE_KEY, USER_KEY, ADDRESS_KEY, UNKNOWN_KEY = "route", "user", "remote_address", "unknown"

_TYPE = "type.googleapis.com/envoy."
_LIMIT = _TYPE + "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"


# Rates.


def rate_of(service: ServiceTable, route: Route) -> RateRule | None:
    """The rate before a route: its own, or else its service's."""
    return (route.protect or Protect()).over(service.protect).rate


def rate_limit_filter() -> Json:
    """The filter in the listener, which never changes: it does nothing by itself."""
    return {"name": FILTER, "typed_config": {"@type": _LIMIT, "stat_prefix": "rate"}}


def rates_of(service: ServiceTable) -> dict[str, RateRule]:
    """The buckets of a service by name."""
    return {bucket_name(service.service, r): rate for r in service.routes if (rate := rate_of(service, r))}


def rate_limits(table: RouteTable, parts: Parts | None = None) -> Json:
    """`typed_per_filter_config` of the route configuration: every bucket there is; nothing when there is none."""
    parts = parts or Parts()
    rated = parts.merged(table, "rates", rates_of)
    if not rated:
        return {}
    limits = {
        "@type": _LIMIT,
        "stat_prefix": "rate",
        "token_bucket": {"max_tokens": UNBOUNDED, "tokens_per_fill": UNBOUNDED, "fill_interval": "1s"},
        "always_consume_default_token_bucket": False,
        "filter_enabled": _always(),
        "filter_enforced": _always(),
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "response_headers_to_add": [_header("retry-after", "%METADATA(ROUTE:gapless:retry-after)%")],
        "max_dynamic_descriptors": KEYS,
        "descriptors": [d for name, rate in sorted(rated.items()) for d in _descriptors(name, rate)],
    }
    return {FILTER: limits}


def rated_route(service: str, route: Route, rate: RateRule | None) -> tuple[Json, Json]:
    """What a route adds to its action and to itself so that its requests take from its bucket, or from none."""
    if rate is None:
        return {}, {}
    action = {"rate_limits": _actions(bucket_name(service, route), rate)}
    wait_s = str(max(math.ceil(rate.per_s / rate.limit), 1))
    return action, {"metadata": {"filter_metadata": {"gapless": {"retry-after": wait_s}}}}


def unrated() -> Json:
    """`typed_per_filter_config` of a route without a rate, where others have one."""
    return {FILTER: {"@type": _TYPE + "config.route.v3.FilterConfig", "disabled": True}}


def bucket_name(service: str, route: Route) -> str:
    return f"{service} {route}"


def bucket(rate: RateRule) -> Json:
    """envoy.type.v3.TokenBucket."""
    per_s = max(rate.per_s, SHORTEST_FILL_S)
    tokens = max(round(rate.limit * per_s / rate.per_s), 1)
    return {
        "max_tokens": max(rate.burst or rate.limit, 1),
        "tokens_per_fill": tokens,
        "fill_interval": f"{per_s:.3f}s",
    }


def _descriptors(name: str, rate: RateRule) -> Iterable[Json]:
    """A value that is left out stands for each value by itself."""
    route = {"key": ROUTE_KEY, "value": name}
    keys: dict[str, Sequence[Sequence[Json]]] = {
        "": [()],
        "address": [({"key": ADDRESS_KEY},)],
        "user": [({"key": USER_KEY},), ({"key": UNKNOWN_KEY, "value": "true"}, {"key": ADDRESS_KEY})],
    }
    return [{"entries": [route, *more], "token_bucket": bucket(rate)} for more in keys[rate.by]]


def _actions(name: str, rate: RateRule) -> list[Json]:
    """envoy.config.route.v3.RateLimit messages: what a request takes from, in the order of `_descriptors`."""
    route = {"generic_key": {"descriptor_key": ROUTE_KEY, "descriptor_value": name}}
    user = {"request_headers": {"header_name": USER_HEADER, "descriptor_key": USER_KEY}}
    absent = {"name": USER_HEADER, "present_match": False}
    unknown = {"header_value_match": {"descriptor_key": UNKNOWN_KEY, "descriptor_value": "true", "headers": [absent]}}
    address: Json = {"remote_address": {}}
    keys: dict[str, list[list[Json]]] = {"": [[]], "address": [[address]], "user": [[user], [unknown, address]]}
    return [{"actions": [route, *more]} for more in keys[rate.by]]


def _always() -> Json:
    return {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def refusals() -> Json:
    """envoy…HttpConnectionManager.local_reply_config: what Envoy refuses is told like what an instance refuses."""
    comparison = {"op": "EQ", "value": {"default_value": 429, "runtime_key": "gapless.rate_status"}}
    rate = {"status_code_filter": {"comparison": comparison}}  # the flag RL is only set after the answer was made
    full = {"response_flag_filter": {"flags": ["UO"]}}
    return {
        "mappers": [
            _mapper(rate, "rate", "Too many requests", "Ask again after the seconds in Retry-After."),
            {
                **_mapper(full, "breaker", "Overloaded", "Too many requests are running or waiting here."),
                "headers_to_add": [_header("retry-after", "1")],
            },
        ]
    }


def _mapper(which: Json, policy: str, title: str, detail: str) -> Json:
    """envoy…ResponseMapper: RFC 9457."""
    body = {"type": "about:blank", "title": title, "status": "%RESPONSE_CODE%", "detail": detail, "policy": policy}
    return {
        "filter": which,
        "body_format_override": {"json_format": body, "content_type": "application/problem+json"},
    }


# Breakers.


def breaker_of(service: ServiceTable) -> BreakerRule | None:
    return service.protect.breaker if service.protect else None


def outlier_detection(breaker: BreakerRule) -> Json:
    """What it adds to a cluster's outlier detection. An instance whose share of 5xx reaches the rate is asked nothing
    for a while (n-th time: n times as long); when all of them are, that is 503 at once: an open breaker."""
    interval_s = breaker.window_s or BreakerRule().window_s
    share = max(round(breaker.rate * 100), 1)
    return {
        "interval": f"{interval_s:.3f}s",
        "base_ejection_time": f"{breaker.open_for_s:.3f}s",
        "max_ejection_percent": 100,
        "failure_percentage_threshold": share,
        "failure_percentage_request_volume": breaker.minimum,
        "failure_percentage_minimum_hosts": 1,
        "enforcing_failure_percentage": 100,
    }


def thresholds(breaker: BreakerRule) -> Json:
    """What it adds to a cluster's thresholds."""
    most = breaker.max_requests
    return {"max_pending_requests": most, "max_requests": most} if most else {}
