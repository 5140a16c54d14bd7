"""WSGI apps behind the adapter, without a server."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gapless.core.errors import ConfigError
from gapless.observe import log
from gapless.service.kit import Service
from gapless.service.wsgi import from_wsgi

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "path": "/a",
    "query_string": b"q=1",
    "root_path": "",
    "scheme": "http",
    "headers": [(b"content-type", b"text/plain")],
    "server": ("127.0.0.1", 80),
    "client": ("127.0.0.1", 5),
}


class Client:
    """Sends parts of a body, then goes away or stays; keeps what it is told."""

    def __init__(self, *parts: bytes, goes: bool = False) -> None:
        self.messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        if not goes:
            self.messages.append({"type": "http.request", "body": b"", "more_body": False})
        self.goes = goes
        self.leave = asyncio.Event()
        self.said: list[Any] = []

    async def receive(self) -> Any:
        if self.messages:
            return self.messages.pop(0)
        if not self.goes:
            await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.said.append(message)

    async def ask(self, app: Any) -> bytes:
        await from_wsgi(app, threads=2)(dict(SCOPE), self.receive, self.send)
        return b"".join(message.get("body", b"") for message in self.said)


def echo(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("201 Created", [("X-Thread", threading.current_thread().name)])
    yield environ["wsgi.input"].readline(3) + b"|"
    yield from environ["wsgi.input"]


async def test_a_body_is_read_line_by_line_across_its_parts() -> None:
    client = Client(b"fir", b"st\nsec", b"ond\n", b"end")
    assert await client.ask(echo) == b"fir|st\nsecond\nend"
    assert client.said[0]["status"] == 201
    assert client.said[0]["headers"][0][1].startswith(b"WSGI")


async def test_a_body_cut_short_is_no_whole_body() -> None:
    read: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            read.append(environ["wsgi.input"].read())
        except ConnectionError as error:
            read.append(error)
        start_response("400 Bad Request", [])
        return [b"x"]

    await Client(b"half of", goes=True).ask(app)
    assert isinstance(read[0], ConnectionError)


async def test_an_endless_response_ends_when_its_client_has_gone() -> None:
    closed = threading.Event()

    class Endless:
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"tick"

        def close(self) -> None:
            closed.set()

    def app(environ: Any, start_response: Any) -> Endless:
        start_response("200 OK", [])
        return Endless()

    client = Client()
    asking = asyncio.ensure_future(client.ask(app))
    while len(client.said) < 20:
        await asyncio.sleep(0)
    client.leave.set()
    await asking
    assert closed.is_set()


async def test_context_goes_along_into_the_thread() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [log.request_id.get("").encode()]

    log.request_id.set("seven")
    assert await Client().ask(app) == b"seven"


async def test_a_service_takes_a_wsgi_app_as_it_is() -> None:
    service = Service("orders", echo)
    client = Client(b"abcdef")
    await service.start()
    await service.app(dict(SCOPE), client.receive, client.send)
    assert b"".join(message.get("body", b"") for message in client.said) == b"abc|def"
    assert await service.finish(5)
    await service.close(5)


def test_a_missing_adapter_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "a2wsgi", None)
    with pytest.raises(ConfigError, match=r"pip install 'gapless\[wsgi\]'"):
        from_wsgi(echo)
