"""Checks against real sockets, processes and a real gRPC server: what each kind finds, and how a death is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gapless.core.world import RealWorld
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Check, Definition, Instance
from gapless.discovery.checks.ask import Asker
from gapless.discovery.checks.runner import Runner
from gapless.store.sqlite import SqliteStore

WORLD = RealWorld()
SOON_S = 20.0
"""Two busy cores."""

Respond = Callable[[bytes], bytes]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@asynccontextmanager
async def http_server(respond: Respond, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Answers each connection's request by the function; gives the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            writer.write(respond(head + await reader.readexactly(length)))
            await writer.drain()
        await closed(writer)

    async with listening(serve, tls) as port:
        yield port


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on a port of the system's; leaves when its last connection has."""
    busy: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        busy.add(task)
        task.add_done_callback(busy.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for _ in range(5):
            await asyncio.sleep(0)  # who has just connected is accepted
        await until(lambda: not busy)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def answer(status: int, body: bytes = b"", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), more, body)


async def until(condition: Callable[[], bool], limit_s: float = SOON_S) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("status", "found"), [(200, "passing"), (204, "passing"), (429, "warning"), (503, "critical")])
async def test_http(status: int, found: str) -> None:
    async with http_server(lambda _: answer(status, b"" if status == 204 else b"because")) as port:
        result = await Asker(WORLD)(Definition(http=f"http://127.0.0.1:{port}/x", interval="1s"))
    assert result.status == found
    assert f"HTTP GET http://127.0.0.1:{port}/x: {status}" in result.output


async def test_http_sends_what_it_was_told_and_follows() -> None:
    seen: list[bytes] = []

    def respond(request: bytes) -> bytes:
        seen.append(request)
        return answer(200) if b" /there " in request else answer(307, more=b"Location: /there\r\n")

    async with http_server(respond) as port:
        ask = Definition(
            http=f"http://127.0.0.1:{port}/", method="PUT", body="hello", header={"X-Mine": ["1", "2"]}, interval="1s"
        )
        assert (await Asker(WORLD)(ask)).status == "passing"
        stay = Definition(http=f"http://127.0.0.1:{port}/", disable_redirects=True, interval="1s")
        assert (await Asker(WORLD)(stay)).status == "critical"
    assert seen[1].startswith(b"PUT /there ")
    assert seen[1].endswith(b"hello")
    assert seen[1].count(b"X-Mine") == 2


async def test_http_output_is_cut_and_an_endless_body_ends() -> None:
    async with http_server(lambda _: b"HTTP/1.1 200 X\r\n\r\n" + b"x" * 5_000_000) as port:
        result = await Asker(WORLD)(Definition(http=f"http://127.0.0.1:{port}/", interval="1s"))
    assert result.status == "passing"
    assert len(result.output) == 4096


async def test_https_verifies_unless_told_otherwise() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with http_server(lambda _: answer(200), context) as port:
        url = f"https://127.0.0.1:{port}/"
        strict = await Asker(WORLD)(Definition(http=url, interval="1s"))
        loose = await Asker(WORLD)(Definition(http=url, interval="1s", tls_skip_verify=True))
        tcp = await Asker(WORLD)(
            Definition(tcp=f"127.0.0.1:{port}", tcp_use_tls=True, interval="1s", tls_skip_verify=True)
        )
    assert strict.status == "critical"
    assert "CERTIFICATE_VERIFY_FAILED" in strict.output
    assert loose.status == "passing"
    assert tcp.status == "passing"


async def test_who_is_silent_or_absent_is_critical() -> None:
    async with http_server(lambda _: b"") as port:
        connected = await Asker(WORLD)(Definition(tcp=f"127.0.0.1:{port}", interval="1s"))
        broken = await Asker(WORLD)(Definition(http=f"http://127.0.0.1:{port}/", interval="1s"))
    assert broken.status == "critical"
    assert connected.status == "passing"
    refused = await Asker(WORLD)(Definition(tcp=f"127.0.0.1:{port}", interval="1s"))
    assert refused.status == "critical"
    assert "Connect" in refused.output

    async def listen_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            continue
        await closed(writer)

    async with listening(listen_only) as port:
        url = f"http://127.0.0.1:{port}/"
        late = await Asker(WORLD)(Definition(http=url, interval="1s", timeout="50ms"))
    assert late == ("critical", "no answer within 0.05 s")


async def test_grpc() -> None:
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await servicer.set("shop", health_pb2.HealthCheckResponse.NOT_SERVING)
    await server.start()
    found = {
        name: await Asker(WORLD)(Definition(grpc=f"127.0.0.1:{port}{name}", interval="1s"))
        for name in ("", "/shop", "/absent")
    }
    await server.stop(0)
    assert found[""].status == "passing"
    assert found["/shop"].status == "critical"
    assert "not serving" in found["/shop"].output
    assert "NOT_FOUND" in found["/absent"].output


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo fine", ("passing", "fine\n")),
        ("echo hm; exit 1", ("warning", "hm\n")),
        ("exit 2", ("critical", "exit status 2")),
    ],
)
async def test_command(script: str, found: tuple[str, str]) -> None:
    ask = Asker(WORLD, commands=True)
    assert await ask(Definition(args=("sh", "-c", script), interval="1s")) == found


async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {pid_file}; wait"
    ask = Asker(WORLD, commands=True)
    result = await ask(Definition(args=("sh", "-c", script), interval="1s", timeout="1s"))
    assert result == ("critical", "no answer within 1 s")
    stat = Path("/proc", pid_file.read_text().strip(), "stat")
    await until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")


@asynccontextmanager
async def registry(path: Path) -> AsyncIterator[tuple[Catalog, Runner]]:
    store = SqliteStore(path / "store.db", WORLD)
    await store.open()
    catalog = Catalog(store, WORLD, name="here")
    runner = Runner(catalog, WORLD, Asker(WORLD))
    await catalog.start()
    await runner.start()
    try:
        yield catalog, runner
    finally:
        await runner.aclose()
        await catalog.aclose()
        await store.close()


async def test_a_killed_process_is_out_of_rotation_right_after_its_time_to_live(tmp_path: Path) -> None:
    listen = "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(99)"
    code = f"import socket, time; {listen}"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    async with registry(tmp_path) as (catalog, runner):
        check = Check(node="", id="beat", definition=Definition(ttl="1s"))
        await catalog.register(Instance(service="s", id="a", address="127.0.0.1", port=port), [check])
        await runner.heard("beat", "passing", "")
        await asyncio.sleep(1.5)
        assert len(catalog.instances("s", passing=True)) == 1
        await runner.heard("beat", "passing", "")
        heard_at = WORLD.now()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await until(lambda: not catalog.instances("s", passing=True))
        took_s = WORLD.now() - heard_at
        assert 1.0 <= took_s < 1.0 + SOON_S
