"""Faults: requests that are delayed or refused on purpose, for a while.

What is done stands in the routes, with a share of nothing; the shares stand in Envoy's runtime, a resource of their own
that is sent with a time to live. So a fault ends by itself at its moment, also when the control plane is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gapless.core.model import Fault

Json = dict[str, Any]

LAYER = "gapless-faults"
"""Of the runtime; one of its own, because its end is sent with it."""

_TYPE = "type.googleapis.com/envoy."


def fault(given: Fault) -> Json:
    """envoy.extensions.filters.http.fault.v3.HTTPFault. The percentages stand in the runtime: they are sent with a time
    to live, so that a fault ends by itself, also when the control plane is gone (`faults`)."""
    found: Json = {"@type": _TYPE + "extensions.filters.http.fault.v3.HTTPFault"}
    delay_key, abort_key = fault_keys(given.service)
    none = {"numerator": 0, "denominator": "MILLION"}
    if given.delay_s:
        found["delay"] = {"fixed_delay": f"{given.delay_s:.3f}s", "percentage": none}
        found["delay_percent_runtime"] = delay_key
    if given.abort:
        found["abort"] = {"http_status": given.abort, "percentage": none}
        found["abort_percent_runtime"] = abort_key
    if given.header:
        name, equals, value = given.header.partition("=")
        match = {"string_match": {"exact": value}} if equals else {"present_match": True}
        found["headers"] = [{"name": name, **match}]
    return found


def fault_keys(service: str) -> tuple[str, str]:
    """The runtime's keys for the shares of a service's requests that are delayed, and aborted."""
    return f"gapless.fault.{service}.delay", f"gapless.fault.{service}.abort"


def runtime(faults: Iterable[Fault]) -> Json:
    """envoy.service.runtime.v3.Runtime: the shares in force."""
    layer: Json = {}
    for each in faults:
        delay_key, abort_key = fault_keys(each.service)
        share = {"numerator": round(each.share * 10_000), "denominator": "MILLION"}
        layer |= {delay_key: share} if each.delay_s else {}
        layer |= {abort_key: share} if each.abort else {}
    return {"name": LAYER, "layer": layer}


def until(faults: Iterable[Fault]) -> float:
    """When the first of them ends, and with it, when nobody sends the rest anew, all; 0: there is none."""
    return min((each.until_at for each in faults), default=0.0)
