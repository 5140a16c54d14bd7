"""What is sent again, and when.

To another instance, whatever the method: what the first cannot have seen (refused, never written).
For GET, HEAD, OPTIONS, PUT and DELETE (RFC 9110 §9.2.2) and for anything with an `idempotency-key`: also what the
instance may have seen but did not answer (reset), and what it declined because it is draining.
For the same of gRPC: UNAVAILABLE.
Never: a 5xx that the application gave, or what has run out of time.

A filter before the router decides by the method and tells it so in `x-envoy-retry-on`, which it adds to the policy of
the route. Deciding it in the routes would need each of them twice.
"""

from __future__ import annotations

from typing import Any

from gapless.core.model import Retries

Json = dict[str, Any]

DRAINING_HEADER = "x-gapless-draining"
"""On a 503: the instance has not begun the request, because it is going away."""

UNSEEN = "connect-failure,refused-stream,reset-before-request"
REPEATABLE = "reset,retriable-headers,retriable-status-codes"
"""Statuses are repeated where a route names some."""
FILTER, ELSEWHERE = "repeatable", "elsewhere"

DEFAULT = Retries()

HEDGE_KEY = "hedge-ms"
"""In a route's metadata: after so long without an answer, another instance is asked as well. The first attempt goes on,
so that nothing that is merely slow is lost; whoever answers first is heard."""

HEDGES_KEY = "hedges"

_HEDGE = f"%METADATA(ROUTE:gapless:{HEDGE_KEY})%"
_REPEATED = {"x-envoy-retry-on": REPEATABLE}
_ELSEWHERE = {
    "x-envoy-retry-grpc-on": "unavailable",
    "x-envoy-upstream-rq-per-try-timeout-ms": _HEDGE,  # where a route has none, this is no number, and ignored
    "x-envoy-hedge-on-per-try-timeout": f"%METADATA(ROUTE:gapless:{HEDGES_KEY})%",
}

_TYPE = "type.googleapis.com/"
_PRIORITIES = _TYPE + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
_PREVIOUS = _TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


def retry_policy(retries: Retries = DEFAULT, try_timeout_s: float = 0.0) -> Json:
    """envoy.config.route.v3.RetryPolicy of every route."""
    each = {"per_try_timeout": f"{try_timeout_s:.3f}s"} if try_timeout_s else {}
    if not retries.attempts:
        return each
    return {
        "retry_on": UNSEEN,
        "retriable_headers": [{"name": DRAINING_HEADER, "present_match": True}],
        "num_retries": retries.attempts,
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.200s"},
        "retry_host_predicate": [{"name": "previous_hosts", "typed_config": {"@type": _PREVIOUS}}],
        "host_selection_retry_max_attempts": 5,  # how often to draw again when the one that failed is drawn
        **({"retriable_status_codes": list(retries.on)} if retries.on else {}),
        **each,
    }


def other_zones() -> Json:
    """What it has more where instances are in several zones: another attempt goes to another zone."""
    priorities = {"@type": _PRIORITIES, "update_frequency": 1}
    return {"retry_priority": {"name": "previous_priorities", "typed_config": priorities}}


def elsewhere() -> Json:
    """Another filter, for the routes that ask for it (`elsewhere_filter`): gRPC, and services in several zones."""
    return _adding(_ELSEWHERE)


def elsewhere_filter(retries: Retries) -> Json:
    """`typed_per_filter_config` of a route that asks for it."""
    per_route = _TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute"
    return {ELSEWHERE: {"@type": per_route, "xds_matcher": _matcher(retries)}} if retries.attempts else {}


def repeatable() -> Json:
    """The filter: adds `x-envoy-retry-on`, and is skipped for what may not be repeated."""
    return _adding(_REPEATED)


def _adding(headers: dict[str, str]) -> Json:
    mutation = {
        "@type": _TYPE + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"request_mutations": [_append(key, value) for key, value in headers.items()]},
    }
    return {
        "@type": _TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        "extension_config": {"name": "envoy.filters.http.header_mutation", "typed_config": mutation},
        "xds_matcher": _matcher(DEFAULT),
    }


def _append(key: str, value: str) -> Json:
    return {"append": {"header": {"key": key, "value": value}}}


def retry_filter(retries: Retries) -> Json:
    """`typed_per_filter_config` of a route: nothing where the filter's own rule holds."""
    if not retries.attempts:
        return {FILTER: {"@type": _TYPE + "envoy.config.route.v3.FilterConfig", "disabled": True}}
    if (retries.methods, retries.keyed) == (DEFAULT.methods, DEFAULT.keyed):
        return {}
    per_route = _TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute"
    return {FILTER: {"@type": per_route, "xds_matcher": _matcher(retries)}}


def _matcher(retries: Retries) -> Json:
    once_only = {"not_matcher": _repeatable(retries)}
    return {"matcher_list": {"matchers": [{"predicate": once_only, "on_match": _skip()}]}}


def _repeatable(retries: Retries) -> Json:
    methods = _header(":method", "|".join(retries.methods) or "-")  # no method is called so
    if not retries.keyed:
        return methods
    return {"or_matcher": {"predicate": [methods, _header("idempotency-key", ".+")]}}


def _header(name: str, regex: str) -> Json:
    header = {"@type": _TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name}
    value = {"safe_regex": {"google_re2": {}, "regex": regex}}
    return {"single_predicate": {"input": {"name": "header", "typed_config": header}, "value_match": value}}


def _skip() -> Json:
    skip = _TYPE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"
    return {"action": {"name": "skip", "typed_config": {"@type": skip}}}
