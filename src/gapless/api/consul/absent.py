"""What this registry has not, said as Consul says it where it is switched off, so that clients understand."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.api.consul.answer import Answer, Refusal, bad_request
from gapless.api.consul.request import Request
from gapless.api.consul.router import Handler, Route

ACL_DISABLED = "ACL support disabled"
NOT_HERE = (
    ("/v1/connect/", "Connect must be enabled in order to use this endpoint"),
    ("/v1/agent/connect/", "Connect must be enabled in order to use this endpoint"),
    ("/v1/discovery-chain/", "Connect must be enabled in order to use this endpoint"),
    ("/v1/query", "this registry has no prepared queries: ask /v1/health/service with ?passing and ?filter"),
    ("/v1/query/", "this registry has no prepared queries: ask /v1/health/service with ?passing and ?filter"),
    ("/v1/config", "this registry has no config entries"),
    ("/v1/config/", "this registry has no config entries"),
    ("/v1/snapshot", "this registry has no snapshots: copy its store"),
    ("/v1/operator/", "this registry has no Raft to operate"),
    ("/v1/peering/", "this registry has no cluster peering"),
    ("/v1/peerings", "this registry has no cluster peering"),
)
METHODS = ("GET", "PUT", "POST", "DELETE")


def routes() -> Iterable[Route]:
    yield Route("/v1/acl/", dict.fromkeys(METHODS, _acl))
    for path, text in NOT_HERE:
        yield Route(path, dict.fromkeys(METHODS, _refusing(text)))


async def _acl(_: Request) -> Answer:
    raise Refusal(401, ACL_DISABLED)


def _refusing(text: str) -> Handler:
    async def refuse(_: Request) -> Answer:
        raise bad_request(text)

    return refuse
