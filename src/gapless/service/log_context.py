"""What a log line tells of the request that is being served, beside its id and trace."""

from __future__ import annotations

from typing import Any

from gapless.resilience import pushback
from gapless.service.route_label import route_of

USER = b"x-user-id"


def request_context(line: dict[str, Any]) -> None:
    """Its route, as far as the framework has told by now, and its user. Nothing outside of a request."""
    served: Any = pushback.served.get()
    if served is None:
        return
    scope = getattr(served, "scope", None)
    if route := getattr(served, "method", "") if scope is None else route_of(scope):
        line["route"] = route
    if user := served.headers.get(USER):
        line["user"] = user.decode("latin-1")
