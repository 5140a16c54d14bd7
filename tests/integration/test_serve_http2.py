"""HTTP/2 without TLS, as proxies speak it: real clients, real reloads."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.integration.http2_kit import Client, connect
from tests.integration.serve_kit import APP, PATIENCE_S, exchange, served, until

EVENTS = (
    APP.replace("async def app(", "async def http(")
    + """
async def app(scope, receive, send):
    if scope.get("path") not in ("/polite", "/silent", "/unbegun"):
        return await http(scope, receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    if scope["path"] == "/unbegun":
        await asyncio.sleep(3600)
    await send({"type": "http.response.body", "body": b"data: hello\\n\\n", "more_body": True})
    if scope["path"] == "/silent":
        await asyncio.sleep(3600)
    while (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "http.response.body", "body": b"event: bye\\n\\n", "more_body": True})
"""
)
BODIES = {
    "/polite": b"data: hello\n\nevent: bye\n\n",
    "/silent": b"data: hello\n\n",
    "/unbegun": b"",
}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def test_requests_side_by_side_on_one_connection(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        async with httpx.AsyncClient(http1=False, http2=True, base_url=f"http://127.0.0.1:{server.port}") as client:
            body = bytes(range(256)) * 4096
            answers = await asyncio.gather(*[client.get("/sleep/0.2") for _ in range(40)])
            # Not beside the others: httpx waits in vain for windows that another of its tasks has read of.
            echoed = await client.post("/echo", content=body, timeout=PATIENCE_S)
            assert {answer.status_code for answer in answers} == {200}
            assert {answer.http_version for answer in answers} == {"HTTP/2"}
            assert echoed.content == body
        assert server.status()["workers"][0]["connections"] <= 1


def test_curl(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(range(256)) * 2000)
    with served(tmp_path) as server:
        command = ["curl", "-sS", "--http2-prior-knowledge", "--data-binary", f"@{blob}", "-w", "%{http_version}"]
        out = subprocess.run([*command, f"http://127.0.0.1:{server.port}/echo"], capture_output=True, check=True)
        assert out.stdout == blob.read_bytes() + b"2"


@pytest.mark.parametrize("pieces", [[1] * 40, [3, 20, 500], [23, 500], [24, 500]])
def test_a_preface_in_pieces(tmp_path: Path, pieces: list[int]) -> None:
    """Whatever a segment holds, nothing is taken for HTTP/1.1."""
    with served(tmp_path) as server, server.connect() as sock:
        data = PREFACE + bytes(3) + b"\x04" + bytes(5)
        for size in pieces:
            sock.sendall(data[:size])
            data = data[size:]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(PATIENCE_S)
        assert sock.recv(9)[3] == 4


def test_http_1_in_pieces(tmp_path: Path) -> None:
    with served(tmp_path) as server, server.connect() as sock:
        for piece in (b"P", b"RI", b" * HTTP/1.1\r\n"):
            sock.sendall(piece)
        status, _, _ = exchange(sock, b"host: x\r\nconnection: close\r\n\r\n")
        assert status in (200, 400, 501)
        assert server.get("/")[0] == 200


async def test_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    with served(tmp_path, "--workers", "2") as server:
        client, stop = Client(server.port), asyncio.Event()
        load = asyncio.ensure_future(client.steadily("/sleep/0.1", 150, stop))
        for _ in range(3):
            await asyncio.sleep(0.7)
            status, _ = await asyncio.to_thread(server.reload)
            assert status == 200
        await asyncio.sleep(0.5)
        stop.set()
        await load
        client.close()
        assert client.lost == []
        assert {answer.status for answer in client.answered} == {200}
        assert len(client.answered) > 200
        ended = client.connections[:-1]
        assert len(ended) >= 1
        assert all(len(one.goaways) == 2 and one.goaways[0] == 2**31 - 1 for one in ended)
        assert all(one.codes == [0, 0] for one in ended)


async def test_a_drain_finishes_what_was_begun(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        one = await connect(server.port)
        slow = [asyncio.ensure_future(one.request("/sleep/1")) for _ in range(20)]
        await asyncio.sleep(0.3)
        server.signal(signal.SIGTERM)
        answers = await asyncio.gather(*slow)
        assert {answer.status for answer in answers} == {200}
        await asyncio.wait_for(one.closed.wait(), PATIENCE_S)
        assert one.goaways == [2**31 - 1, 39]
        assert await asyncio.to_thread(server.wait) == 0
        one.transport.close()


async def test_idle_connections_do_not_hold_a_drain(tmp_path: Path) -> None:
    """A client that never answers our PING, and one that does and stays."""
    with served(tmp_path) as server:
        one = await connect(server.port)
        assert (await one.request("/")).status == 200
        silent = server.connect()
        silent.sendall(PREFACE + bytes(3) + b"\x04" + bytes(5))
        await asyncio.sleep(0.3)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 15.0) == 0
        silent.close()
        await asyncio.wait_for(one.closed.wait(), PATIENCE_S)
        one.transport.close()


async def test_what_does_not_end_is_cut_at_the_limit(tmp_path: Path) -> None:
    with served(tmp_path, "--drain", "2s") as server:
        one = await connect(server.port)
        endless = asyncio.ensure_future(one.request("/sleep/60"))
        await asyncio.sleep(0.3)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
        with pytest.raises(Exception, match=r"closed|reset"):
            await endless
        one.transport.close()


async def test_event_streams_end_in_order(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        one = await connect(server.port)
        events = asyncio.ensure_future(one.request("/stream"))
        await asyncio.sleep(0.3)
        assert (await asyncio.to_thread(server.reload))[0] == 200
        answer = await asyncio.wait_for(events, PATIENCE_S)
        assert answer.status == 200
        assert answer.body.endswith(b"tick\n\n")
        assert one.codes == [0, 0]
        one.transport.close()


@pytest.mark.parametrize("ending", ["reload", "stop"])
async def test_no_event_stream_holds_a_drain(tmp_path: Path, ending: str) -> None:
    """Whether its app says a last word, is silent, or has not even said its first one."""
    with served(tmp_path, app=EVENTS) as server:
        one = await connect(server.port)
        events = {path: asyncio.ensure_future(one.request(path)) for path in [*BODIES, "/stream"]}
        await asyncio.to_thread(until, lambda: server.metric("gapless_requests_in_flight") == len(events), "all run")
        if ending == "reload":
            assert (await asyncio.to_thread(server.reload))[0] == 200
        else:
            server.signal(signal.SIGTERM)
        answers = {path: await asyncio.wait_for(answer, PATIENCE_S) for path, answer in events.items()}
        assert {answer.status for answer in answers.values()} == {200}
        assert {path: answers[path].body for path in BODIES} == BODIES
        assert answers["/stream"].body.endswith(b"tick\n\n")
        assert one.codes == [0, 0]
        one.transport.close()
        if ending == "stop":
            assert await asyncio.to_thread(server.wait) == 0
        assert "over the drain limit" not in server.err
        assert '"level": "error"' not in server.err
