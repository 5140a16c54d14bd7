"""What a control plane tells while another one leads, and how addresses of stores are read and shown."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gapless.api.standby import standby_app
from gapless.cli.options import at
from gapless.cli.turns import standby_socket, sweep
from gapless.config import Gateway, System
from gapless.config.stores import located
from gapless.control.election import Election
from gapless.control.leader import Candidate
from gapless.control.records import Records
from gapless.control.standby import Standby
from gapless.core.errors import ConfigError
from gapless.core.model import Address, Service
from gapless.store import shared, shown
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld

SYSTEM = System(
    name="shop",
    gateway=Gateway(listen=Address(host="127.0.0.1", port=80)),
    services={},
    state=Path("/s"),
    path=Path("/gapless.yaml"),
    store="consul://10.0.0.1/shop/?token=geheim",
)


def candidate(name: str, pid: int) -> Candidate:
    return Candidate(id=name, machine="alpha/1", pid=pid)


@asynccontextmanager
async def standing_by() -> AsyncIterator[tuple[httpx.AsyncClient, Election]]:
    """One leads, and has one service; the client asks another one."""
    world = FakeWorld()
    store = MemoryStore(world)
    leader = Election(store, candidate("leads", 7), world)
    assert await leader.win()
    await Records(store, lambda: None).write(Service(name="web", app="web:app"))
    app = standby_app(Standby(SYSTEM, store, Election(store, candidate("waits", 8), world)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as client:
        yield client, leader
    await store.close()


async def test_it_tells_what_is_and_who_leads() -> None:
    async with standing_by() as (client, _):
        status = (await client.get("/v1/status")).json()
        assert list(status["services"]) == ["web"]
        assert status["control"] == {
            "store": "consul://10.0.0.1/shop/?token=…",
            "leader": "process 7 on alpha",
            "standbys": [],
        }
        assert status["ready"] is False
        assert (await client.get("/v1/changes")).json() == []
        assert (await client.get("/v1/services/web/rollout")).status_code == 404


async def test_it_changes_nothing_and_says_who_can() -> None:
    async with standing_by() as (client, leader):
        refused = await client.post("/v1/services/web/scale", json={"instances": 3})
        assert refused.status_code == 409
        assert refused.json()["error"] == "this control plane stands by; process 7 on alpha leads"
        assert refused.json()["kind"] == "NotLeader"
        await leader.withdraw()
        nobody = await client.post("/v1/down")
        assert nobody.json()["error"] == "no control plane leads at the moment"


@pytest.mark.parametrize(
    ("where", "base", "found"),
    [
        ("sqlite:here.db", "/b", "sqlite:/b/here.db"),
        ("sqlite:/there.db", "/b", "sqlite:/there.db"),
        ("etcd://h:1,i:2/p/", "/b", "etcd://h:1,i:2/p/"),
        ("etcds://u:p@h/p/?ca=ca.pem&cert=/c.pem", "/b", "etcds://u:p@h/p/?ca=/b/ca.pem&cert=/c.pem"),
        ("consul://h/p/?token=a%20b", "/b", "consul://h/p/?token=a+b"),
    ],
)
def test_paths_in_an_address_are_relative_to_where_it_stands(where: str, base: str, found: str) -> None:
    assert located(where, Path(base)) == found


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("etcd://u:secret@h:1,i/p/?ca=/f", "etcd://h:1,i/p/?ca=/f"),
        ("consul://h/p/?token=secret", "consul://h/p/?token=…"),
        ("sqlite:/s.db", "sqlite:/s.db"),
    ],
)
def test_secrets_in_an_address_are_not_shown(where: str, told: str) -> None:
    assert shown(where) == told
    assert shared(where) == (not where.startswith("sqlite"))


def test_the_options_go_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert at(SYSTEM, None, "") is SYSTEM
    moved = at(SYSTEM, Path("s"), "sqlite:mine.db")
    assert (moved.state, moved.store) == (tmp_path / "s", f"sqlite:{os.getcwd()}/mine.db")
    with pytest.raises(ConfigError, match="not the address of a store"):
        at(SYSTEM, None, "redis://h")


def test_sockets_of_the_killed_are_swept(tmp_path: Path) -> None:
    ours, gone = standby_socket(tmp_path, os.getpid()), standby_socket(tmp_path, 2**22 + 1)
    for path in (ours, gone, tmp_path / "control.sock"):
        path.touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control.sock", ours.name]
