"""`core.ports.Signals` over what it was given every few seconds.

Recent points are kept as they came (`FINE_KEPT_S`), older ones one a minute (`COARSE_KEPT_S`). An open block of ten
minutes lies in memory and is written every half minute, so that SIGKILL costs no more than that. Everything happens in
one thread: neither the loop nor two questions get in each other's way. On a full disk the open block lives on in
memory, and is written when there is room again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from gapless.core.errors import SignalsUnavailable
from gapless.core.ports import Selection, Series, World
from gapless.observe.evaluate import Track, evaluate, moments
from gapless.observe.recorder.blocks import between, decode, encode, joined, thinned
from gapless.observe.recorder.file import COARSE, FINE, Block, BlockFile
from gapless.observe.recorder.head import MOST_OF_TARGET, MOST_TRACKS, Head, Scraped

FINE_EVERY_S = 5.0
FINE_KEPT_S = 2 * 3600.0
COARSE_EVERY_S = 60.0
COARSE_KEPT_S = 25 * 3600.0
"""An hour more than a day: so long is a block."""
BLOCK_S = 600.0
HOUR_S = 3600.0
CHECKPOINT_EVERY_S = 30.0
MOST_BYTES = 64 << 20
MOST_POINTS = 11_000
"""Of one question, for each series; as Prometheus."""
JUMP_S = 30.0

_log = logging.getLogger("gapless.metrics")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is kept at most."""

    bytes: int = MOST_BYTES
    tracks: int = MOST_TRACKS
    tracks_of_target: int = MOST_OF_TARGET


class Recorder:
    """`open` first, `close` at the end. `path` is the file."""

    def __init__(self, path: Path, world: World, bounds: Bounds | None = None) -> None:
        bounds = bounds or Bounds()
        self._world = world
        self._path = path
        self._file = BlockFile(path, bounds.bytes)
        self._head = Head(bounds.tracks, bounds.tracks_of_target)
        self._thread: ThreadPoolExecutor | None = None
        self._began_at = 0.0
        self._last_at = 0.0
        self._last_now = 0.0
        self._saved_at = 0.0
        self._failing = ""
        self._refused = 0

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gapless-metrics")
        await self._run(self._open)

    async def close(self) -> None:
        """Write what is open."""
        if self._thread is None:
            return
        try:
            await self._run(self._close)
        finally:
            thread, self._thread = self._thread, None
            thread.shutdown(wait=False)

    async def record(self, scraped: Iterable[Scraped]) -> None:
        """What was scraped just now."""
        await self._run(self._record, list(scraped), self._world.time(), self._world.now())

    async def series(self, selection: Selection, since_at: float, until_at: float, step_s: float) -> Sequence[Series]:
        """See `core.ports.Signals`."""
        if step_s <= 0 or (until_at - since_at) / step_s > MOST_POINTS:
            raise SignalsUnavailable(
                f"a step of {step_s:g} s over {until_at - since_at:g} s is more than {MOST_POINTS} points",
                "Ask for a longer step or a shorter time.",
            )
        return await self._run(self._answer, selection, moments(since_at, until_at, step_s))

    async def latest(self, selection: Selection, at: float | None = None) -> Sequence[Series]:
        """See `core.ports.Signals`."""
        return await self._run(self._answer, selection, [self._world.time() if at is None else at])

    async def names(self) -> list[str]:
        """The metrics of which something is recorded, as `Selection.metric` takes them."""
        return await self._run(self._names)

    async def size(self) -> tuple[int, int]:
        """Tracks in the open block, bytes on disk."""
        return await self._run(lambda: (self._head.count, 0 if self._failing else self._file.bytes()))

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        if self._thread is None:
            raise SignalsUnavailable("the record of metrics is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    # In the thread.

    def _open(self) -> None:
        try:
            self._file.open()
        except (sqlite3.OperationalError, OSError) as error:
            self._fail(error)
        except sqlite3.DatabaseError as error:
            self._try(partial(self._begin_anew, error))

    def _begin_anew(self, error: Exception) -> None:
        aside = self._file.put_aside()
        _log.warning("%s cannot be read (%s); it was put aside as %s", self._path, error, aside)
        self._file.open()

    def _close(self) -> None:
        self._save()
        self._file.close()

    def _record(self, scraped: list[Scraped], at: float, now: float) -> None:
        if not self._keeps_time(at, now):
            return
        for one in scraped:
            self._head.add(one, at, 3 * FINE_EVERY_S)
        self._warn_of_too_many()
        self._began_at = self._began_at or at
        if now - self._saved_at >= CHECKPOINT_EVERY_S or at - self._began_at >= BLOCK_S:
            self._saved_at = now
            saved = self._save()
            # What is not written after two blocks never will be: memory is bounded, too.
            if at - self._began_at >= (BLOCK_S if saved else 2 * BLOCK_S):
                self._roll(at, saved)

    def _keeps_time(self, at: float, now: float) -> bool:
        """False for a moment that is no later than the last one. A clock that was set back far ends the future."""
        jumped_s = (at - self._last_at) - (now - self._last_now) if self._last_at else 0.0
        if abs(jumped_s) > JUMP_S:
            how = "forward" if jumped_s > 0 else "back"
            _log.warning("the clock was set %s by %.0f s; recorded metrics follow it", how, abs(jumped_s))
            if jumped_s < 0:
                self._head.cut(at)
                self._try(lambda: self._file.cut(at))
                self._last_at, self._began_at = 0.0, min(self._began_at, at)
        if self._last_at and at <= self._last_at:
            return False
        self._last_at, self._last_now = at, now
        return True

    def _warn_of_too_many(self) -> None:
        refused = sum(self._head.refused.values())
        if refused > self._refused == 0:
            who, count = self._head.refused.most_common(1)[0]
            _log.warning(
                "too many series: %d of %s are not recorded; take labels with many values out of its metrics",
                count,
                who or "the control plane",
            )
        self._refused = max(self._refused, refused)

    def _save(self) -> bool:
        """Write the open block; says whether it could."""
        begin, end = self._began_at, self._last_at
        if not begin:
            return True
        blocks = [
            Block(metric, FINE, begin, end, encode(tracks))
            for metric in self._head.metrics
            if (tracks := list(self._head.tracks(metric)))
        ]
        return self._try(lambda: self._file.write(blocks))

    def _try(self, write: Callable[[], None]) -> bool:
        try:
            if self._failing:
                self._file.close()
                self._file.open()
            write()
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
            return False
        if self._failing:
            _log.warning("metrics are recorded on disk again")
        self._failing = ""
        return True

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            _log.warning(
                "metrics cannot be recorded in %s (%s); the last minutes are kept in memory. Free some space there, or "
                "see that it can be written; it goes on by itself",
                self._path,
                error,
            )
        self._failing = str(error)

    def _roll(self, at: float, saved: bool) -> None:
        self._head.roll()
        self._began_at, self._refused = at, 0
        if saved:
            self._try(lambda: self._tidy(at))

    def _tidy(self, at: float) -> None:
        """Thin out the hours that are over, forget what is too old."""
        first, _ = self._file.ends(FINE)
        _, done = self._file.ends(COARSE)
        hour = math.floor(max(first, done + 1, at - COARSE_KEPT_S) / HOUR_S) * HOUR_S
        while first and hour + HOUR_S <= at:
            if hour + HOUR_S > done:
                self._file.write(self._thinned(hour))
            hour += HOUR_S
        self._file.expire(FINE, at - FINE_KEPT_S)
        self._file.expire(COARSE, at - COARSE_KEPT_S)

    def _thinned(self, hour: float) -> Iterable[Block]:
        for metric in self._file.names():
            fine = joined(decode(data) for data in self._file.read(metric, FINE, hour, hour + HOUR_S))
            cut = (between(track, hour, hour + HOUR_S) for track in fine)
            if tracks := [thinned(track, COARSE_EVERY_S) for track in cut if track.at]:
                yield Block(metric, COARSE, hour, hour + HOUR_S - 1, encode(tracks))

    def _answer(self, selection: Selection, at: list[float]) -> list[Series]:
        """Moments of which only a point a minute is left look back on at least three of them."""
        fine_at = self._fine_since()
        since_at, until_at = at[0] - max(selection.over_s, 3 * COARSE_EVERY_S), at[-1]
        cache: dict[str, list[Track]] = {}

        def tracks(metric: str) -> list[Track]:
            if metric not in cache:
                cache[metric] = self._tracks(metric, since_at, until_at, fine_at)
            return cache[metric]

        thin_until_at = fine_at + selection.over_s if since_at < fine_at else fine_at
        old = [moment for moment in at if moment < thin_until_at]
        recent = evaluate(selection, tracks, [moment for moment in at if moment >= thin_until_at])
        if not old:
            return recent
        wider = replace(selection, over_s=max(selection.over_s, 3 * COARSE_EVERY_S))
        return _one_after_the_other(evaluate(wider, tracks, old), recent)

    def _fine_since(self) -> float:
        """Since when all points are there."""
        try:
            first, _ = self._file.ends(FINE)
            return first or self._began_at
        except sqlite3.Error:
            return self._began_at

    def _tracks(self, metric: str, since_at: float, until_at: float, fine_at: float) -> list[Track]:
        blocks: list[Sequence[Track]] = []
        try:
            if since_at < fine_at:
                coarse = self._file.read(metric, COARSE, since_at, min(until_at, fine_at))
                blocks += [[between(track, since_at, fine_at) for track in decode(data)] for data in coarse]
            blocks += [decode(d) for d in self._file.read(metric, FINE, since_at, until_at)]
        except sqlite3.Error as error:
            self._fail(error)
        return joined([*blocks, self._head.tracks(metric)])

    def _names(self) -> list[str]:
        try:
            found = {*self._head.metrics, *self._file.names()}
        except sqlite3.Error:
            found = set(self._head.metrics)
        histograms = {name.removesuffix("_bucket") for name in found if name.endswith("_bucket")}
        parts = {f"{name}{suffix}" for name in histograms for suffix in ("_bucket", "_sum", "_count")}
        return sorted(found - parts | histograms)


def _one_after_the_other(old: list[Series], recent: list[Series]) -> list[Series]:
    found = {tuple(sorted(series.labels.items())): series for series in old}
    for series in recent:
        key = tuple(sorted(series.labels.items()))
        known = found.get(key)
        found[key] = series if known is None else replace(series, points=known.points + series.points)
    return [found[key] for key in sorted(found)]
