"""A gRPC app in a system: deployed, judged, rolled back, reloaded and killed under the calls and streams of a client.
None is lost that a healthy release could have answered."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from tests.e2e.kit import System, until

pytestmark = pytest.mark.promise

APP = """\
import asyncio, itertools
import grpc

FAULT, NAME, COUNT = {fault!r}, {name!r}, itertools.count()

async def get(request, context):
    if FAULT and next(COUNT) % 2:
        await context.abort(grpc.StatusCode.INTERNAL, "wrong totals")
    return NAME.encode()

async def count(request, context):
    for number in range(10):
        yield b"%d" % number
        await asyncio.sleep(0.05)

def add(server):
    methods = {{
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", methods),))
"""

CONFIG = """\
system: tiny
gateway: {{listen: "127.0.0.1:{port}"}}
services:
  web:
    app: rpc:add
    protocol: grpc
    source: {source}
    instances: 2
    routes: [/shop.Orders]
    drain: 5s
    rollout: {{strategy: canary, steps: [30%, 100%], hold: 500ms, samples: 10, power: 0%, patience: 60s}}
"""

EVERY_S, STREAMS = 0.02, 2
COUNTED = [b"%d" % number for number in range(10)]


class Told(NamedTuple):
    """How a call ended: `wrong` is empty when it was answered as it should be."""

    method: str
    release: str
    wrong: str


class GrpcSystem(System):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.file.write_text(CONFIG.format(port=self.port, source=self.directory / "v1"))

    def source(self, name: str, fault: str = "") -> Path:
        path = self.directory / name
        path.mkdir(exist_ok=True)
        (path / "rpc.py").write_text(APP.format(fault=fault, name=name))
        return path


class Client:
    """Fifty calls a second with a key that lets them be repeated, of many users, and some streams all the while."""

    def __init__(self, port: int) -> None:
        self._target = f"127.0.0.1:{port}"
        self.told: list[Told] = []
        self.stopping = False

    async def run(self) -> None:
        options = [("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(self._target, options) as channel, asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(self._stream(channel, number))
            for number in itertools.count():
                if self.stopping:
                    return
                group.create_task(self._call(channel, number))
                await asyncio.sleep(EVERY_S)

    async def _call(self, channel: Any, number: int) -> None:
        metadata = (("x-user-id", f"user-{number % 400}"), ("idempotency-key", f"k-{number}"))
        call = channel.unary_unary("/shop.Orders/Get")(b"", metadata=metadata, timeout=30)
        code, release = await call.code(), await _release(call)
        wrong = "" if code is grpc.StatusCode.OK else str(code)
        if not wrong and await call != (b"v1" if release.startswith("r-") else release.encode()):
            wrong = "another release's answer"
        self.told.append(Told("Get", release, wrong))

    async def _stream(self, channel: Any, number: int) -> None:
        while not self.stopping:
            call = channel.unary_stream("/shop.Orders/Count")(b"", metadata=(("x-user-id", f"s-{number}"),), timeout=30)
            try:
                wrong = "" if [part async for part in call] == COUNTED else "parts are missing"
            except grpc.aio.AioRpcError as error:
                wrong = str(error.code())
                await asyncio.sleep(EVERY_S)
            self.told.append(Told("Count", await _release(call), wrong))


async def _release(call: Any) -> str:
    """Said in the headers, which are the trailers of an answer that has nothing else."""
    said = (*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ()))
    return str(dict(said).get("x-gapless-release", ""))


@contextmanager
def calls(system: System) -> Iterator[list[Told]]:
    """Made by another thread as long as the block runs; afterwards the list holds each of them."""
    client = Client(system.port)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(lambda: asyncio.run(client.run()))
        try:
            until(lambda: working.done() or len(client.told) > 20, "calls", system.output)
            yield client.told
            enough = len(client.told) + 20
            until(lambda: working.done() or len(client.told) > enough, "calls after it", system.output)
        finally:
            client.stopping = True
            working.result(60)


def lost(told: list[Told], but_for: str = "") -> list[Told]:
    return [each for each in told if each.wrong and not (but_for and each.release == but_for)]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = GrpcSystem(directory)
    try:
        system.up()
        yield system
    finally:
        system.down()
        shutil.rmtree(directory)


def test_a_good_release_is_promoted(system: System) -> None:
    with calls(system) as told:
        done = system.deploy("good")
        both = {"Get", "Count"}
        until(lambda: {each.method for each in told if each.release == "good"} == both, "both", system.output)
    assert done.returncode == 0, done.stderr
    assert lost(told) == []
    assert system.status()["services"]["web"]["split"] == {"good": 1.0}


def test_errors_of_grpc_roll_a_release_back(system: System) -> None:
    before = system.status()["services"]["web"]["stable"]
    with calls(system) as told:
        done = system.deploy("bad", "errors")
    assert done.returncode == 15, done.stdout + done.stderr
    assert "bad was rolled back: " in done.stderr
    assert lost(told, but_for="bad") == []
    assert {each.wrong for each in told if each.release == "bad" and each.wrong} == {"StatusCode.INTERNAL"}
    assert system.status()["services"]["web"]["stable"] == before
    decision = next(c for c in system.json("changes", "--limit", "1000") if "back to" in c["what"])
    assert decision["numbers"]["canary_errors"] > 0


def test_new_code_in_the_same_instances_and_the_way_back(system: System) -> None:
    with calls(system) as told:
        assert system.deploy("further").returncode == 0  # there is one to go back to, whatever ran before
        assert len(system.json("reload", "web")["reloaded"]) == 2
        done = system.run("rollback", "web", "--why", "wrong totals")
        assert done.returncode == 0, done.stderr
    assert lost(told) == []


def test_a_killed_instance_loses_only_the_streams_that_it_had_begun(system: System) -> None:
    held = next(i for i in system.status()["services"]["web"]["instances"] if i["phase"] == "ready")

    def replaced() -> bool:
        instances = system.status()["services"]["web"]["instances"]
        return len([i for i in instances if i["phase"] == "ready" and i["id"] != held["id"]]) == 2

    with calls(system) as told:
        system.kill_instance(held["pid"])
        until(replaced, "another instance", system.output)
    assert [each for each in lost(told) if each.method == "Get"] == []
    assert len(lost(told)) <= STREAMS
    assert {each.wrong for each in lost(told)} <= {"StatusCode.UNAVAILABLE", "StatusCode.INTERNAL"}
