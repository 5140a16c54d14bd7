"""Snapshots: made once, whole or not at all."""

import asyncio
import errno
import fcntl
import os
import sys
import zipfile

import pytest

from gapless.core.errors import ReleaseError
from gapless.fleet import environment, release
from gapless.fleet.release import Snapshots
from gapless.testing.world import FakeWorld


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "source"
    place.mkdir()
    (place / "app.py").write_text("app = 1\n")
    return place


@pytest.fixture
def root(tmp_path):
    return tmp_path / "state" / "releases"


def make_snapshots(root, world=None, events=None):
    return Snapshots(root, root.parent, world or FakeWorld(), (events if events is not None else []).append)


def left(root):
    return sorted(place.name for place in root.iterdir()) if root.exists() else []


async def test_a_snapshot_is_made_once_and_timed(root, source):
    events = []
    snapshots = make_snapshots(root, events=events)
    assert not snapshots.has("0" * 64)
    digest = await snapshots.make(source)
    assert snapshots.has(digest)
    assert (snapshots.code(digest) / "app.py").read_text() == "app = 1\n"
    assert [event.name for event in events] == ["snapshot copy", "snapshot seal"]
    before = os.stat(root / digest)
    assert await snapshots.make(source) == digest
    assert os.stat(root / digest).st_ino == before.st_ino
    assert left(root) == [digest]


async def test_byte_code_shows_the_final_place(root, source):
    (source / "broken.py").write_text("def (:\n")
    snapshots = make_snapshots(root)
    digest = await snapshots.make(source)
    (cached,) = (snapshots.code(digest) / "__pycache__").iterdir()
    assert cached.name.startswith("app.")
    assert str(snapshots.code(digest) / "app.py").encode() in cached.read_bytes()


async def test_several_at_once_end_in_one(root, source):
    snapshots, other = make_snapshots(root), make_snapshots(root, FakeWorld(seed=1))
    digests = await asyncio.gather(*(s.make(source) for s in (snapshots, other, snapshots, other)))
    assert len(set(digests)) == 1
    assert left(root) == [digests[0]]


async def test_prune_keeps_what_is_named(root, source):
    snapshots = make_snapshots(root)
    first = await snapshots.make(source)
    (source / "app.py").write_text("app = 2\n")
    second = await snapshots.make(source)
    assert await snapshots.prune({second, "unknown"}) == (first,)
    assert left(root) == [second]
    assert await snapshots.prune(set()) == (second,)


async def test_what_a_crash_left_is_swept_but_not_what_is_being_built(root, source):
    snapshots = make_snapshots(root)
    digest = await snapshots.make(source)
    for name in (".building-dead", ".removing-dead", ".building-live"):
        (root / name / "code").mkdir(parents=True)
    live = os.open(root / ".building-live", os.O_RDONLY)
    fcntl.flock(live, fcntl.LOCK_EX)
    snapshots.sweep()
    os.close(live)
    assert left(root) == sorted([".building-live", digest])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent", None, "does not exist"),
        ("text.whl", b"no zip", "neither a directory nor a wheel"),
        ("app.zip", "zip", "neither a directory nor a wheel"),
        ("empty", "directory", "no files"),
    ],
)
async def test_wrong_sources(root, tmp_path, name, content, says):
    place = tmp_path / name
    if content == "directory":
        (place / "sub").mkdir(parents=True)
    elif content == "zip":
        zipfile.ZipFile(place, "w").close()
    elif content:
        place.write_bytes(content)
    with pytest.raises(ReleaseError, match=says) as caught:
        await make_snapshots(root).make(place)
    assert caught.value.remedy
    assert left(root) == []


async def test_a_device_is_no_source(root, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReleaseError, match="neither"):
        await make_snapshots(root).make(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("number", "place", "says", "remedy"),
    [
        (errno.ENOSPC, None, "disk is full", "--state"),
        (errno.EACCES, "/source/x", "/source/x may not be read", ".gaplessignore"),
        (errno.ENOENT, "/source/x", "vanished", "again"),
        (errno.EIO, "/source/x", "Input/output error", ".gaplessignore"),
        (errno.EACCES, "ROOT/x", "cannot be written", "--state"),
    ],
)
async def test_a_failing_disk_leaves_nothing(root, source, monkeypatch, number, place, says, remedy):
    def fail(top):
        raise OSError(number, os.strerror(number), place and place.replace("ROOT", str(root)))

    monkeypatch.setattr(release, "seal", fail)
    with pytest.raises(ReleaseError, match=says) as caught:
        await make_snapshots(root).make(source)
    assert remedy in caught.value.remedy
    assert left(root) == []


async def test_a_cancelled_snapshot_leaves_nothing(root, source):
    (source / "requirements.txt").write_text("x\n")
    world = FakeWorld()
    started = asyncio.Event()
    world.script = lambda process: started.set()
    making = asyncio.create_task(make_snapshots(root, world).make(source))
    await started.wait()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert world.processes[0].status == -9
    assert left(root) == []


@pytest.mark.parametrize("lent", [True, False])
async def test_a_failing_installation_shows_its_last_lines(root, source, monkeypatch, lent):
    (source / "requirements.txt").write_text("x\n")
    world = FakeWorld()

    def run(process):
        with open(process.spawned.output, "a") as log:
            log.write("ERROR: No matching distribution found for x\n")
        process.exit(1 if "pip" in process.spawned.argv else 0)

    world.script = run
    monkeypatch.setattr(environment, "can_lend_pip", lambda: lent)
    with pytest.raises(ReleaseError, match="No matching distribution found for x") as caught:
        await make_snapshots(root, world).make(source)
    assert "pip install" in str(caught.value)
    venv, pip = (process.spawned.argv for process in world.processes)
    assert ("--without-pip" in venv, pip[0] == sys.executable) == (lent, lent)
    assert "exit status 1" in str(caught.value)
    assert left(root) == []


async def test_python_without_venv(root, source):
    (source / "requirements.txt").write_text("x\n")
    world = FakeWorld()
    world.script = lambda process: process.exit(1)
    with pytest.raises(ReleaseError, match="venv") as caught:
        await make_snapshots(root, world).make(source)
    assert "python3-venv" in caught.value.remedy
