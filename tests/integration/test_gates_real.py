"""Gates with real programs, files and HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gapless.control.gates import process
from gapless.control.gates.run import Runner
from gapless.control.gates.scene import MARK, Scene, mark_of
from gapless.core.model import Address, Gate
from gapless.core.model.gates import CommandGate, ContractGate, CoverageGate, SecurityGate, SmokeGate, SuiteGate
from gapless.core.world import RealWorld
from gapless.fleet import process as processes

RUN = Runner(RealWorld())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    mark = mark_of(tmp_path, "web", 1, "x")
    return Scene(service="web", release="2", base=tmp_path, scratch=tmp_path / "s", mark=mark)


def command(*words: str, limit_s: float = 60.0) -> Gate:
    return Gate(name="own", limit_s=limit_s, command=CommandGate(argv=words))


def script(code: str, limit_s: float = 60.0) -> Gate:
    return command(sys.executable, "-c", code, limit_s=limit_s)


async def test_a_command_is_told_what_it_needs_and_its_last_lines_are_kept(scene: Scene) -> None:
    code = (
        "import os, sys; print(os.environ['GAPLESS_RELEASE'], os.getcwd()); print('bad', file=sys.stderr); sys.exit(3)"
    )
    found = await RUN(script(code), scene)
    assert not found.passed
    assert "exited with status 3" in found.reason
    assert found.output.splitlines() == [f"2 {scene.base}", "bad"]
    assert (await RUN(command("true"), scene)).passed


async def test_a_program_that_does_not_exist_refuses(scene: Scene) -> None:
    found = await RUN(command("./no-such-program"), scene)
    assert "./no-such-program cannot be started" in found.reason


async def test_a_program_that_writes_for_ever_fills_nothing(scene: Scene) -> None:
    found = await RUN(script("for n in range(50_000): print('x' * 80, n)"), scene)
    assert found.passed
    assert found.output.endswith("49999")
    assert sum(path.stat().st_size for path in scene.scratch.iterdir()) == 0


async def test_a_gate_that_hangs_is_ended_at_its_limit_with_all_that_it_has_started(scene: Scene) -> None:
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
    found = await RUN(script(code, limit_s=2.0), scene)
    assert found.reason == "it had not ended within 2 s"
    assert processes.marked(f"{MARK}={scene.mark}") == []


async def test_what_a_killed_control_plane_left_running_is_found_and_ended(scene: Scene) -> None:
    env = {**os.environ, MARK: scene.mark}
    child = await asyncio.create_subprocess_exec("sleep", "600", env=env)
    other = await asyncio.create_subprocess_exec("sleep", "600", env={**env, MARK: f"{scene.base}-other:web/1/x;"})
    try:
        while len(processes.marked(f"{MARK}={scene.base}")) < 2:  # until both have executed
            await asyncio.sleep(0.05)
        assert process.sweep(f"{scene.base}:") == 1
        assert await child.wait() < 0
        assert other.returncode is None
    finally:
        other.kill()
        await other.wait()


TEST = "def test_one():\n    pass\n\ndef test_two():\n    assert 1 == 2\n"


async def test_tests_are_run_and_their_report_is_read(scene: Scene) -> None:
    (scene.base / "test_shop.py").write_text(TEST)
    argv = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py", "--junitxml={report}")
    found = await RUN(Gate(name="unit", tests=SuiteGate(argv=argv)), scene)
    assert found.reason == "1 of 2 tests failed: test_shop::test_two", found.output
    assert "assert 1 == 2" in found.output


async def test_files_are_read_and_old_or_missing_ones_refuse(scene: Scene) -> None:
    path = scene.base / "coverage.xml"
    gate = Gate(name="cov", coverage=CoverageGate(file="coverage.xml"))
    assert f"there is no {path}" in (await RUN(gate, scene)).reason
    path.write_text('<coverage line-rate="0.91"/>')
    assert (await RUN(gate, scene)).passed
    os.utime(path, (time.time() - 2 * 86400,) * 2)
    assert "48.0 h old" in (await RUN(gate, scene)).reason
    (scene.base / "scan.json").write_text(json.dumps({"results": []}))
    assert (await RUN(Gate(name="scan", security=SecurityGate(file="scan.json")), scene)).passed


@asynccontextmanager
async def server(document: dict[str, Any], order: Any, status: int = 200) -> AsyncIterator[Address]:
    """An instance that answers its OpenAPI document, and an order everywhere else."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                spec = head.startswith(b"GET /openapi.json")
                body = json.dumps(document if spec else order).encode()
                line = f"HTTP/1.1 {200 if spec else status} Said\r\ncontent-type: application/json\r\n"
                writer.write(f"{line}content-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield Address(host="127.0.0.1", port=listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await listening.wait_closed()


def document(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": list(properties), "properties": properties}
    answer = {"200": {"content": {"application/json": {"schema": schema}}}}
    return {"openapi": "3.1.0", "paths": {"/orders/1": {"get": {"responses": answer}}}}


OLD = document(id={"type": "integer"}, total={"type": "number"})
GATE = Gate(name="contract", contract=ContractGate())


async def test_a_contract_is_kept_or_broken(scene: Scene) -> None:
    async with server(OLD, {"id": 1, "total": 2}) as stable:
        async with server(OLD, {"id": 1, "total": 2}) as new:
            found = await RUN(GATE, replace(scene, address=new, stable=stable))
            assert (found.passed, found.reason) == (True, "1 answer as promised, nothing that callers would miss")
        async with server(OLD, {"id": "1", "total": 2}) as new:
            found = await RUN(GATE, replace(scene, address=new, stable=stable))
            assert found.reason.startswith("1 answer not as promised: GET /orders/1 200 $.id: not as promised by type")
        async with server(document(id={"type": "integer"}), {"id": 1}) as new:
            found = await RUN(GATE, replace(scene, address=new, stable=stable))
            assert found.reason == "1 breaking change: GET /orders/1: 200 $.total: the field is gone"
            allowed = replace(GATE, contract=ContractGate(allow=("$.total",)))
            assert (await RUN(allowed, replace(scene, address=new, stable=stable))).passed


async def test_a_contract_without_a_document_refuses(scene: Scene) -> None:
    assert "there is no instance" in (await RUN(GATE, scene)).reason
    async with server({}, {}) as new:
        assert "there are no `paths`" in (await RUN(GATE, replace(scene, address=new))).reason
    gone = Address(host="127.0.0.1", port=1)
    assert "gives no whole answer" in (await RUN(GATE, replace(scene, address=gone))).reason


async def test_a_smoke_load_passes_and_refuses(scene: Scene) -> None:
    gate = Gate(name="smoke", smoke=SmokeGate(rate=20, for_s=1.0, p99_s=20.0))
    async with server(OLD, {"id": 1}) as new:
        found = await RUN(gate, replace(scene, address=new))
        assert found.passed, found
    async with server(OLD, {"id": 1}, status=500) as new:
        found = await RUN(gate, replace(scene, address=new))
        assert "requests were lost" in found.reason
