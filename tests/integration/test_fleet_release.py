"""Snapshots with real environments, real crashes and a real full disk."""

import asyncio
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gapless.core.errors import ReleaseError
from gapless.core.model import Service
from gapless.core.world import RealWorld
from gapless.fleet.release import Snapshots
from tests.integration.fleet_kit import (
    ROOT,
    SERVICE,
    ask,
    build_wheel,
    fleet_in,
    instance_of,
    make_fleet,
    start,
    write_program,
)


@pytest.fixture
def state(short_dir):
    return short_dir / "state"


@pytest.fixture
def index(short_dir, monkeypatch):
    """A directory of wheels that pip uses instead of an index."""
    place = short_dir / "wheels"
    place.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    return place


def left(state):
    return sorted(place.name for place in (state / "releases").iterdir())


async def run_in(fleet, release, *words):
    """What a `command` of this release writes."""
    service = replace(SERVICE, command=words)
    port = (await fleet.allocate()).port
    instance = instance_of(f"run-{port}", port)
    async with fleet.changed() as ticks:
        await fleet.start(instance, replace(release, app="", command=words), service)
        await anext(ticks)
    text = fleet.tail(instance.id, 50)
    await fleet.forget(instance.id)
    return text


async def test_a_wheel_with_its_dependencies_runs_in_its_own_environment(state, index, short_dir):
    build_wheel(index, "tinydep", "1.0", {"tinydep.py": "word = 'dependency'\n"})
    build_wheel(index, "msgspec", "99.0", {"msgspec.py": "own = True\n"})
    code = "import tinydep\ndef main():\n    print(tinydep.word)\n"
    needs = "Requires-Dist: tinydep\nRequires-Dist: msgspec>=99\n"
    wheel = build_wheel(short_dir, "tinypkg", "1.0", {"tinypkg.py": code}, needs, "tiny = tinypkg:main")
    service = Service(name="tiny", app="tinypkg:app")
    async with fleet_in(state) as fleet:
        release = await fleet.snapshot(service, wheel, "1", {})
        again = await fleet.snapshot(service, wheel, "2", {})
        assert release.digest == again.digest
        assert left(state) == [release.digest]
        assert await run_in(fleet, release, "tiny") == "dependency"
        seen = await run_in(
            fleet, release, "python", "-c",
            "import tinypkg, msgspec, gapless, httptools, sys; print(tinypkg.__file__); print(tinypkg.__cached__);"
            "print(msgspec.own); print(gapless.__name__); print(sys.prefix)",
        )  # fmt: skip
        home = f"{state}/releases/{release.digest}"
        place, cached, own, name, prefix = seen.splitlines()
        assert place.startswith(f"{home}/env/lib/")
        assert Path(cached).exists()
        assert f"{home}/env/lib".encode() in Path(cached).read_bytes()
        assert (own, name, prefix) == ("True", "gapless", f"{home}/env")
        assert not [path for path in Path(home).rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o222]
        assert b".building" not in b"".join(p.read_bytes() for p in Path(home, "env", "bin").iterdir() if p.is_file())


async def test_requirements_beside_the_code(state, index, short_dir):
    build_wheel(index, "tinydep", "1.0", {"tinydep.py": "word = 'dependency'\n"})
    source = write_program(short_dir / "source")
    (source / "requirements.txt").write_text("tinydep==1.0\n")
    async with fleet_in(state) as fleet:
        release = await fleet.snapshot(SERVICE, source, "1", {})
        assert await run_in(fleet, release, "python", "-c", "import tinydep; print(tinydep.word)") == "dependency"
        (source / "requirements.txt").write_text("tinydep==2.0\n")
        with pytest.raises(ReleaseError, match=r"`pip install` failed \(exit status 1\)") as caught:
            await fleet.snapshot(SERVICE, source, "2", {})
        assert "No matching distribution found for tinydep==2.0" in caught.value.what
        assert "requirements" in caught.value.remedy
        assert left(state) == [release.digest]


async def test_a_release_does_not_follow_its_source(state, short_dir):
    source = write_program(short_dir / "source")
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source)
        (source / "tiny.py").write_text("raise SystemExit(1)\n")
        assert (await ask(instance)).isdecimal()
        second = await fleet.snapshot(SERVICE, source, "2", {})
        assert len(left(state)) == 2
        assert await fleet.prune({second.digest})


CRASH = """\
import asyncio, os, signal, sys
from pathlib import Path
from gapless.core.world import RealWorld
from gapless.fleet import release
from gapless.fleet.release import Snapshots

point = sys.argv[3]
real = getattr(release, point)

def die(*args):
    if point in ("seal",):
        real(*args)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(release, point, die)
root = Path(sys.argv[1])
asyncio.run(Snapshots(root, root, RealWorld(), lambda event: None).make(Path(sys.argv[2])))
"""


@pytest.mark.parametrize("point", ["copy_tree", "compile_code", "seal"])
async def test_a_kill_in_the_middle_leaves_nothing_that_looks_whole(state, short_dir, point):
    source = write_program(short_dir / "source")
    argv = [sys.executable, "-c", CRASH, str(state / "releases"), str(source), point]
    ended = await asyncio.to_thread(subprocess.run, argv, cwd=ROOT, check=False)
    assert ended.returncode == -9
    assert [name for name in left(state) if not name.startswith(".building-")] == []
    assert len(left(state)) == 1
    async with fleet_in(state) as fleet:
        assert not await fleet.list()
        assert left(state) == []
        await start(fleet, source)


async def test_a_cancelled_installation_ends_pip(state, index, short_dir):
    source = write_program(short_dir / "source")
    (source / "requirements.txt").write_text("tinydep\n")
    fleet = make_fleet(state)
    making = asyncio.create_task(fleet.snapshot(SERVICE, source, "1", {}))
    for _ in range(1000):
        if list((state / "releases").glob(".building-*/env/pyvenv.cfg")):
            break
        await asyncio.sleep(0.01)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert left(state) == []
    await fleet.close()


@pytest.fixture
def small_disk(short_dir):
    place = short_dir / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.fail("no permission to mount a small disk: run this test as root")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_disk_leaves_nothing_half_made(small_disk, short_dir):
    source = write_program(short_dir / "source")
    (source / "big").write_bytes(os.urandom(400_000))
    fleet = make_fleet(small_disk)
    with pytest.raises(ReleaseError, match="disk is full") as caught:
        await fleet.snapshot(SERVICE, source, "1", {})
    assert "Free some space" in caught.value.remedy
    assert left(small_disk) == []
    (source / "big").unlink()
    release = await fleet.snapshot(SERVICE, source, "1", {})
    assert left(small_disk) == [release.digest]
    await fleet.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take somebody else's place")
async def test_what_may_not_be_read_is_named(short_dir):
    """As another user, because root may read everything."""
    source = write_program(short_dir / "source")
    (source / "secret").write_text("x")
    os.chmod(source / "secret", 0)
    root = short_dir / "releases"
    root.mkdir()
    for place in (short_dir, source, root):
        os.chmod(place, 0o777)
    os.seteuid(65534)
    try:
        with pytest.raises(ReleaseError, match="secret may not be read") as caught:
            await Snapshots(root, root, RealWorld(), lambda event: None).make(source)
        os.unlink(source / "secret")
        (source / ".gaplessignore").write_text("secret\n")
        snapshots = Snapshots(root, root, RealWorld(), lambda event: None)
        digest = await snapshots.make(source)
        assert stat.S_IMODE(os.stat(root / digest).st_mode) == 0o500
        assert await snapshots.prune(set()) == (digest,)
    finally:
        os.seteuid(0)
    assert ".gaplessignore" in caught.value.remedy
    assert list(root.iterdir()) == []
