"""`PUT /v1/agent/gapless/sights`: clients tell what they saw of instances. Not Consul's: its agents answer 404."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.api.consul.answer import DONE, Answer, bad_request
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.discovery.health import Health
from gapless.discovery.sights import MOST, PATH, Report

LOOPBACK = ("", "127.0.0.1", "::1")


class AgentSights:
    def __init__(self, health: Health) -> None:
        self._health = health

    def routes(self) -> Iterable[Route]:
        yield Route(PATH, {"PUT": self.sights})

    async def sights(self, request: Request) -> Answer:
        report = request.json(Report)
        if len(report.sights) > MOST:
            raise bad_request(f"{len(report.sights)} sights in one report: tell of {MOST} at most")
        # From elsewhere an address is one observer, whatever it calls itself: nobody makes a quorum alone.
        observer = report.observer if request.client in LOOPBACK else request.client
        self._health.saw(Report(observer=observer, sights=report.sights))
        return DONE
