"""The store in a real etcd: the suite of all stores, and what only a cluster can do to its clients."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from gapless.core.errors import Compacted, ConfigError, StoreFull, StoreUnreachable
from gapless.core.ports import Store
from gapless.core.world import RealWorld
from gapless.store import open_store
from gapless.testing import STORE_CHECKS, StoreRig
from gapless.testing.store import StoreCheck, run_check
from tests.integration.etcd_kit import Etcd

LIMIT_S = 60.0


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with Etcd() as server:
        yield server


@asynccontextmanager
async def rig(etcd: Etcd) -> AsyncIterator[StoreRig]:
    world = RealWorld()
    store = await open_store(etcd.address(), world)
    try:
        yield StoreRig(store=store, world=world)
    finally:
        await store.close()


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_passes(etcd: Etcd, check: StoreCheck) -> None:
    async with rig(etcd) as one:
        await run_check(check, one)


async def listen(store: Store, after: int, last: bytes | None) -> list[bytes | None]:
    heard: list[bytes | None] = []
    async for group in store.watch("k", after=after):
        heard += [update.value for update in group]
        if heard[-1] == last:
            return heard
    return heard


async def fill(store: Store) -> list[str]:
    """Put keys until there is no room; returns those that were acknowledged."""
    acknowledged: list[str] = []
    for number in range(200):
        key = f"k/{number:03d}"
        try:
            await store.put(key, b"x" * 100_000)
        except StoreFull:
            return acknowledged
        acknowledged.append(key)
    raise AssertionError("it never was full")


async def test_a_watch_goes_on_where_it_was_when_the_server_is_killed_and_comes_back() -> None:
    with Etcd() as etcd:
        store = await open_store(etcd.address(), RealWorld())
        start = await store.put("other", b"")
        listening = asyncio.create_task(listen(store, start, None))
        await store.put("k", b"1")
        await store.put("k", b"2")
        etcd.members[0].kill()
        with pytest.raises(StoreUnreachable, match="no etcd answers"):
            await store.get("k")
        etcd.members[0].start()
        etcd.members[0].wait_healthy()
        await store.put("k", b"3")
        await store.delete("k")
        assert await asyncio.wait_for(listening, LIMIT_S) == [b"1", b"2", b"3", None]
        await store.close()


async def test_a_cluster_without_its_leader_goes_on_and_nothing_acknowledged_is_lost() -> None:
    """One member is killed, another paused and resumed: clients go over to the rest."""
    with Etcd(3) as etcd:
        store = await open_store(etcd.address(), RealWorld())
        start = await store.put("other", b"")
        listening = asyncio.create_task(listen(store, start, b"59"))
        acknowledged: list[bytes] = []
        for number in range(60):
            if number == 15:
                etcd.members[0].freeze()
            if number == 30:
                etcd.members[0].thaw()
                await asyncio.to_thread(etcd.members[0].wait_healthy)
                etcd.members[1].kill()
            value = str(number).encode()
            while value not in acknowledged:
                try:
                    await store.put("k", value)
                    acknowledged.append(value)
                except StoreUnreachable:
                    await asyncio.sleep(0.05)
        heard = await asyncio.wait_for(listening, LIMIT_S)
        assert list(dict.fromkeys(heard)) == acknowledged, "a lost answer may be written twice"
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"59"
        await store.close()


async def test_a_compacted_past_is_refused_and_the_rest_of_the_history_is_told(etcd: Etcd) -> None:
    store = await open_store(etcd.address(), RealWorld())
    first = await store.put("k", b"1")
    await store.put("old", b"x")
    await store.put("k", b"2")
    last = await store.put("k", b"3")
    compact(etcd, last)
    with pytest.raises(Compacted):
        await anext(store.watch("k", after=first))
    await store.put("k", b"4")
    assert [update.value for update in await store.history("k")] == [b"4"]
    assert [update.value for update in await store.history("old")] == [b"x"]
    await store.delete("old")
    assert [update.value for update in await store.history("old")] == [None]
    await store.close()


async def test_a_full_cluster_says_so_loses_nothing_acknowledged_and_recovers() -> None:
    with Etcd(1, "--quota-backend-bytes", str(1 << 20)) as etcd:
        store = await open_store(etcd.address(), RealWorld())
        lease = await store.grant(30.0)
        acknowledged = await fill(store)
        with pytest.raises(StoreFull):
            await store.put("one", b"more")
        await store.renew(lease)  # a leader stays one
        kept = [entry.key for entry in (await store.list("k/")).entries]
        assert kept[: len(acknowledged)] == acknowledged, "what was refused may be there all the same; etcd does that"
        for key in kept[1:]:
            await store.delete(key)
        compact(etcd, (await store.list("")).revision)
        post(etcd, "maintenance/defragment")
        member = etcd.members[0].status()["header"]["member_id"]
        post(etcd, "maintenance/alarm", action="DEACTIVATE", memberID=member, alarm="NOSPACE")
        await store.put("one", b"more")
        assert [entry.key for entry in (await store.list("")).entries] == [kept[0], "one"]
        await store.close()


async def test_over_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client")
    for name, certificate in (("server", server), ("client", client)):
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    files = [f"--{kind}-file={tmp_path}/server.{end}" for kind, end in (("cert", "pem"), ("key", "key"))]
    with Etcd(1, *files, f"--trusted-ca-file={tmp_path}/ca.pem", "--client-cert-auth", scheme="https") as etcd:
        given = f"ca={tmp_path}/ca.pem&cert={tmp_path}/client.pem&key={tmp_path}/client.key"
        store = await open_store(f"etcds://{etcd.servers}/t/?{given}", RealWorld())
        revision = await store.put("k", b"1")
        assert await anext(store.watch("k", after=revision - 1))
        await store.close()
        stranger = await open_store(f"etcds://{etcd.servers}/t/?ca={tmp_path}/ca.pem", RealWorld())
        with pytest.raises(StoreUnreachable):
            await stranger.get("k")
        await stranger.close()


async def test_with_a_user() -> None:
    with Etcd() as etcd:
        post(etcd, "auth/user/add", name="root", password="secret")
        post(etcd, "auth/user/grant", user="root", role="root")
        post(etcd, "auth/enable")
        wrong = await open_store(f"etcd://root:wrong@{etcd.servers}/t/", RealWorld())
        with pytest.raises(ConfigError, match="does not let"):
            await wrong.get("k")
        await wrong.close()
        right = await open_store(f"etcd://root:secret@{etcd.servers}/t/", RealWorld())
        revision = await right.put("k", b"1")
        assert await anext(right.watch("k", after=revision - 1))
        await right.close()


def post(etcd: Etcd, path: str, **body: str) -> None:
    request = urllib.request.Request(f"{etcd.members[0].client}/v3/{path}", json.dumps(body).encode())
    urllib.request.urlopen(request, timeout=10).close()


def compact(etcd: Etcd, revision: int) -> None:
    post(etcd, "kv/compaction", revision=str(revision))


@pytest.mark.parametrize(
    "where", ["etcd://", "etcd://:1", "etcd://h:x", "etcd://h:70000", "etcd://h?colour=red", "etcds://h?ca=/none"]
)
async def test_wrong_addresses(where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await open_store(where, RealWorld())
    assert caught.value.remedy
