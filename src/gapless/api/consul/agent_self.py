"""`/v1/agent`: what the registry tells of itself, and its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import gapless
from gapless.api.consul.agent_cluster import member
from gapless.api.consul.answer import DONE, Answer, failed, told
from gapless.api.consul.coordinate import Coordinate
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.core.ports import World
from gapless.discovery.catalog.catalog import Catalog

CONSUL = "1.20.6"
"""The version whose API this is: clients choose by it what they may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Who the registry says it is."""

    node: str = "gapless"
    datacenter: str = "dc1"
    address: str = "127.0.0.1"
    script_checks: bool = False
    """Whether clients may have commands run here."""
    leave: Callable[[], None] | None = None
    """Ends the registry; None: it is not alone, and goes on."""

    server_port: int = 8300
    """Where Consul's servers meet each other; nobody listens there."""

    @property
    def leader(self) -> str:
        """Our address, as other servers would know it."""
        return f"{self.address}:{self.server_port}"


class AgentSelf:
    def __init__(self, agent: Agent, catalog: Catalog, world: World) -> None:
        self._agent = agent
        self._catalog = catalog
        self._world = world

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/agent/self", {"GET": self.self})
        yield Route("/v1/agent/host", {"GET": self.host})
        yield Route("/v1/agent/version", {"GET": self.version})
        yield Route("/v1/agent/leave", {"PUT": self.leave})

    async def self(self, _: Request) -> Answer:
        agent = self._agent
        return told(
            {
                "Config": {
                    "Datacenter": agent.datacenter,
                    "PrimaryDatacenter": agent.datacenter,
                    "NodeName": agent.node,
                    "NodeID": self._node_id(),
                    "Revision": "",
                    "Server": True,
                    "Version": version(),
                    "BuildDate": "1970-01-01T00:00:01Z",
                },
                "DebugConfig": {"EnableLocalScriptChecks": agent.script_checks, "ACLsEnabled": False},
                "Coord": Coordinate(),
                "Member": member(self._catalog),
                "Meta": {},
                "Stats": {
                    "agent": {"checks": str(len(self._catalog.checks_on(agent.node)))},
                    "consul": {"leader": "true", "leader_addr": agent.leader, "server": "true"},
                },
                "xDS": {},
            }
        )

    def _node_id(self) -> str:
        row = self._catalog.node(self._agent.node)
        return row.node.id if row is not None else ""

    async def host(self, _: Request) -> Answer:
        system = os.uname()
        facts = {"hostname": system.nodename, "os": system.sysname.lower(), "kernelVersion": system.release}
        return told({"Host": facts, "CollectionTime": round(self._world.time() * 1e9)})

    async def version(self, _: Request) -> Answer:
        return told({"SHA": "", "BuildDate": "1970-01-01T00:00:01Z", "HumanVersion": version(), "FIPS": ""})

    async def leave(self, _: Request) -> Answer:
        if self._agent.leave is None:
            raise failed("this registry belongs to a control plane: end that one")
        self._agent.leave()
        return DONE


def version() -> str:
    return f"{CONSUL}+gapless.{gapless.__version__}"
