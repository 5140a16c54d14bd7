"""What is sent again, and when.

To another instance, whatever the method: what the first cannot have seen (refused, never written).
For GET, HEAD, OPTIONS, PUT and DELETE (RFC 9110 §9.2.2) and for anything with an `idempotency-key`: also what the
instance may have seen but did not answer (reset), and what it declined because it is draining.
Never: a 5xx that the application gave, or what has run out of time.

A filter before the router decides by the method and tells it so in `x-envoy-retry-on`, which it adds to the policy of
the route. Deciding it in the routes would need each of them twice.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

DRAINING_HEADER = "x-gapless-draining"
"""On a 503: the instance has not begun the request, because it is going away."""

RETRIES = 3
UNSEEN = "connect-failure,refused-stream,reset-before-request"
REPEATABLE = "reset,retriable-headers"
IDEMPOTENT = "GET|HEAD|OPTIONS|PUT|DELETE"

_TYPE = "type.googleapis.com/"
_PREVIOUS = _TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


def retry_policy() -> Json:
    """envoy.config.route.v3.RetryPolicy of every route."""
    return {
        "retry_on": UNSEEN,
        "retriable_headers": [{"name": DRAINING_HEADER, "present_match": True}],
        "num_retries": RETRIES,
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.200s"},
        "retry_host_predicate": [{"name": "previous_hosts", "typed_config": {"@type": _PREVIOUS}}],
        "host_selection_retry_max_attempts": 5,  # how often to draw again when the one that failed is drawn
    }


def repeatable() -> Json:
    """The filter: adds `x-envoy-retry-on`, and is skipped for what may not be repeated."""
    retry_on = {"key": "x-envoy-retry-on", "value": REPEATABLE}
    mutation = {
        "@type": _TYPE + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"request_mutations": [{"append": {"header": retry_on}}]},
    }
    return {
        "@type": _TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        "extension_config": {"name": "envoy.filters.http.header_mutation", "typed_config": mutation},
        "xds_matcher": {"matcher_list": {"matchers": [{"predicate": _once_only(), "on_match": _skip()}]}},
    }


def _once_only() -> Json:
    either = {"predicate": [_header(":method", IDEMPOTENT), _header("idempotency-key", ".+")]}
    return {"not_matcher": {"or_matcher": either}}


def _header(name: str, regex: str) -> Json:
    header = {"@type": _TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name}
    value = {"safe_regex": {"google_re2": {}, "regex": regex}}
    return {"single_predicate": {"input": {"name": "header", "typed_config": header}, "value_match": value}}


def _skip() -> Json:
    skip = _TYPE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"
    return {"action": {"name": "skip", "typed_config": {"@type": skip}}}
