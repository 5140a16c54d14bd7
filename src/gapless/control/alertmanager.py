"""Hands alerts to Alertmanagers: all that fire, every half a minute and whenever something changes, to each of them."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from gapless.config.callbacks import limited
from gapless.control.loop import Jobs
from gapless.control.records import Records
from gapless.core.model.alert import Alert, Silence
from gapless.core.ports import World
from gapless.observe.alertmanager import RESEND_S, postable

_log = logging.getLogger("gapless.alerts")

LIMIT_S = 10.0


class Alertmanagers:
    """`step` is one look. Each of them is told by a task of its own: one that hangs delays nobody."""

    def __init__(self, urls: tuple[str, ...], system: str, records: Records, world: World) -> None:
        self.urls = urls
        self._system = system
        self._records = records
        self._world = world
        self._told: dict[str, tuple[object, float]] = {}
        """By URL: what was told last, and when."""
        self._failed: set[str] = set()
        self.jobs = Jobs(lambda: None)

    async def step(self) -> None:
        if not self.urls:
            return
        alerts = postable(self._records.all_of(Alert), self._records.all_of(Silence), self._system, self._world.time())
        state: object = [(a.number, a.state) for a in self._records.all_of(Alert)] if alerts else None
        for url in self.urls:
            told, at = self._told.get(url, (None, 0.0))
            if (alerts or told) and (told != state or self._world.now() - at >= RESEND_S):
                self.jobs.start(url, lambda url=url: self._tell(url, alerts, state))  # type: ignore[misc]

    async def _tell(self, url: str, alerts: list[dict[str, Any]], state: object) -> None:
        try:
            error = await limited(_post(f"{url}/api/v2/alerts", msgspec.json.encode(alerts)), LIMIT_S, self._world)
        except TimeoutError:
            error = f"no answer within {LIMIT_S:g} s"
        except OSError as failure:
            error = f"{type(failure).__name__}: {failure}"
        if error and url not in self._failed:
            _log.warning("Alertmanager %s was not told of %d alerts: %s", url, len(alerts), error)
        self._failed = self._failed | {url} if error else self._failed - {url}
        # After a failure again at the next turn, not at every look.
        self._told[url] = (state, self._world.now())


async def _post(url: str, body: bytes) -> str:
    """Why it was not taken; empty when it was."""
    import httpcore

    limits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), LIMIT_S)}
    try:
        async with httpcore.AsyncConnectionPool() as pool:
            headers = [("Content-Type", "application/json")]
            response = await pool.request("POST", url, headers=headers, content=body, extensions=limits)
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    if 200 <= response.status < 300:
        return ""
    return f"it answered {response.status}: {response.content[:200].decode(errors='replace')}"
