"""`/v1/agent`: who belongs to the cluster, which is this registry alone, and what it measures."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gapless import __version__
from gapless.api.consul.answer import DONE, TEXT, Answer, Refusal, bad_request, failed, told
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.core.ports import World
from gapless.discovery.catalog.catalog import Catalog

SERF_PORT = 8301
"""Where Consul's agents gossip; nobody listens there."""
ALIVE = 1
LEVELS = ("trace", "debug", "info", "warn", "err", "error")


def member(catalog: Catalog) -> dict[str, Any]:
    """This registry as a member of its cluster."""
    node = catalog.node(catalog.name)
    return {
        "Name": catalog.name,
        "Addr": catalog.address,
        "Port": SERF_PORT,
        "Tags": {
            "role": "consul",
            "dc": catalog.datacenter,
            "id": node.node.id if node else "",
            "build": f"{__version__}:gapless",
        },
        "Status": ALIVE,
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    }


class AgentCluster:
    def __init__(self, catalog: Catalog, world: World) -> None:
        self._catalog, self._world = catalog, world

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/agent/members", {"GET": self.members})
        yield Route("/v1/agent/join/", {"PUT": self.join})
        yield Route("/v1/agent/force-leave/", {"PUT": self.force_leave})
        yield Route("/v1/agent/reload", {"PUT": self.reload})
        yield Route("/v1/agent/metrics", {"GET": self.metrics})
        yield Route("/v1/agent/monitor", {"GET": self.monitor})
        yield Route("/v1/agent/token/", {"PUT": self.token})

    async def members(self, request: Request) -> Answer:
        shown = member(self._catalog)
        if request.true("wan"):
            shown["Name"] = f"{shown['Name']}.{self._catalog.datacenter}"
        return told([shown])

    async def join(self, request: Request) -> Answer:
        raise failed(
            f"{request.rest!r} cannot be joined: registries share a store (--store etcd://…) instead of gossiping"
        )

    async def force_leave(self, request: Request) -> Answer:
        if request.rest not in (self._catalog.name, f"{self._catalog.name}.{self._catalog.datacenter}"):
            raise failed(f"agent: No node found with name '{request.rest}'")
        return DONE

    async def reload(self, _: Request) -> Answer:
        """There is no configuration of its own to read again."""
        return DONE

    async def metrics(self, request: Request) -> Answer:
        if request.text("format") == "prometheus":
            lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in self._gauges().items()]
            return Answer("".join(lines).encode(), kind=TEXT)
        now = datetime.fromtimestamp(self._world.time(), UTC)
        gauges = [
            {"Name": name.replace("_", "."), "Value": value, "Labels": {}} for name, value in self._gauges().items()
        ]
        shown = {"Timestamp": f"{now:%Y-%m-%d %H:%M:%S} +0000 UTC", "Gauges": gauges}
        return told({**shown, "Points": [], "Counters": [], "Samples": []})

    def _gauges(self) -> dict[str, int]:
        view = self._catalog.view
        return {
            "consul_state_nodes": len(view.nodes),
            "consul_state_services": len(view.services),
            "consul_state_service_instances": sum(map(len, view.services.values())),
            "gapless_registry_checks": sum(map(len, view.checks.values())),
            "gapless_registry_waiting": self._catalog.topics.waiting,
        }

    async def monitor(self, request: Request) -> Answer:
        level = request.text("loglevel") or "info"
        if level.lower() not in LEVELS:
            raise bad_request(f"Unknown log level: {level}")
        raise Refusal(501, "logs are not streamed here: read those of the registry's process")

    async def token(self, _: Request) -> Answer:
        raise Refusal(401, "ACL support disabled")
