"""The gateway's own part in a trace, made of its access log: the instance that answered has decided whether the request
is recorded, and says so in `traceresponse` (W3C Trace Context, level 2). So the gateway itself traces nothing, and
needs no collector."""

from __future__ import annotations

from typing import Any

import xxhash

from gapless.observe.trace.context import parse
from gapless.observe.trace.spans import CHILD, Span, Value

SERVICE = "gateway"
ASKED, ANSWERED = "traceparent", "traceresponse"
UPSTREAM_FAULT = 500


def span_of(entry: Any) -> Span | None:
    """Of an envoy.data.accesslog.v3.HTTPAccessLogEntry; None when the request is not recorded."""
    child = parse(entry.response.response_headers.get(ANSWERED, "").encode())
    if child is None or not child.sampled:
        return None
    caller = parse(entry.request.request_headers.get(ASKED, "").encode())
    common, status = entry.common_properties, entry.response.response_code.value
    path = entry.request.original_path or entry.request.path
    attributes: dict[str, Value] = {
        CHILD: child.span_id,
        "http.response.status_code": status,
        "url.path": path.partition("?")[0],
        "gapless.cluster": common.upstream_cluster,
    }
    return Span(
        child.trace_id,
        xxhash.xxh64_hexdigest(f"{child.trace_id}{child.span_id}".encode()),
        caller.span_id if caller and caller.trace_id == child.trace_id else "",
        METHODS.get(entry.request.request_method, "OTHER"),
        "server",
        SERVICE,
        SERVICE,
        "",
        began_at=common.start_time.seconds + common.start_time.nanos * 1e-9,
        took_s=common.duration.seconds + common.duration.nanos * 1e-9,
        failed=status >= UPSTREAM_FAULT,
        attributes=attributes,
    )


METHODS = {1: "GET", 2: "HEAD", 3: "POST", 4: "PUT", 5: "DELETE", 6: "CONNECT", 7: "OPTIONS", 8: "TRACE", 9: "PATCH"}
"""envoy.config.core.v3.RequestMethod."""
