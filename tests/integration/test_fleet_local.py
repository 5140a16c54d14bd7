"""Instances as real processes: started, found again, stopped."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gapless.core.errors import ConfigError, InstanceFailed, InvalidTransition
from gapless.core.model import Service
from gapless.core.ports import Running
from gapless.core.world import RealWorld
from gapless.fleet.process import scan
from gapless.fleet.roster import ADOPTED, UNSEEN
from gapless.testing.fleet import FLEET_CHECKS, FleetRig, run_check
from tests.integration.fleet_kit import (
    SERVICE,
    answers,
    ask,
    fleet_in,
    instance_of,
    lives,
    make_fleet,
    pids_of,
    run_control,
    start,
    until,
    write_program,
)


@pytest.fixture
def source(short_dir):
    return write_program(short_dir / "source")


@pytest.fixture
def state(short_dir):
    return short_dir / "state"


@asynccontextmanager
async def rig_in(state: Path, source: Path) -> AsyncIterator[FleetRig]:
    async def crash(running: Running) -> None:
        os.kill(running.pid, signal.SIGKILL)

    async with fleet_in(state) as fleet:
        yield FleetRig(fleet=fleet, service=SERVICE, source=source, crash=crash)


@pytest.mark.parametrize("check", FLEET_CHECKS, ids=lambda check: check.__name__)
async def test_the_local_fleet_passes(check, state, source):
    async with rig_in(state, source) as rig:
        await run_check(check, rig)


async def test_an_instance_answers_in_its_own_world(state, source, monkeypatch):
    monkeypatch.setenv("SECRET", "terminal")
    service = replace(SERVICE, env={"DATABASE": "{state}/db", "TEXT": "{x}"})
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source, service=service)
        told = dict(line.split("=", 1) for line in (await ask(instance, "/env")).splitlines())
        release = await fleet.snapshot(service, source, "1", {})
        assert told["cwd"] == f"{state}/releases/{release.digest}/code"
        assert (told["DATABASE"], told["TEXT"]) == (f"{state}/db", "{x}")
        assert (told["GAPLESS_INSTANCE"], told["GAPLESS_STATE"]) == ("tiny-1", str(state))
        assert not {"SECRET", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"} & set(told)
        (running,) = await fleet.list()
        assert os.getsid(running.pid) == running.pid
        assert os.readlink(f"/proc/{running.pid}/fd/0") == "/dev/null"
        assert fleet.tail("tiny-1") == "listening"


async def test_a_crash_tells_how_and_the_last_words(state, source):
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source)
        async with fleet.changed() as ticks:
            with pytest.raises(OSError):  # noqa: PT011  closed or reset, as it happens
                await ask(instance, "/exit")
            await anext(ticks)
        (ended,) = await fleet.list()
        assert (ended.alive, ended.detail) == (False, "exited with status 3")
        assert fleet.tail("tiny-1").splitlines() == ["listening", "last words"]


async def test_a_drain_ends_by_itself(state, source):
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source)
        await fleet.stop(instance, 10.0)
        assert [(r.alive, r.detail) for r in await fleet.list()] == [(False, "exited with status 0")]


async def test_what_does_not_drain_is_killed_with_its_children(state, source):
    service = replace(SERVICE, env={"STUBBORN": "1"})
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source, service=service)
        child, bare = int(await ask(instance, "/child")), int(await ask(instance, "/bare"))
        world = RealWorld()
        began = world.now()
        await fleet.stop(instance, 0.2)
        assert world.now() - began >= 0.2
        assert [r.detail for r in await fleet.list()] == ["killed by SIGKILL"]
        assert not lives(child)
        assert not lives(bare)


async def test_leftovers_of_a_dead_leader_are_not_alive_and_are_killed(state, source):
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source)
        child, bare = int(await ask(instance, "/child")), int(await ask(instance, "/bare"))
        (running,) = await fleet.list()
        async with fleet.changed() as ticks:
            os.kill(running.pid, signal.SIGKILL)
            await anext(ticks)
        assert [(r.alive, r.detail) for r in await fleet.list()] == [(False, "killed by SIGKILL")]
        assert lives(child)
        await fleet.forget("tiny-1")
        assert not lives(child)
        assert not lives(bare)
        assert not await fleet.list()


async def test_leftovers_whose_leader_died_unseen(state, source):
    fleet = make_fleet(state)
    instance = await start(fleet, source)
    child = int(await ask(instance, "/child"))
    (running,) = await fleet.list()
    await fleet.close()
    os.kill(running.pid, signal.SIGKILL)
    await until(lambda: not lives(running.pid), "the leader ends")
    (state / "run" / "tiny-1.json").unlink()
    async with fleet_in(state) as later:
        (found,) = await later.list()
        assert not found.alive
        assert "left processes" in found.detail
        await later.stop(instance, 5.0)
        assert not lives(child)


async def test_a_killed_control_plane_leaves_instances_that_the_next_one_adopts(state, source):
    control = await run_control(str(state), str(source), "tiny-1", "tiny-2")
    pids = await pids_of(control)
    control.kill()
    await control.wait()
    async with fleet_in(state) as fleet:
        assert sorted((r.id, r.pid, r.alive) for r in await fleet.list()) == [
            ("tiny-1", pids[0], True),
            ("tiny-2", pids[1], True),
        ]
        release = await fleet.snapshot(SERVICE, source, "1", {})
        assert await fleet.start(instance_of("tiny-1", 1), release, SERVICE) == pids[0]
        async with fleet.changed() as ticks:
            os.kill(pids[1], signal.SIGKILL)
            await anext(ticks)
        details = {r.id: r.detail for r in await fleet.list()}
        assert details["tiny-1"] == ""
        assert details["tiny-2"] in ("killed by SIGKILL", ADOPTED)  # as the kernel can tell
        await fleet.stop(instance_of("tiny-1", 1), 10.0)
        assert not any(lives(pid) for pid in pids)


async def test_control_planes_killed_at_any_moment_never_double_an_instance(state, source):
    names = [f"tiny-{number}" for number in range(6)]
    dice = random.Random(7)
    async with fleet_in(state) as fleet:
        for turn in range(12):
            control = await run_control(str(state), str(source), *names)
            if turn < 11:
                await asyncio.sleep(0.1 * dice.random())
            else:
                assert len(await pids_of(control)) == 6
            control.kill()
            await control.wait()
            found = Counter(one.instance for one in scan(str(state)) if one.instance and one.leads)
            assert max(found.values(), default=1) == 1, found
        assert set(found) == set(names)
        assert {one.id for one in await fleet.list() if one.alive} == set(names)
    assert not [one for one in scan(str(state)) if one.instance]


async def test_a_state_directory_that_cannot_be_used(short_dir):
    (short_dir / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        await make_fleet(short_dir / "file").list()


async def test_an_end_that_nobody_saw_is_reported_until_forgotten(state, source):
    control = await run_control(str(state), str(source), "tiny-1")
    (pid,) = await pids_of(control)
    control.kill()
    await control.wait()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not lives(pid), "the instance ends")
    for _ in range(2):
        fleet = make_fleet(state)
        assert [(r.id, r.alive, r.detail) for r in await fleet.list()] == [("tiny-1", False, UNSEEN)]
        assert fleet.tail("tiny-1") == "listening"
        await fleet.close()
    async with fleet_in(state) as fleet:
        await fleet.forget("tiny-1")
        assert fleet.tail("tiny-1") == "listening"
    async with fleet_in(state) as fleet:
        assert not await fleet.list()


async def test_another_state_directory_is_another_fleet(short_dir, source):
    async with fleet_in(short_dir / "one") as one, fleet_in(short_dir / "two") as two:
        await start(one, source)
        assert not await two.list()
        await two.stop(instance_of("tiny-1", 1), 0.0)
        await two.rescan()
        assert [r.alive for r in await one.list()] == [True]


async def test_a_rescan_finds_what_another_started(state, source):
    first = make_fleet(state)
    assert not await first.list()
    async with fleet_in(state) as second:
        await start(second, source)
        await first.rescan()
        assert await first.list() == await second.list()
        await first.close()


async def test_a_program_that_overwrites_its_environment_is_known_by_its_record(state, source):
    hide = "import os, sys; os.execve(sys.executable, ['x', *sys.argv[1:]], {})"
    service = replace(SERVICE, command=("python", "-c", hide, "tiny.py", "{port}"))
    fleet = make_fleet(state)
    instance = await start(fleet, source, service=service)
    (before,) = await fleet.list()
    await fleet.close()
    async with fleet_in(state) as later:
        assert [(r.id, r.pid, r.alive) for r in await later.list()] == [("tiny-1", before.pid, True)]
        await later.stop(instance, 10.0)
        assert not lives(before.pid)


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (replace(SERVICE, command=("no-such-program",)), "no-such-program cannot be started .* No such file"),
        (replace(SERVICE, command=("./tiny.py",)), "Permission denied"),
        (Service(name="tiny"), "neither `app` nor `command`"),
    ],
)
async def test_what_cannot_be_started(state, source, service, says):
    async with fleet_in(state) as fleet:
        release = await fleet.snapshot(service, source, "1", {})
        with pytest.raises(InstanceFailed, match=says) as caught:
            await fleet.start(instance_of("tiny-1", 1), release, service)
        assert caught.value.remedy
        assert not await fleet.list()


async def test_a_snapshot_that_is_gone(state, source):
    async with fleet_in(state) as fleet:
        release = await fleet.snapshot(SERVICE, source, "1", {})
        assert await fleet.prune(set()) == (release.digest,)
        with pytest.raises(InstanceFailed, match="snapshot of tiny 1 is gone") as caught:
            await fleet.start(instance_of("tiny-1", 1), release, SERVICE)
        assert "gapless deploy" in caught.value.remedy


async def test_a_command_is_not_reloaded(state, source):
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source)
        with pytest.raises(InvalidTransition, match="command"):
            await fleet.reload(instance)


async def test_an_impatient_stop_overtakes_a_patient_one(state, source):
    service = replace(SERVICE, env={"STUBBORN": "1"})
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source, service=service)
        patient = asyncio.create_task(fleet.stop(instance, 60.0))
        await asyncio.sleep(0.1)
        await fleet.stop(instance, 0.0)
        await patient


async def test_logs_are_rotated_and_followed_while_they_are_written(state, source, monkeypatch):
    monkeypatch.setattr("gapless.fleet.rotation.rotate.__defaults__", (20_000, 3))
    monkeypatch.setattr("gapless.fleet.local.TEND_LOGS_EVERY_S", 0.0)
    code = "import time\nfor n in range(20000):\n print(n)\n n % 400 or time.sleep(0.03)\ntime.sleep(600)"
    service = replace(SERVICE, command=("python", "-uc", code))
    async with fleet_in(state) as fleet:
        release = await fleet.snapshot(service, source, "1", {})
        lines = fleet.follow_many(lambda: ["tiny-1"], 0)
        await fleet.start(instance_of("tiny-1", 1), release, service)
        seen: list[int] = []

        async def read():
            async for line in lines:
                seen.append(int(line.text or -1))
                if seen[-1] == 19_999:
                    return

        reading = asyncio.create_task(read())
        while not reading.done():
            await fleet.list()
            await asyncio.sleep(0.01)
        await reading
        await lines.aclose()
        assert (state / "logs" / "tiny-1.log.1").exists()
        assert fleet.tail("tiny-1", 2) == "19998\n19999"
        assert len(set(seen)) >= 19_900  # between copy and truncation a line may be lost
        assert seen == sorted(seen)


async def test_a_start_after_a_crash_gets_the_port_back(state, source):
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source)
        child = int(await ask(instance, "/child"))
        (running,) = await fleet.list()
        async with fleet.changed() as ticks:
            os.kill(running.pid, signal.SIGKILL)
            await anext(ticks)
        release = await fleet.snapshot(SERVICE, source, "1", {})
        assert await fleet.start(instance, release, SERVICE) != running.pid
        await answers(instance)
        assert not lives(child)
