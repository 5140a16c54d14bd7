"""The embedded record of metrics: what every record must answer, and what becomes of it when things go wrong."""

from __future__ import annotations

import itertools
import math
import shutil
import sqlite3
import tempfile
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import SignalsUnavailable
from gapless.core.ports import Selection
from gapless.observe.evaluate import Track
from gapless.observe.exposition import rendered
from gapless.observe.recorder import blocks
from gapless.observe.recorder.file import COARSE, FINE, Block, BlockFile
from gapless.observe.recorder.head import Head, Scraped
from gapless.observe.recorder.recorder import FINE_KEPT_S, HOUR_S, Bounds, Recorder
from gapless.testing import FakeWorld
from gapless.testing._signals_checks import EVERY_S, LASTED_S, RECORDED, Recorded
from gapless.testing.signals import SIGNALS_CHECKS, SignalsRig, le, run_check
from gapless.testing.world import EPOCH_AT


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="g-"))
    yield path
    shutil.rmtree(path)


def told(one: Recorded, at: float) -> list[str]:
    """A recorded series at a moment, as a target tells it."""
    value = next((value for moment, value in one.points if moment == at), None)
    own = {k: v for k, v in one.labels.items() if k not in ("service", "release", "instance")}
    if value is None:
        return []
    if one.kind != "histogram":
        return [f"{rendered(one.metric, own)} {value!r}"]
    counts, total = value
    lines = [f"{rendered(f'{one.metric}_bucket', {**own, 'le': le(bound)})} {n}" for bound, n in counts.items()]
    return [*lines, f"{one.metric}_sum {total!r}", f"{one.metric}_count {counts[math.inf]}"]


def scraped(at: float) -> list[Scraped]:
    found = []
    keys = {tuple(one.labels[k] for k in ("service", "release", "instance")) for one in RECORDED}
    for key in sorted(keys):
        labels = dict(zip(("service", "release", "instance"), key, strict=True))
        mine = [one for one in RECORDED if labels.items() <= one.labels.items()]
        if text := [line for one in mine for line in told(one, at)]:
            found.append(Scraped(labels, "\n".join(text)))
    return found


@asynccontextmanager
async def recording(path: Path, world: FakeWorld, bounds: Bounds | None = None) -> AsyncIterator[Recorder]:
    recorder = Recorder(path / "metrics.db", world, bounds)
    await recorder.open()
    try:
        yield recorder
    finally:
        await recorder.close()


async def fill(recorder: Recorder, world: FakeWorld) -> float:
    """Record all that the checks expect; returns the moment that they call now."""
    for n in range(int(LASTED_S / EVERY_S) + 1):
        await recorder.record(scraped(n * EVERY_S - LASTED_S))
        await world.advance(EVERY_S)
    return world.time() - EVERY_S


@pytest.mark.parametrize("restarted", [False, True], ids=["living", "restarted"])
async def test_passes_every_check(directory: Path, restarted: bool) -> None:
    world = FakeWorld()
    async with recording(directory, world) as recorder:
        now = await fill(recorder, world)
        if not restarted:
            for check in SIGNALS_CHECKS:
                await run_check(check, SignalsRig(signals=recorder, now=now))
    async with recording(directory, world) as recorder:
        for check in SIGNALS_CHECKS:
            await run_check(check, SignalsRig(signals=recorder, now=now))


async def count_up(recorder: Recorder, world: FakeWorld, seconds: float, every_s: float = 5.0, first: int = 0) -> int:
    """A counter that rises by one a second."""
    for n in range(int(seconds / every_s)):
        value = first + n * every_s
        await recorder.record([Scraped({"service": "web", "instance": "i"}, f"seen_total {value}\ndepth 3\n")])
        await world.advance(every_s)
    return first + int(seconds)


async def test_old_points_are_thinned_out_and_still_answer(directory: Path) -> None:
    world = FakeWorld()
    async with recording(directory, world) as recorder:
        await count_up(recorder, world, 5 * HOUR_S, every_s=20.0)
        asked = Selection(metric="seen_total", by=("service",), of="rate")
        [series] = await recorder.series(asked, world.time() - 4 * HOUR_S, world.time() - 60, 300.0)
        assert dict(series.labels) == {"service": "web"}
        assert len(series.points) == 48
        assert all(value == pytest.approx(1.0, rel=0.02) for _, value in series.points)
        depths = await recorder.series(Selection(metric="depth"), world.time() - 4 * HOUR_S, world.time() - 60, 600.0)
        assert {value for _, value in depths[0].points} == {3.0}
    file = BlockFile(directory / "metrics.db", 1 << 20)
    file.open()
    assert world.time() - file.ends(FINE)[0] < FINE_KEPT_S + HOUR_S
    assert file.ends(COARSE)[0] <= EPOCH_AT + HOUR_S
    file.close()


async def test_what_is_killed_loses_half_a_minute_at_most(directory: Path) -> None:
    world = FakeWorld()
    recorder = Recorder(directory / "metrics.db", world)
    await recorder.open()
    await count_up(recorder, world, 200.0)
    killed = directory / "killed"
    killed.mkdir()
    for file in directory.glob("metrics.db*"):
        shutil.copy(file, killed)
    await recorder.close()
    async with recording(killed, world) as after:
        found = await after.series(Selection(metric="depth", over_s=5.0), world.time() - 200, world.time() - 40, 5.0)
        assert len(found[0].points) == 33


async def test_a_clock_that_is_set_back_or_forward(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld()
    async with recording(directory, world) as recorder:
        await count_up(recorder, world, 300.0)
        world.jump(-200.0)
        await count_up(recorder, world, 100.0, first=300)
        world.jump(3600.0)
        await count_up(recorder, world, 100.0, first=400)
        [series] = await recorder.latest(Selection(metric="seen_total", of="rate"), world.time() - 5)
        assert series.points[0][1] == pytest.approx(1.0)
    assert ["set back by 200 s" in caplog.text, "set forward by 3600 s" in caplog.text] == [True, True]


async def test_too_many_series_are_refused_with_one_warning(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld()
    explosion = "".join(f'seen_total{{user="{n}"}} 1\n' for n in range(50))
    async with recording(directory, world, Bounds(tracks=30, tracks_of_target=20)) as recorder:
        for _ in range(3):
            await recorder.record([Scraped({"service": "web"}, explosion), Scraped({"service": "pay"}, "depth 1\n")])
            await world.advance(5.0)
        assert (await recorder.size())[0] == 21
        [series] = await recorder.latest(Selection(metric="depth"))
        assert series.points[0][1] == 1.0
    assert caplog.text.count("too many series: 30 of web are not recorded") == 1


async def test_a_full_disk_is_told_once_and_survived(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(BlockFile):
        full = False

        def write(self, blocks: object) -> None:
            if self.full:
                raise sqlite3.OperationalError("database or disk is full")
            super().write(blocks)

    world = FakeWorld()
    async with recording(directory, world) as recorder:
        recorder._file = full = Full(directory / "metrics.db", 1 << 20)
        full.open()
        full.full = True
        last = await count_up(recorder, world, 1900.0)
        [series] = await recorder.latest(Selection(metric="seen_total", of="rate"))
        assert series.points[0][1] == pytest.approx(1.0, rel=0.1)
        assert caplog.text.count("cannot be recorded") == 1
        full.full = False
        await count_up(recorder, world, 60.0, first=last)
        assert caplog.text.count("recorded on disk again") == 1


async def test_a_broken_file_is_put_aside(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    (directory / "metrics.db").write_bytes(b"this is no database" * 1000)
    world = FakeWorld()
    async with recording(directory, world) as recorder:
        await count_up(recorder, world, 20.0)
        assert await recorder.names() == ["depth", "seen_total"]
    assert "put aside" in caplog.text
    assert (directory / "metrics.broken").exists()


async def test_no_place_for_a_file_is_survived(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    (directory / "file").write_text("")
    world = FakeWorld()
    recorder = Recorder(directory / "file" / "metrics.db", world)
    await recorder.open()
    await count_up(recorder, world, 60.0)
    assert (await recorder.latest(Selection(metric="depth")))[0].points[0][1] == 3.0
    assert await recorder.size() == (2, 0)
    await recorder.close()
    assert caplog.text.count("cannot be recorded") == 1


async def test_questions_that_cannot_be_answered(directory: Path) -> None:
    world = FakeWorld()
    async with recording(directory, world) as recorder:
        with pytest.raises(SignalsUnavailable, match="more than 11000 points"):
            await recorder.series(Selection(metric="x"), 0, 86_400, 1)
    with pytest.raises(SignalsUnavailable, match="not open"):
        await recorder.latest(Selection(metric="x"))
    await recorder.close()


def test_the_file_never_grows_beyond_its_bound(directory: Path) -> None:
    file = BlockFile(directory / "metrics.db", 1 << 20)
    file.open()
    for n in range(200):
        file.write([Block("m", FINE, n, n + 1, bytes(20_000))])
    assert file.bytes() <= 1 << 20
    assert file.ends(FINE)[1] == 200
    assert file.ends(FINE)[0] > 100
    file.close()


def test_what_appears_has_begun_at_zero_when_it_was_asked_before() -> None:
    head = Head()
    head.add(Scraped({"service": "web"}, "depth 1\n"), 100.0, 15.0)
    head.add(Scraped({"service": "web"}, 'paid_total{way="card"} 3\ndepth 1\nqueue 2\n'), 105.0, 15.0)
    [paid] = head.tracks("paid_total")
    assert (list(paid.at), list(paid.values)) == ([100.0, 105.0], [0.0, 3.0])
    assert list(head.tracks("queue")[0].at) == [105.0]
    head.roll()
    assert head.tracks("paid_total") == []
    head.add(Scraped({"service": "web"}, 'paid_total{way="card"} 4\n'), 110.0, 15.0)
    assert list(head.tracks("paid_total")[0].values) == [4.0]


labels = st.dictionaries(st.sampled_from(["service", "le", "x"]), st.text(max_size=4), max_size=3)
numbers = st.floats(allow_nan=False)


@given(st.lists(st.tuples(labels, st.lists(numbers, max_size=20), st.integers(0, 3)), max_size=6))
def test_a_block_is_read_back(rows) -> None:
    tracks = [
        Track(own, array("d", [1.7e9 + start + 5 * n for n in range(len(values))]), array("d", values))
        for own, values, start in rows
    ]
    again = blocks.decode(blocks.encode(tracks))
    assert [(t.labels, list(t.at), list(t.values)) for t in again] == [
        (t.labels, list(t.at), list(t.values)) for t in tracks
    ]


def test_what_is_no_block_is_refused() -> None:
    for data in (b"", b"nonsense", blocks.encode([])[:-3]):
        with pytest.raises(ValueError, match="not a block"):
            blocks.decode(data)


def test_a_point_takes_few_bytes() -> None:
    at = [1.7e9 + 5 * n for n in range(120)]
    counters = [Track({"n": str(k)}, at, list(itertools.accumulate([k % 7 + 1] * 120))) for k in range(50)]
    assert len(blocks.encode(counters)) < 3 * 120 * 50
