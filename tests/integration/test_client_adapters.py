"""httpx and aiohttp on discovery and balancing, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest

from gapless.core.errors import GaplessError, Unavailable
from gapless.core.world import RealWorld
from gapless.discovery.directory import Directory, static
from gapless.resilience import deadline, pushback
from gapless.service.client_aiohttp import ServiceMiddleware
from gapless.service.client_httpx import ServiceTransport
from gapless.service.outbound import service_of
from gapless.service.requests import Exchange
from tests.integration.agent_kit import Agent
from tests.integration.instances_kit import HTTP, Said, running, survives
from tests.integration.test_client_sockets import Handler, answers, at, hangs, resets, says_close, serving, truncates
from tests.ports import free_port

Ask = Callable[..., Any]
"""`ask(method, url, headers=…, body=…)` → status, headers, body."""


@asynccontextmanager
async def by_httpx(**options: Any) -> AsyncIterator[Ask]:
    async with httpx.AsyncClient(transport=ServiceTransport(**options)) as client:

        async def ask(method: str, url: str, headers: dict[str, str] | None = None, body: Any = None) -> Any:
            answer = await client.request(method, url, headers=headers, content=body)
            return answer.status_code, answer.headers, answer.content

        yield ask


@asynccontextmanager
async def by_aiohttp(**options: Any) -> AsyncIterator[Ask]:
    services = ServiceMiddleware(**options)
    async with services, aiohttp.ClientSession(middlewares=[services]) as session:

        async def ask(method: str, url: str, headers: dict[str, str] | None = None, body: Any = None) -> Any:
            async with session.request(method, url, headers=headers, data=body) as answer:
                return answer.status, answer.headers, await answer.read()

        yield ask


By = Callable[..., AbstractAsyncContextManager[Ask]]
both = pytest.mark.parametrize("by", [by_httpx, by_aiohttp])


def known(ports: list[int]) -> Directory:
    return Directory(RealWorld(), table=static("stock", at(ports)))


@both
async def test_nothing_is_lost_when_instances_and_the_registry_come_and_go(by: By) -> None:
    async with running(HTTP) as instances, Agent() as agent, by(discovery=agent.address) as ask:

        async def call(key: str) -> Said:
            status, headers, body = await ask("POST", "http://stock.gapless/pay?n=1", {"Idempotency-Key": key}, b"x")
            assert (status, body) == (200, b"half whole")
            return Said(int(headers["pid"]), int(headers["port"]))

        await survives(call, instances, agent)


@both
async def test_headers_of_the_request_being_served_and_the_deadline_go_along(by: By) -> None:
    serving_ = Exchange({}, None, [], b"", 0.0)
    serving_.headers = {b"traceparent": b"00-a-b-01"}
    async with running(HTTP) as instances:
        (port,) = await instances.start(1)
        async with by(directory=known([port])) as ask:
            token = pushback.served.set(serving_)
            limit = deadline.current.set(RealWorld().now() + 3)
            try:
                _, headers, _ = await ask("GET", "http://stock/")
            finally:
                deadline.current.reset(limit)
                pushback.served.reset(token)
        assert headers["saw-traceparent"] == "00-a-b-01"
        assert 500 < int(headers["saw-x-gapless-deadline-ms"]) <= 1500


@both
async def test_a_503_is_asked_elsewhere_if_that_is_safe(by: By) -> None:
    async with running(HTTP) as instances:
        (busy,) = await instances.start(1, "busy")
        (idle,) = await instances.start(1)
        async with by(directory=known([busy, idle])) as ask:
            statuses = {(await ask("GET", "http://stock/busy"))[0] for _ in range(20)}
            assert statuses == {200}
        async with by(directory=known([busy])) as ask:
            assert (await ask("POST", "http://stock/busy"))[0] == 503


@both
@pytest.mark.parametrize("broken", [resets, hangs])
async def test_a_broken_connection_is_asked_again_elsewhere_if_that_is_safe(by: By, broken: Handler) -> None:
    async with serving(broken, answers) as ports:
        for _ in range(4):
            token = deadline.current.set(RealWorld().now() + 2)
            async with by(directory=known(ports)) as ask:
                assert (await ask("GET", "http://stock/"))[2] == b"ok"
            deadline.current.reset(token)
        deadline.current.set(RealWorld().now() + 0.3)
        async with by(directory=known(ports[:1])) as ask:
            with pytest.raises(Unavailable, match="no instance of 'stock' could answer") as failed:
                await ask("POST", "http://stock/")
    assert isinstance(failed.value, httpx.TransportError | aiohttp.ClientConnectionError)


@both
async def test_a_body_that_can_be_read_once_is_sent_once(by: By) -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"once"

    free = free_port("127.0.0.1")
    async with serving(resets) as broken, running(HTTP) as instances:
        good = await instances.start(1)
        async with by(directory=known(broken)) as ask:
            with pytest.raises(Unavailable, match="may not be sent again"):
                await ask("PUT", "http://stock/", body=body())
        async with by(directory=known([free, *good])) as ask:
            for _ in range(4):  # whoever refused has read nothing of it
                assert (await ask("PUT", "http://stock/", body=body()))[0] == 200


@both
async def test_a_body_that_breaks_is_a_broken_answer(by: By) -> None:
    async with serving(truncates) as ports, by(directory=known(ports), meter=(meter := _Meter())) as ask:
        with pytest.raises((httpx.RemoteProtocolError, aiohttp.ClientPayloadError)):
            await ask("GET", "http://stock/")
        async with asyncio.timeout(10):
            while meter.ended != ["reset"]:
                await asyncio.sleep(0.01)


class _Meter:
    """Hears how attempts ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def counter(self, *_: Any) -> _Meter:
        return self

    def labels(self, service: str, outcome: str) -> _Meter:
        self.ended.append(outcome)
        return self

    def inc(self) -> None: ...


@both
async def test_connection_close_is_honoured_and_every_attempt_ends_once(by: By) -> None:
    meter = _Meter()
    async with serving(says_close) as ports, by(directory=known(ports), meter=meter) as ask:
        for _ in range(5):
            assert (await ask("POST", "http://stock/"))[2] == b"ok"
    assert meter.ended == ["answered"] * 5


@both
async def test_hosts_that_are_no_services_pass_unchanged(by: By) -> None:
    async with serving(answers) as (port,), by(directory=known([])) as ask:
        assert (await ask("GET", f"http://127.0.0.1:{port}/"))[2] == b"ok"
        assert (await ask("GET", f"http://localhost:{port}/"))[2] == b"ok"
        deadline.current.set(RealWorld().now() + 0.1)
        with pytest.raises(GaplessError, match="discovery knows no instance") as unknown:
            await ask("GET", "http://stock/")
        assert isinstance(unknown.value, httpx.TransportError | aiohttp.ClientConnectionError)


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("inventory", "inventory"),
        ("inventory.gapless", "inventory"),
        ("a.b.gapless", "a.b"),
        ("localhost", ""),
        ("example.com", ""),
        ("10.0.0.1", ""),
        ("::1", ""),
        ("", ""),
    ],
)
def test_whom_a_host_names(host: str, service: str) -> None:
    assert service_of(host) == service
