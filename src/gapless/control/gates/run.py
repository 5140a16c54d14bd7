"""One gate, run within its limit."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from gapless.control.gates import process
from gapless.control.gates.contract import check_contract
from gapless.control.gates.scene import Scene
from gapless.core.errors import GaplessError
from gapless.core.model import Gate, GateKind
from gapless.core.ports import World
from gapless.fleet.process import describe_status
from gapless.rollout.reports import coverage, junit, security, smoke
from gapless.rollout.reports.outcome import GateOutcome, passes, refuses

FILE_LIMIT = 64 << 20
"""A report larger than this many bytes is none."""
RunGate = Callable[[Gate, Scene], Awaitable[GateOutcome]]


class Runner:
    """Runs gates of every kind. It does not raise for what a gate finds, nor for a gate that cannot be run: both
    refuse."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kinds: dict[GateKind, RunGate] = {
            GateKind.COMMAND: self._command,
            GateKind.TESTS: self._tests,
            GateKind.COVERAGE: self._coverage,
            GateKind.SECURITY: self._security,
            GateKind.SMOKE: self._smoke,
            GateKind.CONTRACT: check_contract,
        }

    async def __call__(self, gate: Gate, scene: Scene) -> GateOutcome:
        """Within the gate's limit; cancelled, it leaves nothing running."""
        try:
            scene.scratch.mkdir(parents=True, exist_ok=True)
            return await self._within(gate, self._kinds[gate.kind](gate, scene))
        except GaplessError as error:
            return refuses(str(error))
        except (OSError, ValueError) as error:
            return refuses(f"it could not be run: {error}")

    async def _within(self, gate: Gate, work: Awaitable[GateOutcome]) -> GateOutcome:
        working = asyncio.ensure_future(work)
        late = asyncio.ensure_future(self._world.sleep(gate.limit_s))
        try:
            await asyncio.wait((working, late), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            return refuses(f"it had not ended within {gate.limit_s:g} s")
        finally:
            working.cancel()
            late.cancel()
            await asyncio.gather(working, late, return_exceptions=True)

    async def _command(self, gate: Gate, scene: Scene) -> GateOutcome:
        assert gate.command
        status, output = await self._run(gate.command.argv, gate, scene)
        if status:
            return refuses(f"`{gate.command.argv[0]}` {describe_status(status)}", output)
        return passes(f"`{gate.command.argv[0]}` ended well", output)

    async def _tests(self, gate: Gate, scene: Scene) -> GateOutcome:
        assert gate.tests
        report = _report(gate, scene)
        report.unlink(missing_ok=True)  # that of an earlier run proves nothing
        status, output = await self._run(gate.tests.argv, gate, scene)
        text = _read(report) if report.exists() else ""
        return junit.judge(text, status, output, gate.tests.at_least)

    async def _smoke(self, gate: Gate, scene: Scene) -> GateOutcome:
        """In a process of its own: a load in this one would wait for what else this one does."""
        assert gate.smoke
        if not scene.address:
            return refuses("there is no instance to load; name one by --url")
        rule = gate.smoke
        argv = [sys.executable, "-m", "gapless", "load", f"{scene.url}{rule.path}", "--json", "--for", f"{rule.for_s}s"]
        argv += ["--rate", str(rule.rate), "--connections", str(rule.connections), "-H", "x-gapless-mirror: 1"]
        _, output = await self._run(tuple(argv), gate, scene)
        return smoke.judge(output, rule)

    async def _coverage(self, gate: Gate, scene: Scene) -> GateOutcome:
        assert gate.coverage
        path = scene.base / gate.coverage.file
        return coverage.judge(await asyncio.to_thread(_read, path), self._age_s(path), gate.coverage)

    async def _security(self, gate: Gate, scene: Scene) -> GateOutcome:
        assert gate.security
        path = scene.base / gate.security.file
        text = await asyncio.to_thread(_read, path)
        return security.judge(text, self._age_s(path), gate.security, self._world.time())

    def _age_s(self, path: Path) -> float:
        return max(self._world.time() - path.stat().st_mtime, 0.0)

    async def _run(self, argv: tuple[str, ...], gate: Gate, scene: Scene) -> tuple[int, str]:
        report = _report(gate, scene)
        return await process.run(scene.filled(argv, report), scene, report, self._world)


def _report(gate: Gate, scene: Scene) -> Path:
    return scene.scratch / f"{gate.name}.xml"


def _read(path: Path) -> str:
    """Raises GaplessError with what to do."""
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise GaplessError(f"{path} is larger than {FILE_LIMIT >> 20} MB", "Name the report itself.")
        return path.read_text(errors="replace")
    except FileNotFoundError:
        raise GaplessError(
            f"there is no {path}", "Make the report before the deploy; `file` is beside gapless.yaml."
        ) from None
