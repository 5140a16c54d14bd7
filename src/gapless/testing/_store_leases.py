"""Checks of leases."""

from __future__ import annotations

from gapless.core.errors import LeaseLost
from gapless.core.ports import Put
from gapless.testing._asserts import above, raises, same, take
from gapless.testing._store_rig import StoreRig


async def a_lease_lapses(rig: StoreRig) -> None:
    store = rig.store
    lease = await store.grant(rig.ttl_s)
    put = await store.put("here", b"1", lease=lease)
    entry = await store.get("here")
    same(entry and entry.lease, lease)
    await store.put("stays", b"1")
    watch = store.watch("here", after=put)
    await rig.pass_time(rig.ttl_s * 1.5)
    (gone,) = await anext(watch)
    same((gone.key, gone.value), ("here", None))
    above(gone.revision, put)
    same([entry.key for entry in (await store.list("")).entries], ["stays"])
    same([update.value for update in await store.history("here")], [None, b"1"])
    await raises(LeaseLost, store.renew(lease))
    await raises(LeaseLost, store.put("here", b"2", lease=lease))
    same(await store.get("here"), None)


async def a_renewed_lease_lives(rig: StoreRig) -> None:
    lease = await rig.store.grant(rig.ttl_s)
    await rig.store.put("here", b"1", lease=lease)
    for _ in range(5):
        await rig.pass_time(rig.ttl_s * 0.5)
        await rig.store.renew(lease)
    assert await rig.store.get("here")


async def a_revoked_lease_takes_its_keys_at_once(rig: StoreRig) -> None:
    store = rig.store
    lease = await store.grant(rig.ttl_s * 100)
    for key in ("b", "a"):
        put = await store.put(key, b"1", lease=lease)
    await store.revoke(lease)
    same((await store.list("")).entries, ())
    gone = await take(store.watch("", after=put), 2)
    same(sorted((update.key, update.value) for update in gone), [("a", None), ("b", None)])
    await raises(LeaseLost, store.renew(lease))
    await store.revoke(lease)
    await store.revoke("0123456789abcdef")


async def an_unknown_lease_writes_nothing(rig: StoreRig) -> None:
    wrong = Put(key="a", value=b"1"), Put(key="b", value=b"1", lease="0123456789abcdef")
    await raises(LeaseLost, rig.store.transact(*wrong))
    await raises(LeaseLost, rig.store.renew("0123456789abcdef"))
    same((await rig.store.list("")).entries, ())


async def a_key_can_leave_its_lease(rig: StoreRig) -> None:
    store = rig.store
    old, new = await store.grant(rig.ttl_s * 100), await store.grant(rig.ttl_s * 100)
    for key in ("freed", "moved", "deleted", "kept"):
        await store.put(key, b"1", lease=old)
    await store.put("freed", b"2")
    await store.put("moved", b"2", lease=new)
    await store.delete("deleted")
    before = await store.put("deleted", b"2")
    await store.revoke(old)
    same([update.key for update in await take(store.watch("", after=before), 1)], ["kept"])
    same([entry.key for entry in (await store.list("")).entries], ["deleted", "freed", "moved"])
    await store.revoke(new)
    same([entry.key for entry in (await store.list("")).entries], ["deleted", "freed"])
