"""The gateway's own part in a trace, made of its access log: the instance that answered has decided whether the request
is recorded, and says so in `traceresponse` (W3C Trace Context, level 2). So the gateway itself traces nothing, and
needs no collector."""

from __future__ import annotations

import xxhash

from gapless.gateway.envoy.entries import Entry
from gapless.observe.trace.context import parse
from gapless.observe.trace.spans import CHILD, Span, Value

SERVICE = "gateway"
UPSTREAM_FAULT = 500
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""Others have no name: a client could make up any number of them."""


def span_of(entry: Entry, began_at: float) -> Span | None:
    """The gateway's span of a request; None when it is not recorded."""
    child = parse(entry.answered.encode())
    if child is None or not child.sampled:
        return None
    caller, status = parse(entry.asked.encode()), int(entry.status)
    attributes: dict[str, Value] = {
        CHILD: child.span_id,
        "http.response.status_code": status,
        "url.path": entry.path.partition("?")[0],
        "gapless.cluster": entry.cluster,
    }
    return Span(
        child.trace_id,
        xxhash.xxh64_hexdigest(f"{child.trace_id}{child.span_id}".encode()),
        caller.span_id if caller and caller.trace_id == child.trace_id else "",
        entry.method if entry.method in METHODS else "OTHER",
        "server",
        SERVICE,
        SERVICE,
        "",
        began_at=began_at,
        took_s=entry.took_s,
        failed=status >= UPSTREAM_FAULT,
        attributes=attributes,
    )
