"""Checks of keys: reading, writing, expectations, transactions, history."""

from __future__ import annotations

import asyncio

from gapless.core.errors import Conflict
from gapless.core.ports import Check, Delete, Entry, Put, Update
from gapless.testing._asserts import above, conflict, same, take
from gapless.testing._store_rig import StoreRig

ODD_KEYS = (
    *("a", "a/", "a//b", "/", "a b", "a%2Fb", "a%", "a_", "a*", "a?", "a[b]", "a'b", 'a"b', "a\\b", "a.b", "A", "\t\n"),
    *("\u00e7", "c\u0327", "名前/東京", "🦀", "\ud7ff", "\ue000", "\U0010ffff", "-", "x" * 500),
)
"""Keys that query languages, URLs, file names and sorting orders have stumbled over."""


async def an_absent_key_is_none(rig: StoreRig) -> None:
    same(await rig.store.get("nobody"), None)
    same((await rig.store.list("nobody")).entries, ())
    same(await rig.store.history("nobody"), [])


async def a_put_is_read_back(rig: StoreRig) -> None:
    first = await rig.store.put("k", b"1")
    same(await rig.store.get("k"), Entry(key="k", value=b"1", revision=first, created=first))
    second = await rig.store.put("k", b"2")
    above(second, first)
    same(await rig.store.get("k"), Entry(key="k", value=b"2", revision=second, created=first))


async def expectations_guard_a_put(rig: StoreRig) -> None:
    store = rig.store
    first = await store.put("k", b"1", expect=0)
    await conflict(store.put("k", b"x", expect=0), "k", 0, first)
    second = await store.put("k", b"2", expect=first)
    await conflict(store.put("k", b"x", expect=first), "k", first, second)
    await conflict(store.put("other", b"x", expect=second), "other", second, 0)
    third = await store.put("k", b"3", expect=None)
    same(await store.get("k"), Entry(key="k", value=b"3", revision=third, created=first))
    same(await store.get("other"), None)


async def a_delete_removes(rig: StoreRig) -> None:
    store = rig.store
    first = await store.put("k", b"1")
    same(await store.delete("nobody"), first)
    await conflict(store.delete("nobody", expect=first), "nobody", first, 0)
    await conflict(store.delete("k", expect=0), "k", 0, first)
    gone = await store.delete("k", expect=first)
    above(gone, first)
    same(await store.get("k"), None)
    again = await store.put("k", b"2", expect=0)
    same(await store.get("k"), Entry(key="k", value=b"2", revision=again, created=again))


async def a_listing_is_by_key_and_prefix(rig: StoreRig) -> None:
    for key in ("b/2", "b/10", "b", "a/1", "c", "bb", "b/"):
        last = await rig.store.put(key, key.encode())
    listing = await rig.store.list("b/")
    same([(entry.key, entry.value) for entry in listing.entries], [("b/", b"b/"), ("b/10", b"b/10"), ("b/2", b"b/2")])
    same(listing.revision, last)
    same([entry.key for entry in (await rig.store.list("b")).entries], ["b", "b/", "b/10", "b/2", "bb"])
    same(len((await rig.store.list("")).entries), 7)


async def values_are_any_bytes(rig: StoreRig) -> None:
    for value in (b"", bytes(range(256)), b"\0", b"null", "é".encode("latin-1"), b"x" * 100_000):
        revision = await rig.store.put("v", value)
        entry = await rig.store.get("v")
        same(entry and entry.value, value)
        same((await rig.store.history("v", limit=1)), [Update(key="v", value=value, revision=revision)])


async def keys_are_any_text(rig: StoreRig) -> None:
    start = (await rig.store.list("")).revision
    for number, key in enumerate(ODD_KEYS):
        await rig.store.put(key, str(number).encode(), expect=0)
    listing = await rig.store.list("")
    same([entry.key for entry in listing.entries], sorted(ODD_KEYS))
    for number, key in enumerate(ODD_KEYS):
        entry = await rig.store.get(key)
        same(entry and entry.value, str(number).encode())
        same(len(await rig.store.history(key)), 1)
        below = [other for other in ODD_KEYS if other.startswith(key)]
        same([entry.key for entry in (await rig.store.list(key)).entries], sorted(below))
        same([u.key for u in await take(rig.store.watch(key, after=start), len(below))], below)


async def a_transaction_is_all_or_nothing(rig: StoreRig) -> None:
    store = rig.store
    old = await store.put("old", b"1")
    done = await store.transact(Check(key="none", expect=0), Put(key="new", value=b"2", expect=0), Delete(key="old"))
    same(await store.get("new"), Entry(key="new", value=b"2", revision=done, created=done))
    same(await store.get("old"), None)
    wrong = Put(key="new", value=b"x"), Put(key="third", value=b"x"), Check(key="old", expect=old)
    await conflict(store.transact(*wrong), "old", old, 0)
    await conflict(store.transact(Delete(key="new"), Put(key="third", value=b"x", expect=done)), "third", done, 0)
    same([(e.key, e.value) for e in (await store.list("")).entries], [("new", b"2")])
    same((await store.list("")).revision, done)


async def a_transaction_sees_what_was_before_it(rig: StoreRig) -> None:
    first = await rig.store.put("k", b"1")
    done = await rig.store.transact(Put(key="k", value=b"2", expect=first), Check(key="k", expect=first))
    above(done, first)
    same(await rig.store.transact(Check(key="k", expect=done)), done)
    same(await rig.store.transact(Delete(key="nobody")), done)
    same(await rig.store.transact(), done)


async def no_increment_is_lost(rig: StoreRig) -> None:
    await rig.store.put("counter", b"0")

    async def increment() -> None:
        while True:
            entry = await rig.store.get("counter")
            assert entry is not None
            try:
                await rig.store.put("counter", str(int(entry.value) + 1).encode(), expect=entry.revision)
            except Conflict:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(12)))
    entry = await rig.store.get("counter")
    same(entry and entry.value, b"12")


async def a_conflict_does_not_touch_its_neighbours(rig: StoreRig) -> None:
    writes = (rig.store.put(f"k{number // 2}", str(number).encode(), expect=0) for number in range(80))
    results = await asyncio.gather(*writes, return_exceptions=True)
    kinds = [type(result).__name__ for result in results]
    # Whose turn comes first among those who ask at once is not promised.
    same([sorted(pair) for pair in zip(kinds[::2], kinds[1::2], strict=True)], [["Conflict", "int"]] * 40)
    same(len((await rig.store.list("k")).entries), 40)


async def writes_are_read_by_their_writer(rig: StoreRig) -> None:
    async def write(key: str) -> None:
        for number in range(5):
            revision = await rig.store.put(key, str(number).encode())
            entry = await rig.store.get(key)
            same(entry and (entry.value, entry.revision), (str(number).encode(), revision))
            listing = await rig.store.list(key)
            above(listing.revision, revision - 1)

    await asyncio.gather(*(write(f"k{number:02d}") for number in range(16)))


async def history_is_newest_first(rig: StoreRig) -> None:
    revisions = [await rig.store.put("k", str(number).encode()) for number in range(5)]
    await rig.store.put("kk", b"another")
    revisions.append(await rig.store.delete("k"))
    values = [b"0", b"1", b"2", b"3", b"4", None]
    told = [Update(key="k", value=v, revision=r) for v, r in zip(values, revisions, strict=True)]
    same(list(await rig.store.history("k")), told[::-1])
    same(list(await rig.store.history("k", limit=2)), told[:-3:-1])
