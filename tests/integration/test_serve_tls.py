"""TLS: the choice by ALPN, certificates that change under load, clients that do not speak it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from cryptography.hazmat.primitives import serialization

from tests.integration.http2_kit import Client, connect
from tests.integration.serve_kit import PATIENCE_S, Server, exchange, request, served, until
from tests.integration.tls_kit import Authority

APP = """
import asyncio, os

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
            await send({"type": "websocket.send", "text": scope["scheme"] + " " + message["text"]})
        return
    if scope["path"].startswith("/sleep/"):
        await asyncio.sleep(float(scope["path"][7:]))
    tls = scope.get("extensions", {}).get("tls", {})
    body = repr({"scheme": scope["scheme"], "version": scope["http_version"], "pid": os.getpid(), **tls}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def shaken(server: Server, context: ssl.SSLContext) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
    return context.wrap_socket(sock, server_hostname="localhost")


def unknown(server: Server, context: ssl.SSLContext) -> None:
    """In TLS 1.3 a client learns only afterwards that its certificate was asked for."""
    with shaken(server, context) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        if not sock.recv(100):
            raise EOFError


def serial(server: Server, context: ssl.SSLContext) -> str:
    """Of the certificate that a new connection gets."""
    with shaken(server, context) as sock:
        return str((sock.getpeercert() or {})["serialNumber"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(("http2", "version"), [(True, "HTTP/2"), (False, "HTTP/1.1")])
async def test_alpn_chooses(tmp_path: Path, authority: Authority, http2: bool, version: str) -> None:
    with served(tmp_path, *authority.options, app=APP) as server:
        async with httpx.AsyncClient(verify=authority.client(), http2=http2) as client:
            answers = [await client.get(f"https://localhost:{server.port}/") for _ in range(3)]
        assert {answer.http_version for answer in answers} == {version}
        assert "'scheme': 'https'" in answers[0].text
        assert f"https://127.0.0.1:{server.port}" in server.out


def test_curl(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, app=APP) as server:
        for option, version in (("--http2", "2"), ("--http1.1", "1.1")):
            command = ["curl", "-sS", option, "--cacert", str(authority.ca_file), "-w", " %{http_version}"]
            out = subprocess.run(
                [*command, f"https://localhost:{server.port}/"], capture_output=True, text=True, check=True
            )
            assert out.stdout.endswith(f" {version}")


def test_old_versions_and_weak_ciphers_are_refused(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, "--tls-min", "1.3", app=APP) as server:
        old = authority.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            shaken(server, old)
        with shaken(server, authority.client()) as sock:
            assert sock.version() == "TLSv1.3"


def test_clients_with_certificates(tmp_path: Path, authority: Authority) -> None:
    ca = ["--tls-client-ca", str(authority.ca_file)]
    with served(tmp_path, *authority.options, *ca, app=APP) as server:
        with shaken(server, authority.client("http/1.1", name="caller")) as sock:
            _, _, body = exchange(sock, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"'client_cert_name': '" in body
        assert b"CN=caller" in body
        assert b"BEGIN CERTIFICATE" in body
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            unknown(server, authority.client())


def test_plain_http_on_the_port_of_tls(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, app=APP) as server:
        status, _, body = server.get("/")
        assert (status, body) == (400, b"This port speaks TLS: use https://\n")
        with server.connect() as noise:
            noise.settimeout(PATIENCE_S)
            noise.sendall(b"\x00" * 64)
            assert len(noise.recv(100)) < 20, "an alert or nothing"
        assert serial(server, authority.client())


def test_the_probe_and_unix_sockets_are_plain(tmp_path: Path, authority: Authority) -> None:
    path = tmp_path / "plain.sock"
    with served(tmp_path, *authority.options, "--bind", f"unix:{path}", app=APP):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        status, _, body = exchange(sock, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert status == 200
        assert b"'scheme': 'http'" in body


async def test_websockets(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, app=APP) as server:
        url = f"wss://localhost:{server.port}/"
        async with websockets.connect(url, ssl=authority.client("http/1.1")) as socket:
            await socket.send("hello")
            assert await socket.recv() == "wss hello"


def test_a_changed_certificate_is_served_without_a_reload(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, "--workers", "2", app=APP) as server:
        context = authority.client("http/1.1")
        before = serial(server, context)
        with shaken(server, context) as kept:
            assert request(kept, "/")[0] == 200
            workers = server.workers()
            authority.issue()
            until(lambda: len(found := {serial(server, context) for _ in range(4)}) == 1 and before not in found, "new")
            assert request(kept, "/")[0] == 200
            assert server.workers() == workers
        until(lambda: server.err.count("new connections get the new certificate") == 2, "both workers to tell")


@pytest.mark.parametrize("how", ["mismatch", "nonsense", "gone"])
def test_a_broken_new_pair_is_refused(tmp_path: Path, authority: Authority, how: str) -> None:
    with served(tmp_path, *authority.options, app=APP) as server:
        context = authority.client()
        before = serial(server, context)
        if how == "mismatch":
            authority.issue(key=False)
        elif how == "nonsense":
            authority.spoil()
        else:
            authority.cert.unlink()
        until(lambda: "the new certificate is refused" in server.err, "refused")
        assert serial(server, context) == before
        assert server.err.count("is refused, the old one serves on") == 1
        status, told = server.reload()
        assert status != 200, told
        assert serial(server, context) == before
        authority.issue()
        until(lambda: serial(server, context) != before, "new")
        assert server.reload()[0] == 200


@pytest.mark.parametrize("how", ["mismatch", "nonsense", "encrypted"])
def test_a_server_does_not_start_with_a_broken_pair(tmp_path: Path, authority: Authority, how: str) -> None:
    if how == "mismatch":
        authority.issue(key=False)
    elif how == "nonsense":
        authority.spoil()
    else:
        key = serialization.load_pem_private_key(authority.key.read_bytes(), None)
        secret = serialization.BestAvailableEncryption(b"secret")
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        authority.key.write_bytes(key.private_bytes(*pem, secret))
    server = Server(tmp_path, *authority.options, app=APP)
    try:
        assert server.wait() == 2
        words = {"mismatch": "is not the key of", "nonsense": "no certificate and key", "encrypted": "is encrypted"}
        server.says(words[how])
        server.says("→")
    finally:
        server.end()


async def test_certificates_and_reloads_under_load(tmp_path: Path, authority: Authority) -> None:
    """HTTP/2 with streams in flight: nothing is lost, and every connection ends politely."""
    with served(tmp_path, *authority.options, "--workers", "2", app=APP) as server:
        client, stop = Client(server.port, authority.client("h2")), asyncio.Event()
        load = asyncio.ensure_future(client.steadily("/sleep/0.1", 100, stop))
        for _ in range(3):
            await asyncio.sleep(0.5)
            authority.issue()
            assert (await asyncio.to_thread(server.reload))[0] == 200
        await asyncio.sleep(0.5)
        stop.set()
        await load
        client.close()
        assert client.lost == []
        assert {answer.status for answer in client.answered} == {200}
        assert all(one.codes == [0, 0] for one in client.connections[:-1])


async def test_http_1_is_told_before_it_is_closed(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, app=APP) as server:
        context = authority.client("http/1.1")
        named: Any = {"ssl": context, "server_hostname": "localhost"}
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, **named)

        async def ask() -> bytes:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            return head.lower()

        assert b"connection: close" not in await ask()
        assert (await asyncio.to_thread(server.reload))[0] == 200
        assert b"connection: close" in await ask()
        assert await reader.read() == b""
        writer.close()


def test_a_client_that_never_shakes_hands_holds_no_reload(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, app=APP) as server, server.connect() as silent:
        time.sleep(0.2)
        began = time.monotonic()
        assert server.reload()[0] == 200
        assert time.monotonic() - began < 8
        silent.settimeout(PATIENCE_S)
        assert silent.recv(10) == b"", "the time of its handshake is limited"


async def test_a_handshake_that_a_reload_interrupts_is_finished(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, app=APP) as server:
        sock = server.connect()
        await asyncio.sleep(0.2)
        assert (await asyncio.to_thread(server.reload))[0] == 200
        with authority.client("http/1.1").wrap_socket(sock, server_hostname="localhost") as late:
            last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            assert (await asyncio.to_thread(exchange, late, last))[0] == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-key", "key.pem"], "need --tls-cert"),
        (["--tls-cert", "nowhere.pem"], "there is no file nowhere.pem"),
        (["--tls-cert", "cert.pem", "--tls-min", "1.1"], "no version that is safe"),
    ],
)
def test_wrong_options(tmp_path: Path, authority: Authority, options: list[str], words: str) -> None:
    server = Server(tmp_path, *options, app=APP)
    try:
        assert server.wait() == 2
        server.says(words)
    finally:
        server.end()


async def test_a_request_over_http2_is_slow_to_nobody_else(tmp_path: Path, authority: Authority) -> None:
    with served(tmp_path, *authority.options, app=APP) as server:
        one = await connect(server.port, authority.client("h2"))
        slow: Any = asyncio.ensure_future(one.request("/sleep/1"))
        await asyncio.sleep(0)
        quick = await one.request("/")
        assert not slow.done()
        assert "'version': '2'" in quick.body.decode()
        assert (await slow).status == 200
        one.transport.close()
        assert json.loads(server.ask("/status")[2])["workers"]
