"""The zone on real sockets, asked by dnspython's own client."""

from __future__ import annotations

import asyncio
import socket

import dns.asyncquery
import dns.flags
import dns.message
import pytest
import uvloop

from gapless.api.dns.listen import listening
from gapless.api.dns.lookup import Limits, Zone
from gapless.core.errors import ConfigError
from gapless.core.model import Address
from gapless.core.world import RealWorld
from tests.unit.dns_rig import catalog, target, texts

LOOKUP = catalog(*(target(number % 250, address=f"10.1.{number // 250}.{number % 250}") for number in range(500)))
ANYWHERE = Address(host="127.0.0.1", port=0)
QUERY = dns.message.make_query("web.service.consul", "SRV")
PATIENCE_S = 20.0


def served(limits: Limits | None = None):  # type: ignore[no-untyped-def]
    return listening(LOOKUP, Zone(), ANYWHERE, RealWorld(), limits or Limits())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_client_that_is_cut_short_over_udp_asks_again_over_tcp(run) -> None:  # type: ignore[no-untyped-def]
    async def asked() -> None:
        async with served() as at:
            short = await dns.asyncquery.udp(QUERY, at.host, PATIENCE_S, at.port)
            whole, by_tcp = await dns.asyncquery.udp_with_fallback(QUERY, at.host, PATIENCE_S, at.port)
        assert short.flags & dns.flags.TC
        assert by_tcp
        assert len(texts(whole.answer)) == 500

    run(asked())


async def test_many_at_once_over_both() -> None:
    async with served() as at:
        asked = [dns.asyncquery.udp(QUERY, at.host, PATIENCE_S, at.port) for _ in range(40)]
        asked += [dns.asyncquery.tcp(QUERY, at.host, PATIENCE_S, at.port) for _ in range(5)]
        for response in await asyncio.gather(*asked):
            assert response.answer


async def test_several_questions_on_one_connection_and_its_end() -> None:
    async with served(Limits(idle_s=0.3)) as at:
        reader, writer = await asyncio.open_connection(at.host, at.port)
        wires = [
            dns.message.make_query(name, "A").to_wire() for name in ("consul", "web.service.consul", "n1.node.consul")
        ]
        writer.write(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires))
        for wire in wires:
            length = int.from_bytes(await reader.readexactly(2), "big")
            assert (await reader.readexactly(length))[:2] == wire[:2]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await asyncio.wait_for(reader.readexactly(1), PATIENCE_S)  # idle for too long
        writer.close()


async def test_garbage_harms_nobody() -> None:
    async with served() as at:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for size in (0, 1, 11, 12, 100, 9_000):
                sender.sendto(b"\xff" * size, (at.host, at.port))
        assert (await dns.asyncquery.udp(QUERY, at.host, PATIENCE_S, at.port)).answer


async def test_an_address_that_is_taken_is_told() -> None:
    async with served() as at:
        with pytest.raises(ConfigError, match=f"DNS cannot listen at {at} over TCP"):
            async with listening(LOOKUP, Zone(), at, RealWorld()):
                raise AssertionError
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        at = Address(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="over UDP"):
            async with listening(LOOKUP, Zone(), at, RealWorld()):
                raise AssertionError


async def test_a_zone_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no name for DNS"):
        async with listening(LOOKUP, Zone(domain="a..b"), ANYWHERE, RealWorld()):
            raise AssertionError
