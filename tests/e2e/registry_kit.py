"""`gapless registry` as a process of its own, and small services that register there."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.ports import free_port

LIMIT_S = 60.0


class Registry:
    """`with Registry(directory) as registry:` it answers from then on; `http` and `dns` are its ports."""

    def __init__(self, directory: Path, http: int = 0, dns: int = 0) -> None:
        self.http, self.dns = http or free_port(), dns or free_port()
        self._log = directory / "registry.log"

    def __enter__(self) -> Registry:
        argv = [sys.executable, "-m", "gapless", "registry", "--store", "memory:", "--node", "here"]
        argv += ["--http", f"127.0.0.1:{self.http}", "--dns", f"127.0.0.1:{self.dns}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(lambda: "ready" in self._log.read_text() or self._process.poll() is not None, self._log.read_text)
        assert self._process.poll() is None, self._log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(LIMIT_S) == 0, self._log.read_text()

    def put(self, path: str, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}/v1/{path}", data=data, method="PUT")
        urllib.request.urlopen(request, timeout=LIMIT_S).read()

    def register(self, name: str, port: int, service: str = "web", **more: Any) -> None:
        """An instance that passes until `fail`."""
        check = {"TTL": "10m", "Status": "passing"}
        self.put("agent/service/register", {"Name": service, "ID": name, "Port": port, "Check": check, **more})

    def fail(self, name: str) -> None:
        self.put(f"agent/check/fail/service:{name}")

    def succeed(self, name: str) -> None:
        self.put(f"agent/check/pass/service:{name}")

    def deregister(self, name: str) -> None:
        self.put(f"agent/service/deregister/{name}")


class Web:
    """A service on a port of its own that answers its name, and `/metrics`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(name))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'web_up{{name="{name}"}} 1\n'.encode() if self.path == "/metrics" else name.encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    return Handler


def get_json(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT_S) as answer:
        return json.load(answer)


def until(done: Callable[[], bool], shown: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Look until it is so; fail with what is shown when it never is."""
    end_at = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end_at, shown()
        time.sleep(0.05)


class Load:
    """Asks an address without a pause until the block ends; `failures` are the answers that were none."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.failures: list[str] = []
        self.answers: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LIMIT_S)

    def _ask(self) -> None:
        while not self._ended.wait(0.005):
            try:
                with urllib.request.urlopen(self._url, timeout=LIMIT_S) as answer:
                    self.answers.append(answer.read().decode())
            except (OSError, urllib.error.URLError) as error:
                self.failures.append(str(error))

    def lately(self, count: int = 30) -> set[str]:
        """Who answered the newest requests; empty until there are so many."""
        newest = self.answers[-count:]
        return set(newest) if len(newest) == count else set()
