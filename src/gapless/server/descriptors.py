"""How many descriptors this process may have."""

from __future__ import annotations

import resource

from gapless.server.http.client_limits import ClientLimits

MOST = 65_536
"""Connections: half a gigabyte, at about 8 KB for one that waits."""
RESERVED = 128
"""For the store, for checks, and for what the interpreter opens."""


def raise_limit() -> int:
    """To what its owner allows, because each connection is one, and the usual soft limit (1,024) is made for programs
    that call select(2). Returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def shared_limits() -> ClientLimits:
    """What clients may have of a server that does other work too, after the limit was raised: as many connections as
    descriptors and memory allow, and no address more than three quarters of them."""
    connections = min(max(raise_limit() - RESERVED, RESERVED), MOST)
    return ClientLimits(connections=connections, per_client=connections * 3 // 4)
