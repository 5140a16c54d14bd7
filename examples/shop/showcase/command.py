"""Gapless as a user has it: its command line, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_LIMIT_S = 60.0
VERB_LIMIT_S = 180.0
END_LIMIT_S = 30.0
"""Longer than any service of the shop may drain."""
LINE_LIMIT = 1 << 20
"""Bytes of one line: a status as JSON is longer than asyncio's default."""

Say = Callable[[str], None]


class Failed(Exception):
    """The demonstration cannot go on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Gapless:
    """One system: `file` describes it, `state` is its state directory. `say` hears what the control plane prints."""

    file: Path
    state: Path
    listen: str
    say: Say
    _up: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None
    _ready: asyncio.Future[dict[str, Any]] | None = None
    _running: set[asyncio.subprocess.Process] = field(default_factory=set)

    async def up(self) -> dict[str, Any]:
        """Start the control plane and wait until it says ready; returns what it says then. Raises Failed."""
        self._ready = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # seen, whoever waits
        self._up = await self._start("up", "--json", "--listen", self.listen, errors=asyncio.subprocess.STDOUT)
        self._reader = asyncio.create_task(self._read(self._up, self._ready))
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                return await asyncio.shield(self._ready)
        except TimeoutError as error:
            raise Failed(f"`gapless up` was not ready within {READY_LIMIT_S:g} s") from error

    async def kill(self) -> int:
        """SIGKILL for the control plane; returns its pid."""
        assert self._up is not None
        assert self._reader is not None
        self._up.kill()
        await self._up.wait()
        await self._reader
        return self._up.pid

    async def run(self, *args: str, each: Say | None = None) -> Outcome:
        """A verb, to its end; `each` hears the lines of its output (not of its errors), as they come."""
        process = await self._start(*args, errors=asyncio.subprocess.PIPE)
        self._running.add(process)
        try:
            async with asyncio.timeout(VERB_LIMIT_S):
                out, err = await asyncio.gather(_lines(process.stdout, each), _lines(process.stderr, None))
                return Outcome(await process.wait(), out, err)
        except TimeoutError as error:
            raise Failed(f"`gapless {' '.join(args)}` did not end within {VERB_LIMIT_S:g} s") from error
        finally:
            await _end(process)
            self._running.discard(process)

    async def ask(self, *args: str) -> Any:
        """What a verb prints as JSON. Raises Failed in its own words."""
        outcome = await self.run(*args, "--json")
        if outcome.code:
            raise Failed(f"`gapless {' '.join(args)}` ended with {outcome.code}: {outcome.err or outcome.out}")
        return json.loads(outcome.out)

    async def down(self) -> None:
        """End everything that runs; no error when nothing does."""
        if self._up is None or self._reader is None or self._ready is None:
            return
        if self._ready.done():
            outcome = await self.run("down")
            if outcome.code:
                self.say(f"`gapless down` ended with {outcome.code}: {outcome.err or outcome.out}")
        elif self._up.returncode is None:
            self._up.send_signal(signal.SIGINT)  # still starting: what it has begun, it knows best itself
        try:
            async with asyncio.timeout(END_LIMIT_S):
                await self._up.wait()
        except TimeoutError:
            self.say(f"the control plane has not ended within {END_LIMIT_S:g} s and is killed")
        await _end(self._up)
        await self._reader
        self._up = None

    def hurry(self) -> None:
        """A second Ctrl-C: what is ending shall end at once."""
        for process in (self._up, *self._running):
            if process is not None and process.returncode is None:
                process.send_signal(signal.SIGINT)

    async def _start(self, *args: str, errors: int) -> asyncio.subprocess.Process:
        """In a session of its own: Ctrl-C is for the demonstration, which ends the rest in order."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gapless", *args, "--file", str(self.file), "--state", str(self.state)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            start_new_session=True,
            limit=LINE_LIMIT,
        )

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Future[dict[str, Any]]) -> None:
        assert process.stdout is not None
        last = ""
        async for line in process.stdout:
            told = _object(line)
            if told.get("ready") and not ready.done():
                ready.set_result(told)
            last = told.get("text", "")
            if last:
                self.say(last.partition("\n")[0])  # the log of a failed instance is for those who asked for it
        code = await process.wait()
        if not ready.done():
            ready.set_exception(Failed(f"`gapless up` ended with {code}: {last}"))


async def _lines(stream: asyncio.StreamReader | None, each: Say | None) -> str:
    assert stream is not None
    whole = []
    async for line in stream:
        whole.append(line.decode(errors="replace"))
        if each is not None and whole[-1].strip():
            each(whole[-1].rstrip())
    return "".join(whole)


def _object(line: bytes) -> dict[str, Any]:
    """A JSON line as it is; anything else as its text."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"text": line.decode(errors="replace").rstrip()}


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
