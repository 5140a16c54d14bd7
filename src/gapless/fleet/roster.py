"""The instances that this control plane knows: the living, watched by descriptors that tell of their end at once, and
the ended, until they are forgotten."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager

from gapless.core.ports import Process, Running
from gapless.fleet.process import Stat, describe_status, exit_status, hold, send

UNSEEN = "ended while no control plane watched it"
ADOPTED = "ended (an earlier control plane started it, so its exit status is not known)"
STATUS_LOOK_S = 0.02
STATUS_LOOKS = 5
"""The exit status of what is no child is told once its parent, mostly init, has taken note: at once, or never."""


class Member:
    """One instance. `pidfd` is 0 once nothing needs to be held."""

    def __init__(self, name: str, stat: Stat, pidfd: int) -> None:
        self.name = name
        self.stat = stat
        self.pidfd = pidfd
        self.ended = asyncio.Event()
        self.detail = ""
        self.told_to_end = False
        self.swept = False
        """Nothing of it was left when somebody last looked: the number of its session may be another's by now."""

    def signal(self, number: int) -> None:
        if not self.ended.is_set():
            send(self.pidfd, number)

    def running(self) -> Running:
        return Running(id=self.name, pid=self.stat.pid, alive=not self.ended.is_set(), detail=self.detail)


class Ticks:
    """Tells every listener that something has happened; those that are slow hear once for many times."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Event] = set()

    def tick(self) -> None:
        for listener in self._listeners:
            listener.set()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[None]]:
        """Everything from now on, also what happens before the first look."""
        event = asyncio.Event()
        self._listeners.add(event)
        ticks = _each(event)
        try:
            yield ticks
        finally:
            self._listeners.discard(event)
            await ticks.aclose()


async def _each(event: asyncio.Event) -> AsyncGenerator[None]:
    while True:
        await event.wait()
        event.clear()
        yield


class Roster:
    """Members by name. Everything happens on the event loop's thread."""

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks
        self._members: dict[str, Member] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def find(self, name: str) -> Member | None:
        return self._members.get(name)

    def living(self, name: str) -> Member | None:
        member = self._members.get(name)
        return member if member and not member.ended.is_set() else None

    def add_child(self, name: str, stat: Stat, process: Process) -> Member:
        """Watch a process that was started just now; its exit status will be known."""
        member = self._add(name, stat)
        task = asyncio.create_task(self._wait(member, process), name=f"instance {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return member

    def adopt(self, name: str, stat: Stat) -> Member:
        """Watch a process that somebody else started."""
        member = self._add(name, stat)
        if member.pidfd:
            asyncio.get_running_loop().add_reader(member.pidfd, self._end_adopted, member, STATUS_LOOKS)
        else:
            self._end(member, ADOPTED)
        return member

    def add_ended(self, name: str, stat: Stat, detail: str) -> Member:
        """Report one that ended before anybody watched."""
        member = self._members[name] = Member(name, stat, 0)
        self._end(member, detail)
        return member

    def forget(self, name: str) -> None:
        self._members.pop(name, None)

    async def close(self) -> None:
        """Watch no longer; the instances go on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self._members.values():
            self._release(member)
        self._members.clear()

    def _add(self, name: str, stat: Stat) -> Member:
        member = self._members[name] = Member(name, stat, hold(stat) or 0)
        return member

    async def _wait(self, member: Member, process: Process) -> None:
        self._end(member, describe_status(await process.wait()))

    def _end_adopted(self, member: Member, looks: int) -> None:
        if not member.pidfd:
            return  # closed meanwhile
        loop = asyncio.get_running_loop()
        loop.remove_reader(member.pidfd)
        try:
            status = exit_status(member.pidfd)
        except BlockingIOError:
            if looks:
                loop.call_later(STATUS_LOOK_S, self._end_adopted, member, looks - 1)
                return
            status = None
        self._end(member, ADOPTED if status is None else describe_status(status))

    def _end(self, member: Member, detail: str) -> None:
        self._release(member)
        member.detail = detail
        member.ended.set()
        self._ticks.tick()

    def _release(self, member: Member) -> None:
        if member.pidfd:
            asyncio.get_running_loop().remove_reader(member.pidfd)
            os.close(member.pidfd)
            member.pidfd = 0
