"""`/debug/pprof/…` on the admin socket: all serving workers together, in pprof's format, or as text with `?debug=1`.

The names are those of Go's net/http/pprof, so that its tools find them. One at a time, 60 seconds at most, and each is
logged: whoever may open the socket may ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from gapless.core.errors import Busy, GaplessError, InvalidTransition
from gapless.server.worker.debug import ASKED, LONGEST_S

if TYPE_CHECKING:
    from gapless.observe.profile import Profile
    from gapless.server.master.child import Child
    from gapless.server.master.master import Master

_log = logging.getLogger("gapless.server")

SECONDS = 10.0
SLACK_S = 10.0
"""For a worker's answer beyond the time that it measures: counting a large memory takes some seconds."""
PPROF = "application/vnd.google.protobuf+gzip"
TEXT = "text/plain; charset=utf-8"


class Wanted(NamedTuple):
    """A query: `seconds` to measure, `debug` for text, `pid` of one worker (0: all that serve)."""

    seconds: float
    debug: bool
    pid: int


def wanted(query: str) -> Wanted:
    """Raises InvalidTransition, with what would be right."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = set(given) - {"seconds", "debug", "pid"}
    try:
        seconds, debug, pid = float(given.get("seconds", SECONDS)), int(given.get("debug", 0)), int(given.get("pid", 0))
    except ValueError:
        unknown.add(query)
    if unknown or not 0 < seconds <= LONGEST_S:
        raise InvalidTransition(
            f"{query!r} does not say what to measure",
            f"?seconds=10 (up to {LONGEST_S:g}), &debug=1 for text, &pid= for one worker.",
        )
    return Wanted(seconds, bool(debug), pid)


class Debugging:
    """The profiles of one master's workers."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._busy = False

    async def profile(self, query: str) -> tuple[bytes, str]:
        """Where processor time goes: (content, its type). Raises GaplessError, Busy, InvalidTransition."""
        ask = wanted(query)
        return await self._alone("cpu", ask, f"cpu {ask.seconds}", ask.seconds)

    async def heap(self, query: str) -> tuple[bytes, str]:
        """What is in memory, by type."""
        return await self._alone("heap", wanted(query), "heap", 0.0)

    async def goroutine(self, query: str) -> tuple[bytes, str]:
        """Tasks and threads, and what they wait for."""
        return await self._alone("tasks", wanted(query), "tasks", 0.0)

    async def leaks(self, query: str) -> tuple[bytes, str]:
        """What one worker has more of after so many seconds, when it serves nobody any more; another one has taken its
        place. Always as text: the names that keep it alive are half of it."""
        ask = wanted(query)
        with self._turn("leaks"):
            child = self._asked(ask)[0]
            _profile(await child.inspect(f"{ASKED}baseline", SLACK_S), child)
            await asyncio.sleep(ask.seconds)
            settings = self._master.settings
            limit_s = settings.start_s + settings.drain_s + 2 * SLACK_S
            told = await child.inspect(f"{ASKED}leaks", limit_s)
            return _leaks(_profile(told, child), told.get("holders", {})), TEXT

    async def _alone(self, name: str, ask: Wanted, question: str, takes_s: float) -> tuple[bytes, str]:
        with self._turn(name):
            children = self._asked(ask)
            answers = await asyncio.gather(*(c.inspect(f"{ASKED}{question}", takes_s + SLACK_S) for c in children))
            return _shown(_together(children, answers), debug=ask.debug)

    @contextmanager
    def _turn(self, what: str) -> Iterator[None]:
        """One question at a time, and a line in the log for each. Raises Busy."""
        if self._busy:
            raise Busy("another profile is being taken", "Wait a minute at most.")
        _log.info("a profile (%s) was asked for through the admin socket", what)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _asked(self, ask: Wanted) -> list[Child]:
        found = [child for child in self._master.serving if ask.pid in (0, child.pid)]
        if not found:
            raise GaplessError(f"no worker {ask.pid or ''} serves now", "`GET /status` lists them.")
        return found


def _together(children: Iterable[Child], answers: Iterable[Any]) -> Profile:
    from gapless.observe.profile import merged

    profiles, silent = [], []
    for child, answer in zip(children, answers, strict=True):
        try:
            profiles.append(_profile(answer, child))
        except GaplessError as error:
            silent.append(error)
    if not profiles and silent:
        raise silent[0]
    profile = merged(profiles)
    notes = [text for text in (profile.note, *(error.what for error in silent)) if text]
    return profile._replace(note="; ".join(notes))


def _profile(answer: Any, child: Child) -> Profile:
    """Raises GaplessError with what the worker said instead."""
    from gapless.observe.profile.values import from_plain

    if answer is None:
        remedy = "If it is stuck, look from outside: `gapless profile --kind stuck`."
        raise GaplessError(f"worker {child.pid} did not answer", remedy)
    if "frames" not in answer:
        said = answer.get("error", "its version of Gapless has no profiles")
        raise GaplessError(f"worker {child.pid} has no profile: {said}", "Reload the service, or try again.")
    return from_plain(answer)


def _shown(profile: Profile, *, debug: bool) -> tuple[bytes, str]:
    from gapless.observe.profile import pprof
    from gapless.observe.profile.top import top

    if debug:
        lines = [*top(profile, most=50), *([profile.note] if profile.note else [])]
        return ("\n".join(lines) + "\n").encode(), TEXT
    return pprof.encode(profile), PPROF


def _leaks(profile: Profile, holders: dict[str, str]) -> bytes:
    from gapless.observe.profile.top import top

    held = [f"  {name}: {way or 'nothing that a module knows'}" for name, way in holders.items()]
    return "\n".join([*top(profile), "What keeps the largest of them alive:", *held, ""]).encode()
