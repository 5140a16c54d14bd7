"""Spans of a real server at a real collector, through reloads and the end; and collectors that are dead or silent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gapless.server.admin.ask import ask
from tests.integration.serve_kit import Server, Steady, exchange, served, until

pytestmark = pytest.mark.promise

ROOT = Path(__file__).parents[2]
RECEIVER = Path(__file__).with_name("otlp_receiver.js")
SERVER_KIND = "SPAN_KIND_SERVER"
CALLED = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Receiver:
    def __init__(self, process: subprocess.Popen[bytes], told: Path) -> None:
        self._process = process
        self._told = told

    def lines(self) -> list[str]:
        return self._told.read_text().splitlines()

    @property
    def url(self) -> str:
        until(lambda: self.lines() or self._process.poll() is not None, "the receiver to listen")
        assert self._process.poll() is None, "the receiver has ended"
        return self.lines()[0]

    def spans(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()[1:] if line.endswith("}")]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    modules = ROOT / ".venv" / "npm" / "node_modules"
    assert (modules / "@elastic").exists(), "scripts/npm-packages.sh installs it"
    with (tmp_path / "spans").open("wb") as out:
        process = subprocess.Popen(["node", str(RECEIVER)], stdout=out, env={**os.environ, "NODE_PATH": str(modules)})
    try:
        yield Receiver(process, tmp_path / "spans")
    finally:
        process.kill()
        process.wait()


@contextmanager
def traced(folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, *options: str) -> Iterator[Server]:
    """A server that records everything."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "1")
    (folder / "s").mkdir()
    with served(folder / "s", "--workers", "2", *options) as server:
        yield server


async def test_every_span_arrives_through_reloads_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    with traced(tmp_path, monkeypatch, receiver.url) as server:
        async with Steady(server.port, rate=100) as load:
            for _ in range(2):
                await asyncio.to_thread(server.reload)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
    assert load.lost() == []
    until(lambda: len(receiver.spans()) >= load.summary.answered * 0.999, "the last spans", 10.0)
    ids = [span["span"] for span in receiver.spans()]
    assert len(set(ids)) == len(ids) == load.summary.answered


def test_a_caller_s_trace_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    with traced(tmp_path, monkeypatch, receiver.url) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            request = b"GET / HTTP/1.1\r\nhost: x\r\ntraceparent: " + CALLED + b"\r\nconnection: close\r\n\r\n"
            assert exchange(client, request)[0] == 200
        trace = CALLED.decode().split("-")[1]
        until(lambda: trace in {span["trace"] for span in receiver.spans()}, "the span at the collector")
        until(lambda: _kept(server, trace), "the span at the admin socket")


def _kept(server: Server, trace: str) -> bool:
    spans = ask(server.admin, "GET", "/traces?after=0", 10.0).body["spans"]
    return trace in {span["trace_id"] for span in spans}


@contextmanager
def black_hole() -> Iterator[str]:
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        yield f"http://127.0.0.1:{hole.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("collector", [nobody, black_hole], ids=["dead", "black hole"])
async def test_a_collector_that_takes_nothing_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: Any
) -> None:
    with collector() as url, traced(tmp_path, monkeypatch, url) as server:
        async with Steady(server.port, rate=100) as load:
            await asyncio.to_thread(server.reload)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
        assert load.lost() == []
        assert server.err.count("Traceback") == 0
        assert server.err.count("Failed to export") <= 8, "each worker complains once"
