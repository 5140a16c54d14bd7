"""What has no end of its own: event streams and WebSockets of a worker that leaves come to an end that their clients
understand, and these come back to workers that stay."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import websockets

from tests.integration.serve_kit import APP, PATIENCE_S, Server, Steady, request, served, until

TALKING = (
    APP.replace("async def app(", "async def http(")
    + """
async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": str(os.getpid())})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope.get("path") == "/polite":
        await polite(receive, send)
    else:
        await http(scope, receive, send)

async def polite(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"data: hello\\n\\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "http.response.body", "body": b"event: bye\\n\\n", "more_body": True})
"""
)
SOCKETS = 20
STREAMS = 10


def streamed(sock: socket.socket) -> bytes:
    """The chunks of an event stream, to its end."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        received = sock.recv(65_536)
        assert received, f"closed after {data[-80:]!r}"
        data += received
    return data


def listening(server: Server, path: str = "/stream") -> socket.socket:
    sock = server.connect()
    sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert b"text/event-stream" in sock.recv(65_536)
    return sock


def test_an_event_stream_ends_in_order_and_its_connection_goes_over(short_dir: Path) -> None:
    with served(short_dir) as server, listening(server) as sock:
        old = server.workers()
        server.reload()
        streamed(sock)
        status, headers, body = request(sock, "/")
        assert (status, headers.get("connection")) == (200, None)
        assert [int(body.split()[1])] == server.workers() != old
        until(lambda: len(server.status()["workers"]) == 1, "the old one has gone", limit_s=10)
        assert '"level": "error"' not in server.err


def test_the_app_of_an_event_stream_is_told_and_has_the_last_word(short_dir: Path) -> None:
    with served(short_dir, app=TALKING) as server, listening(server, "/polite") as sock:
        server.reload()
        assert streamed(sock).endswith(b"event: bye\n\n\r\n0\r\n\r\n")


def test_event_streams_do_not_hold_the_end_of_the_server(short_dir: Path) -> None:
    with served(short_dir) as server:
        socks = [listening(server) for _ in range(STREAMS)]
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        for sock in socks:
            with sock:
                streamed(sock)
        assert server.wait() == 0
        assert time.monotonic() - began < 15  # of the 30 s that it may take
        assert "over the drain limit" not in server.err


async def test_event_streams_end_under_load_without_a_lost_request(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        async with Steady(server.port, "/sleep/0.01", connections=16) as load:
            socks = [await asyncio.to_thread(listening, server) for _ in range(STREAMS)]
            await asyncio.to_thread(server.reload)
            for sock in socks:
                with sock:
                    await asyncio.to_thread(streamed, sock)
        assert load.lost() == []
        assert sum(not record.reused for record in load.records) == 16


def test_a_download_is_not_taken_for_a_stream(short_dir: Path) -> None:
    """Its end would be taken for the whole of it."""
    with served(short_dir, "--drain", "4") as server, server.connect() as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(1)
        server.signal(signal.SIGTERM)
        data = b""
        try:
            while received := sock.recv(65_536):
                data += received
        except ConnectionResetError:
            data += b""
        assert not data.endswith(b"0\r\n\r\n")
        assert server.wait() == 0


class Talker:
    """A WebSocket client that connects again as soon as it is sent away."""

    def __init__(self, port: int) -> None:
        self._url = f"ws://127.0.0.1:{port}/talk"
        self.met: list[int] = []
        self.codes: list[int] = []

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            async with websockets.connect(self._url, open_timeout=PATIENCE_S) as connection:
                self.met.append(int(await connection.recv()))
                ended = asyncio.ensure_future(connection.wait_closed())
                stopped = asyncio.ensure_future(stop.wait())
                await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                if connection.close_code is not None:
                    self.codes.append(connection.close_code)
            await ended


async def test_websockets_are_sent_away_once_and_come_back_to_the_new_code(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2", app=TALKING) as server:
        talkers, stop = [Talker(server.port) for _ in range(SOCKETS)], asyncio.Event()
        async with Steady(server.port, "/sleep/0.01", connections=16) as load:
            talking = [asyncio.ensure_future(talker.run(stop)) for talker in talkers]
            while not all(talker.met for talker in talkers):
                await asyncio.sleep(0.02)
            old = set(server.workers())
            await asyncio.to_thread(server.reload)
            await asyncio.to_thread(until, lambda: all(len(talker.met) > 1 for talker in talkers), "all came back")
            new = set(server.workers())
            stop.set()
            await asyncio.gather(*talking)
        assert load.lost() == []
        assert all(talker.codes[0] == 1012 for talker in talkers)
        assert all(talker.met[0] in old and set(talker.met[1:]) <= new for talker in talkers)
        assert all(len(talker.met) == 2 for talker in talkers)


async def test_websockets_at_the_first_moment_and_later(short_dir: Path) -> None:
    """What they need is imported when the first one comes, or soon after the worker serves."""
    with served(short_dir, app=TALKING) as server:
        for pause_s in (0.0, 2.0):
            await asyncio.sleep(pause_s)
            async with websockets.connect(f"ws://127.0.0.1:{server.port}/talk", open_timeout=PATIENCE_S) as talk:
                assert [int(await talk.recv())] == await asyncio.to_thread(server.workers)
        status, _ = await asyncio.to_thread(server.reload)
        assert status == 200
        async with websockets.connect(f"ws://127.0.0.1:{server.port}/talk", open_timeout=PATIENCE_S) as talk:
            assert [int(await talk.recv())] == await asyncio.to_thread(server.workers)
        assert '"level": "error"' not in server.err


async def test_what_was_left_out_at_the_start_is_imported_before_the_disk_can_change(short_dir: Path) -> None:
    app = APP.replace("{VERSION} {os.getpid()}", "{sorted({'h2', 'uvicorn', 'websockets'} & set(sys.modules))}")
    with served(short_dir, app=app.replace("import asyncio,", "import sys, asyncio,")) as server:
        until(lambda: server.get("/")[2] == b"['h2', 'uvicorn', 'websockets']", "all is imported", limit_s=30)


def test_what_is_over_the_limit_is_told_by_name_and_age(short_dir: Path) -> None:
    with served(short_dir, "--drain", "3") as server, server.connect() as sock:
        sock.sendall(b"GET /sleep/60 HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: server.metric("gapless_requests_in_flight") == 1, "it is under way")
        server.reload()
        until(lambda: "over the drain limit: GET /sleep/60, for " in server.err, "it is told", limit_s=15)
        assert request_ended(sock)
        with server.connect() as other:
            assert request(other, "/")[0] == 200


def request_ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
