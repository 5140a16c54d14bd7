"""What a client may cost before anybody has looked at what it wants. Each limit has its own answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

HEADER_BYTES = 65_536
"""All header fields of a request together; gateways stop at about as much (Envoy: 60 KiB)."""
HEADER_COUNT = 100
LINE_BYTES = 16_384
"""The target in the request line. RFC 9112 §3 asks for 8,000 at least."""
HEADER_S = 20.0
"""From a request's first byte until its head is complete."""
BODY_S = 30.0
"""What a body may take besides one second for each BODY_RATE bytes."""
BODY_RATE = 500
"""Bytes a second: a modem's pace is fast enough, a byte now and then is not."""
SEND_S = 60.0
"""A client that has left a response standing for so long, or takes less of it than BODY_RATE, is taken for gone."""
RETRY_AFTER_S = 1


class ClientLimits(NamedTuple):
    """Zero stands for "no limit"."""

    header_bytes: int = HEADER_BYTES
    """431 above."""
    header_count: int = HEADER_COUNT
    """431 above."""
    line_bytes: int = LINE_BYTES
    """414 above."""
    body_bytes: int = 0
    """413 above; an announced length is refused before anything is read."""
    header_s: float = HEADER_S
    """408 after."""
    body_s: float = BODY_S
    """408 after, see BODY_S."""
    send_s: float = SEND_S
    """The connection is cut after, see SEND_S: nothing that could be said would arrive."""
    connections: int = 0
    """Of one worker. 503 with Retry-After on those above, except for probes."""
    per_client: int = 0
    """Connections of one address: 429 above, and closed. Only `server.embedded` counts them: behind a gateway, which is
    where workers are, there is one address."""


def body_due(limits: ClientLimits, began: float, received: int) -> float:
    """The moment by which more of a body must have come, when it began (less the time in which nobody read it) and
    brought so much. A client that keeps its pace up is never late, however long it takes."""
    return began + limits.body_s + received / BODY_RATE if limits.body_s else float("inf")


def client_limits_of(given: Mapping[str, Any]) -> ClientLimits:
    """From what came through the channel; what this version does not know is ignored."""
    return ClientLimits(**{name: value for name, value in given.items() if name in ClientLimits._fields})
