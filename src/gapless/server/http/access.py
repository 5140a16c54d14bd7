"""One line for each request, when `--access-log` asks for it."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from gapless.observe.access import Sampled
from gapless.observe.log import Alike

_log = logging.getLogger("gapless.access")


class Answered(Protocol):
    """A request and what became of it."""

    scope: Any
    status: int
    sent: int
    """Bytes."""
    began: float
    request_id: str


FAILED_FROM = 500


class Access:
    """Writes through logging, which never blocks (`observe.log`). In JSON each detail is a key of its own. `sample` is
    the share (0…1) of the requests that is logged: see `observe.access.Sampled`."""

    def __init__(self, sample: float = 1.0) -> None:
        self._sampled = Sampled(sample)
        self._lines = Alike(_log, logging.INFO, __file__)

    def note(self, cycle: Answered, now: float) -> None:
        """A response is complete."""
        if not self._sampled.chosen(cycle.status >= FAILED_FROM, now - cycle.began):
            return
        details = details_of(cycle, now)
        self._lines.log(time.time(), f"{details['method']} {target(cycle.scope)} {cycle.status}", details)

    def unfinished(self, cycle: Answered, now: float) -> None:
        """The connection has ended before the response. The status is 0 where none was decided."""
        details = details_of(cycle, now)
        _log.info("%s %s unfinished", details["method"], target(cycle.scope), extra=details)

    def refused(self, client: Any, status: int, reason: str) -> None:
        """An answer to what never became a request of the app."""
        _log.info("refused with %d: %s", status, reason, extra={"client": peer(client), "status": status})


def details_of(cycle: Answered, now: float) -> dict[str, Any]:
    scope = cycle.scope
    details = {
        "client": peer(scope["client"]),
        "method": scope["method"],
        "path": scope["path"],
        "status": cycle.status,
        "bytes": cycle.sent,
        "duration_ms": round((now - cycle.began) * 1000, 3),
    }
    if cycle.request_id:
        details["request_id"] = cycle.request_id
    return details


def target(scope: Any) -> str:
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def peer(client: Any) -> str:
    return f"{client[0]}:{client[1]}" if client else ""
