"""What a request over HTTP/2 costs the server, in processor time, beside hypercorn (`make peers` installs it).

    python benchmarks/http2.py [rounds]

Without TLS, one connection, twenty streams at a time. The client's frames are made beforehand. Rounds are interleaved;
processor time, not the clock, because it is what a busy machine does not change much.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hpack
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, SettingsFrame, WindowUpdateFrame

ROUNDS = 7
REQUESTS = 800
"""On one connection; after a thousand hypercorn would close it."""
BATCH = 20
PATIENCE_S = 30.0
WINDOW = 2**30
APP = """
BODIES = {"/plain": b"Hello, world!", "/64k": b"x" * 65536}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = BODIES.get(scope["path"], b"")
    if scope["path"] == "/echo":
        more = True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
SERVERS = {
    "gapless": ["-m", "gapless", "serve", "app:app", "--bind", "127.0.0.1:{port}"],
    "hypercorn": ["-m", "hypercorn", "app:app", "--bind", "127.0.0.1:{port}", "-k", "uvloop", "--log-level", "error"],
}
CASES = {"/plain": b"", "/64k": b"", "/echo": b"x" * 1_000}
"""Path and body; twenty bodies fit into half a default window, at which the client does not look."""


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    folder = Path(tempfile.mkdtemp())
    (folder / "app.py").write_text(APP)
    started = {name: start(argv, folder) for name, argv in SERVERS.items()}
    try:
        for path, body in CASES.items():
            compare(path, body, started, rounds)
    finally:
        for process, _ in started.values():
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
        shutil.rmtree(folder)
    return 0


def compare(path: str, body: bytes, started: dict[str, tuple[subprocess.Popen[bytes], int]], rounds: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in started}
    for _ in range(rounds):
        for name, (process, port) in started.items():
            taken[name].append(cost_us(process.pid, port, path, body))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    figures = "   ".join(f"{name} {median:6.0f} µs" for name, median in medians.items())
    print(f"{path:<8} {figures}   ratio {medians['gapless'] / medians['hypercorn']:.2f}")


def start(argv: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, *(word.format(port=port) for word in argv)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            time.sleep(0.5)
            return process, port
    raise TimeoutError(argv)


def cost_us(leader: int, port: int, path: str, body: bytes) -> float:
    """Processor time of all the server's processes per request."""
    before = used_s(leader)
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
        client = Client(sock)
        for first in range(0, REQUESTS, BATCH):
            client.ask(path, body, range(2 * first + 1, 2 * (first + BATCH), 2))
    return (used_s(leader) - before) / REQUESTS * 1e6


def used_s(leader: int) -> float:
    ticks = 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._encoder = hpack.Encoder()
        self._data = b""
        window = WindowUpdateFrame(0)
        window.window_increment = WINDOW
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0, {4: WINDOW}).serialize() + window.serialize()
        sock.sendall(preface + SettingsFrame(0, flags=["ACK"]).serialize())

    def ask(self, path: str, body: bytes, numbers: range) -> None:
        """Send these requests in one go, and wait for all responses."""
        self._sock.sendall(b"".join(self._request(number, path, body) for number in numbers))
        left = len(numbers)
        while left:
            received = self._sock.recv(1 << 20)
            if not received:
                raise ConnectionError("closed by the server")
            self._data += received
            while len(self._data) >= 9:
                length = int.from_bytes(self._data[:3], "big")
                if len(self._data) < 9 + length:
                    break
                left -= self._data[3] in (0, 1) and bool(self._data[4] & 1)
                self._on(self._data[: 9 + length])
                self._data = self._data[9 + length :]

    def _request(self, number: int, path: str, body: bytes) -> bytes:
        fields = [(":method", "POST" if body else "GET"), (":scheme", "http"), (":authority", "x"), (":path", path)]
        block = self._encoder.encode([*fields, ("user-agent", "benchmark"), ("accept", "*/*")])
        frames: list[Frame] = [HeadersFrame(number, block, flags=["END_HEADERS"])]
        if body:
            frames.append(DataFrame(number, body, flags=["END_STREAM"]))
        else:
            frames[0].flags.add("END_STREAM")
        return b"".join(frame.serialize() for frame in frames)

    def _on(self, frame: bytes) -> None:
        if frame[3] == 6 and not frame[4] & 1:
            self._sock.sendall(PingFrame(0, frame[9:], flags=["ACK"]).serialize())


if __name__ == "__main__":
    sys.exit(main())
