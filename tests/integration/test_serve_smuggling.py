"""Request smuggling: a real Envoy in front of a real server, and they agree on how many requests there are.

Each batch of cases goes to Envoy, one connection per case, in one piece and in two. Then three things must hold. We
have answered no more than Envoy has sent on, and exactly as much where every case is a good one. Each request that
reached the app has an id made by Envoy, and one of its own: what hides in another request's body has none. And requests
that go over the connections which Envoy keeps to us get their own answers: with a disagreement about where a request
ends they would get somebody else's.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from gapless.core.model import Address, Endpoint, Route
from gapless.gateway.envoy.admin import ask as ask_admin
from tests.integration.envoy_kit import HOST, Rig, eventually, running, service, table
from tests.integration.serve_kit import Server, served
from tests.unit.http1_cases import GOOD, MALFORMED, SMUGGLING, Case

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = f"{scope['path']} {size}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
QUIET_S = 0.3
"""A client has been answered when nothing more has come for so long; the counts are waited for besides."""
BATCH = 12
MUTANTS = 120
MADE_BY_ENVOY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
PUT = (b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b":", b"0", b"chunked", b"Content-Length: 5\r\n", b"\x0b", b",")


class Pair:
    """Envoy before one server."""

    def __init__(self, rig: Rig, server: Server) -> None:
        self.rig = rig
        self.server = server
        self._canaries = 0

    async def say(self, segments: Sequence[bytes]) -> bytes:
        """What comes back, until the connection is closed or nothing comes any more."""
        reader, writer = await asyncio.open_connection(HOST, self.rig.port)
        data = b""
        try:
            for segment in segments:
                writer.write(segment)
                await writer.drain()
                await asyncio.sleep(0.01)
            while piece := await asyncio.wait_for(reader.read(65_536), QUIET_S):
                data += piece
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
        return data

    async def sent_on(self) -> int:
        """Requests that Envoy has sent to the server, again or for the first time."""
        text = await ask_admin(self.rig.state / "envoy" / "admin.sock", "GET", "/stats?filter=rq_(total|retry)$")
        counts = {name: int(value) for name, _, value in (line.partition(": ") for line in text.splitlines())}
        retried = sum(value for name, value in counts.items() if name.endswith("upstream_rq_retry"))
        return counts["http.gapless.rq_total"] + retried

    def answered(self) -> list[str]:
        """A line for each answer of the server: the id of the request, empty when it was refused. Its own probe is not
        among them."""
        logged = [json.loads(line) for line in self.server.err.splitlines() if '"gapless.access"' in line]
        return [line.get("request_id", "") for line in logged if line.get("path") != "/readyz"]

    async def settle(self) -> tuple[list[str], int]:
        """What we have answered and what Envoy has sent on, when every kept connection has proved to be at the begin of
        a request and neither changes any more."""
        await asyncio.gather(*(self._canary() for _ in range(BATCH)))
        before: tuple[list[str], int] = ([], -1)
        while before != (now := (self.answered(), await self.sent_on())):
            before = now
            await asyncio.sleep(0.1)
        return now

    async def _canary(self) -> None:
        self._canaries += 1
        path = b"/canary/%d" % self._canaries
        said = await self.say([b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path])
        assert said.startswith(b"HTTP/1.1 200"), said
        assert said.endswith(b"\r\n\r\n%b 0" % path), said


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    folder: Path = tmp_path_factory.mktemp("smuggling")
    options = ("--access-log", "--header-timeout", "5s", "--body-timeout", "5s")
    async with running() as rig:
        with served(folder, *options, app=APP) as server:
            endpoint = Endpoint(instance="orders-1", release="1", address=Address(host=HOST, port=server.port))
            await rig.traffic.apply(table(service([endpoint], routes=[Route(path="/")])))
            await eventually(lambda: rig.traffic.settled)
            yield Pair(rig, server)


async def check(pair: Pair, batch: Sequence[bytes], *, exact: bool = False) -> None:
    answered, sent = await pair.settle()
    await asyncio.gather(*(pair.say([data]) for data in batch))
    await asyncio.gather(*(pair.say([data[: len(data) // 2], data[len(data) // 2 :]]) for data in batch))
    answered_by_now, sent_by_now = await pair.settle()
    new = answered_by_now[len(answered) :]
    assert len(new) <= sent_by_now - sent, f"we answered more than Envoy sent on of {batch!r}"
    assert not exact or len(new) == sent_by_now - sent, f"we answered less than Envoy sent on of {batch!r}"
    ids = [one for one in new if one]
    assert all(map(MADE_BY_ENVOY, ids)), f"a request came past Envoy with one of {batch!r}"
    assert len(set(ids)) == len(ids)


def batches(data: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [data[at : at + BATCH] for at in range(0, len(data), BATCH)]


def mutant(case: Case, dice: random.Random) -> bytes:
    at, width = dice.randrange(len(case.data)), dice.randrange(4)
    return case.data[:at] + dice.choice(PUT) + case.data[at + width :]


@pytest.mark.parametrize("cases", [GOOD, SMUGGLING, MALFORMED], ids=["good", "smuggling", "malformed"])
async def test_no_case_is_read_as_more_or_fewer_requests(pair: Pair, cases: tuple[Case, ...]) -> None:
    for batch in batches([case.data for case in cases]):
        await check(pair, batch, exact=cases is GOOD)


async def test_nor_is_any_mutant(pair: Pair) -> None:
    dice = random.Random(9112)
    for batch in batches([mutant(dice.choice((*GOOD, *SMUGGLING)), dice) for _ in range(MUTANTS)]):
        await check(pair, batch)


async def test_a_request_past_envoy_would_be_seen(pair: Pair) -> None:
    (answered, sent), said = await pair.settle(), pair.server.get("/direct")
    assert said[0] == 200
    answered_by_now, sent_by_now = await pair.settle()
    assert len(answered_by_now) - len(answered) == sent_by_now - sent + 1
    assert not all(map(MADE_BY_ENVOY, answered_by_now[len(answered) :]))
