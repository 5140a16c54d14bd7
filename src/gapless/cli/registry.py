"""`gapless registry`: the registry alone, by Consul's HTTP API, in the foreground."""

from __future__ import annotations

import asyncio
import json as json_text
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.api.consul.agent_self import Agent
    from gapless.api.dns.lookup import Zone
    from gapless.core.model import Address

DEFAULT_HTTP = "127.0.0.1:8500"
"""Where clients of Consul look when nobody tells them."""
DEFAULT_DNS = "127.0.0.1:8600"
"""Where Consul's agent answers DNS."""


@dataclass(frozen=True, slots=True)
class Listens:
    """Where the registry is asked. `dns`: None = not by names."""

    http: tuple[str, ...]
    dns: Address | None
    zone: Zone


def registry_command(
    http: Annotated[
        list[str] | None,
        typer.Option("--http", help=f"HOST:PORT or unix:PATH to listen on; repeat it. Default: {DEFAULT_HTTP}."),
    ] = None,
    dns: Annotated[
        str, typer.Option("--dns", help=f"HOST:PORT to answer DNS at, UDP and TCP, for instance {DEFAULT_DNS}.")
    ] = "",
    domain: Annotated[str, typer.Option("--domain", help="What all names of DNS end with.")] = "consul",
    ttl: Annotated[int, typer.Option("--ttl", min=0, help="Seconds for which others may keep a name's answer.")] = 0,
    only_passing: Annotated[
        bool, typer.Option("--only-passing", help="DNS leaves out instances in warning, too.")
    ] = False,
    store: Annotated[
        str, typer.Option("--store", help="Where its state lives: memory:, sqlite:PATH, etcd://… or consul://…")
    ] = "sqlite:.gapless/registry.db",
    node: Annotated[str, typer.Option("--node", help="Name of this node in the catalog. Default: the host's.")] = "",
    address: Annotated[str, typer.Option("--address", help="Address of this node in the catalog.")] = "127.0.0.1",
    datacenter: Annotated[str, typer.Option("--datacenter", help="Name of the datacenter.")] = "dc1",
    enable_script_checks: Annotated[
        bool, typer.Option("--enable-script-checks", help="Run commands that clients register as checks.")
    ] = False,
    token: Annotated[
        str,
        typer.Option(
            "--token", envvar="GAPLESS_REGISTRY_TOKEN", help="What every request must show; needed beyond loopback."
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Run a registry that clients of Consul use unchanged, until Ctrl-C.

    Exit status: 0 ended, 2 wrong options, 3 another registry holds the store, 6 the address is taken.

    Give the token by the environment (GAPLESS_REGISTRY_TOKEN): others can read a command line.

    Example: gapless registry --http 127.0.0.1:8500 --store sqlite:registry.db
    """
    from gapless.api.consul.agent_self import Agent
    from gapless.api.dns.lookup import Zone
    from gapless.cli.loop import loop_factory
    from gapless.cli.reach import check_reach

    binds = http or [DEFAULT_HTTP]
    check_reach(binds, token, "--http")
    agent = Agent(
        node=node or os.uname().nodename,
        datacenter=datacenter,
        address=address,
        script_checks=enable_script_checks,
    )
    zone = Zone(domain=domain, datacenter=datacenter, address=address, ttl_s=ttl, only_passing=only_passing)
    listens = Listens(tuple(binds), _address(dns) if dns else None, zone)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(agent, listens, store, token, json))


def _address(text: str) -> Address:
    """HOST:PORT, or :PORT for every address; port 0 is a free one. Raises ConfigError."""
    from gapless.core.model import Address
    from gapless.server.listen.bind import host_port

    host, port = host_port(text)
    return Address(host=host or "0.0.0.0", port=port)  # noqa: S104 as `--http :8500` means it


async def _serve(agent: Agent, listens: Listens, where: str, token: str, json: bool) -> None:
    from dataclasses import replace

    from gapless.api.consul.compose import catalog_of, consul_api
    from gapless.api.dns.serve import naming
    from gapless.cli.output import line
    from gapless.cli.stop import Stop
    from gapless.core.garbage import calm
    from gapless.core.world import RealWorld
    from gapless.server.descriptors import shared_limits
    from gapless.server.embedded import serving
    from gapless.store import open_store

    stop = Stop()
    stop.install()
    world = RealWorld()
    _make_room(where)
    store = await open_store(where, world)
    agent = replace(agent, leave=stop.ask)
    catalog = catalog_of(store, world, agent)
    try:
        async with (
            consul_api(store, world, agent, token=token, catalog=catalog) as app,
            naming(catalog, listens.zone, listens.dns, world) as dns,
            serving(app, listens.http, limits=shared_limits()) as http,
        ):
            calm()
            line(_ready(agent, http, dns, where, json))
            await stop.asked.wait()
            app.release()
    finally:
        await store.close()
    line(json_text.dumps({"stopped": True}) if json else "stopped")


def _make_room(where: str) -> None:
    """The directory of a file that does not exist yet."""
    if where.startswith("sqlite:"):
        os.makedirs(os.path.dirname(os.path.abspath(where.removeprefix("sqlite:"))), mode=0o700, exist_ok=True)


def _ready(agent: Agent, http: Sequence[str], dns: Address | None, where: str, json: bool) -> str:
    from gapless.api.consul.agent_self import version

    if json:
        facts = {
            "version": version(),
            "node": agent.node,
            "datacenter": agent.datacenter,
            "store": where,
            "pid": os.getpid(),
        }
        return json_text.dumps({"ready": True, "http": http, "dns": str(dns) if dns else "", **facts})
    listens = [f"http   {address}" for address in http] + ([f"dns    {dns}"] if dns else [])
    return "\n".join((*listens, f"node   {agent.node} in {agent.datacenter}", f"store  {where}", "ready"))
