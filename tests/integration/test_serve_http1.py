"""HTTP/1.1 in a real server: limits by their options, the access log, WebSockets, and bodies both ways."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect as connect_websocket

from tests.integration.serve_kit import PATIENCE_S, Server, exchange, request, response, served, until

WS_APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = f"{message['text']} {scope['client'][0]} {scope['scheme']}"
            await send({"type": "websocket.send", "text": text})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


LARGE = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"30000000")]})
        for left in reversed(range(300)):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": left > 0})
"""


def read_all(sock: socket.socket) -> None:
    while sock.recv(65_536):
        continue


def ask(server: Server, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """What is answered to raw bytes until the server closes."""
    return exchange(server.connect(), data)


def lines(server: Server, logger: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in server.err.splitlines() if line.startswith("{")]
    return [line for line in found if line.get("logger") == logger]


def test_each_limit_is_an_option(short_dir: Path) -> None:
    options = (
        "--max-line 100 --max-headers 300 --max-header-count 5 --max-body 1KB --header-timeout 1s --body-timeout 1s"
    )
    with served(short_dir, *options.split()) as server:
        head = b"%b HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n"
        assert ask(server, head % (b"GET /" + b"a" * 100, b"a: b"))[0] == 414
        assert ask(server, head % (b"GET /", b"a: " + b"b" * 300))[0] == 431
        assert ask(server, head % (b"GET /", b"\r\n".join([b"a: b"] * 6)))[0] == 431
        assert ask(server, head % (b"POST /echo", b"content-length: 1001"))[0] == 413
        assert ask(server, b"GET / HTTP/1.1\r\nhost")[0] == 408
        assert ask(server, head % (b"POST /echo", b"content-length: 10") + b"abc")[0] == 408
        assert ask(server, b"nonsense\r\n\r\n")[0] == 400
        with server.connect() as sock:
            assert request(sock, "/")[0] == 200


def test_a_client_that_reads_nothing_is_cut(short_dir: Path) -> None:
    with served(short_dir, "--send-timeout", "1s", app=LARGE) as server, server.connect() as slow:
        with server.connect() as steady, steady.makefile("rb") as reading:  # three times as long as the limit
            steady.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            for _ in range(30):
                assert len(reading.read(50_000)) == 50_000
                time.sleep(0.1)
        slow.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: "cut a client" in server.err, "it has waited long enough")
        with pytest.raises(ConnectionResetError):
            read_all(slow)


def test_a_client_that_still_sends_gets_to_read_why_it_is_refused(short_dir: Path) -> None:
    """Closing on bytes that nobody has read would reset the connection, and with it our answer."""
    with served(short_dir, "--max-body", "1KB") as server, server.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
        for _ in range(10):
            sock.sendall(b"x" * 10_000)
            time.sleep(0.02)
        status, headers, _ = response(sock)
        assert (status, headers["connection"]) == (413, "close")
        assert sock.recv(1) == b""


def test_connections_above_the_limit_are_told_to_come_again(short_dir: Path) -> None:
    with served(short_dir, "--max-connections", "2") as server, server.connect() as one, server.connect() as two:
        assert request(one, "/")[0] == request(two, "/")[0] == 200
        status, headers, _ = server.get("/")
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert server.get("/readyz")[0] == 200
        two.close()
        until(lambda: server.get("/")[0] == 200, "there is room again")


def test_the_access_log_tells_each_request(short_dir: Path) -> None:
    with served(short_dir, "--access-log") as server:
        server.get("/seen?x=1", "x-request-id: mine-1")
        ask(server, b"nonsense\r\n\r\n")
        until(lambda: len(lines(server, "gapless.access")) >= 3, "they are logged")
        ours = next(line for line in lines(server, "gapless.access") if line.get("path") == "/seen")
        assert ours["message"] == "GET /seen?x=1 200"
        assert (ours["status"], ours["request_id"], ours["method"]) == (200, "mine-1", "GET")
        assert ours["client"].startswith("127.0.0.1:")
        assert ours["bytes"] > 50
        assert 0 <= ours["duration_ms"] < PATIENCE_S * 1000
        assert lines(server, "gapless.access")[-1]["status"] == 400


def test_the_access_log_tells_of_clients_that_did_not_wait(short_dir: Path) -> None:
    with served(short_dir, "--access-log") as server:
        with server.connect() as sock:
            sock.sendall(b"GET /sleep/30 HTTP/1.1\r\nhost: x\r\n\r\n")
            until(lambda: server.metric("gapless_requests_in_flight") >= 1, "it is under way")
        until(lambda: "GET /sleep/30 unfinished" in server.err, "it is logged")
        (line,) = [line for line in lines(server, "gapless.access") if line.get("path") == "/sleep/30"]
        assert line["status"] == 0


def test_only_trusted_peers_speak_for_others(short_dir: Path) -> None:
    with served(short_dir, "--trust", "10.0.0.0/8") as server:
        body = server.get("/client", "x-forwarded-for: 192.0.2.7", "x-forwarded-proto: https")[2]
        assert b"127.0.0.1" in body
        assert b"'http')" in body
    wrong = Server(short_dir, "--trust", "proxy.example")
    try:
        assert wrong.wait() != 0
        assert "--trust" in wrong.err
    finally:
        wrong.end()


def test_a_websocket_speaks_through_the_same_port(short_dir: Path) -> None:
    with served(short_dir, app=WS_APP) as server:
        with connect_websocket(
            f"ws://127.0.0.1:{server.port}/ws", additional_headers={"X-Forwarded-For": "192.0.2.7"}, proxy=None
        ) as websocket:
            websocket.send("hello")
            assert websocket.recv(PATIENCE_S) == "hello 192.0.2.7 ws"
        with server.connect() as sock:
            assert request(sock, "/")[0] == 200


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
def test_bodies_pass_whole_in_both_directions(short_dir: Path, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    with served(short_dir) as server, server.connect() as sock:
        for _ in range(2):
            sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
            sock.sendall(body)
            assert response(sock)[2] == body


def test_pipelined_requests_are_answered_in_order(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as sock:
        one = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n%04d"
        sock.sendall(b"".join(one % number for number in range(500)))
        data = b""
        while data.count(b"HTTP/1.1 200") < 500 or not data.endswith(b"0499"):
            data += sock.recv(65_536)
        bodies = [part.partition(b"\r\n\r\n")[2] for part in data.split(b"HTTP/1.1 200 OK")[1:]]
        assert [int(body) for body in bodies] == list(range(500))
