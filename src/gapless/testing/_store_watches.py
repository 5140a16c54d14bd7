"""Checks of watches, and of their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from itertools import pairwise

from gapless.core.errors import StoreClosed
from gapless.core.ports import Delete, Put, Update
from gapless.testing._asserts import ended, raises, same, take
from gapless.testing._store_rig import StoreRig


async def a_watch_tells_the_past_and_then_the_present(rig: StoreRig) -> None:
    store = rig.store
    first = await store.put("a/1", b"1")
    second = await store.transact(Put(key="a/2", value=b"2"), Delete(key="a/1"), Put(key="b", value=b"x"))
    watch = store.watch("a/", after=first - 1)
    same(await anext(watch), (Update(key="a/1", value=b"1", revision=first),))
    group = await anext(watch)
    same(
        {update.key: (update.value, update.revision) for update in group},
        {"a/2": (b"2", second), "a/1": (None, second)},
    )
    waiting = asyncio.ensure_future(anext(watch))
    await rig.pass_time(0)
    third = await store.put("a/3", b"3")
    same(await waiting, (Update(key="a/3", value=b"3", revision=third),))
    same(await anext(store.watch("a/", after=second)), (Update(key="a/3", value=b"3", revision=third),))


async def a_watch_hears_only_its_prefix(rig: StoreRig) -> None:
    start = (await rig.store.list("")).revision
    watch, exact = rig.store.watch("a/", after=start), rig.store.watch("a", after=start)
    for key in ("b/1", "a", "a0", "A/1", "a/1", "b", "a/"):
        await rig.store.put(key, b"1")
    same([update.key for update in await take(watch, 2)], ["a/1", "a/"])
    same([update.key for update in await take(exact, 4)], ["a", "a0", "a/1", "a/"])


async def a_watch_that_gives_up_waiting_misses_nothing(rig: StoreRig) -> None:
    watch = rig.store.watch("k", after=(await rig.store.list("")).revision)
    for number in range(5):
        waiting = asyncio.ensure_future(anext(watch))
        await rig.pass_time(0)
        if number % 2:
            waiting.cancel()
            await asyncio.wait({waiting})
        revision = await rig.store.put("k", str(number).encode())
        told = await anext(watch) if waiting.cancelled() else await waiting
        same(told, (Update(key="k", value=str(number).encode(), revision=revision),))


async def watches_miss_nothing_under_load(rig: StoreRig) -> None:
    """Many writers, and watches that are quick, slow and late: each hears everything once, in order."""
    writers, rounds = 12, 15
    start = (await rig.store.list("")).revision

    async def write(writer: int) -> None:
        for number in range(rounds):
            pair = (Put(key=f"w/{writer}/{side}", value=str(number).encode()) for side in ("left", "right"))
            await rig.store.transact(*pair, Put(key=f"noise/{writer}", value=b"n"))

    async def listen(pause: int) -> list[tuple[Update, ...]]:
        watch = rig.store.watch("w/", after=start)
        heard: list[tuple[Update, ...]] = []
        while len(heard) < writers * rounds:
            heard.append(await anext(watch))
            for _ in range(pause):
                await asyncio.sleep(0)
        return heard

    listeners = [asyncio.ensure_future(listen(pause)) for pause in (0, 1, 20)]
    await asyncio.gather(*(write(writer) for writer in range(writers)))
    listeners.append(asyncio.ensure_future(listen(0)))
    first, *others = await asyncio.gather(*listeners)
    for other in others:
        same(other, first)
    check_heard(first, writers, rounds)


def check_heard(heard: Sequence[tuple[Update, ...]], writers: int, rounds: int) -> None:
    """Each revision once and rising, both halves of each pair together, each writer's numbers in order."""
    assert all(before[0].revision < after[0].revision for before, after in pairwise(heard)), "out of order"
    by_key: dict[str, list[int]] = {}
    for group in heard:
        same(len(group), 2)
        same(len({(update.revision, update.value) for update in group}), 1)
        for update in group:
            by_key.setdefault(update.key, []).append(int(update.value or b"-1"))
    same(len(by_key), 2 * writers)
    for numbers in by_key.values():
        same(numbers, list(range(rounds)))


async def a_listing_and_a_watch_make_a_replica(rig: StoreRig) -> None:
    for number in range(5):
        await rig.store.put(f"r/{number}", b"before")
    listing = await rig.store.list("r/")
    replica = {entry.key: entry.value for entry in listing.entries}
    await asyncio.gather(*(rig.store.delete(f"r/{number}") for number in range(0, 5, 2)))
    await asyncio.gather(*(rig.store.put(f"r/{number}", b"after") for number in range(3, 9)))
    last = await rig.store.put("r/end", b"")
    async for group in rig.store.watch("r/", after=listing.revision):
        for update in group:
            if update.value is None:
                del replica[update.key]
            else:
                replica[update.key] = update.value
        if group[0].revision == last:
            break
    same(replica, {entry.key: entry.value for entry in (await rig.store.list("r/")).entries})


async def a_closed_store_says_so(rig: StoreRig) -> None:
    store = rig.store
    put = await store.put("k", b"1")
    watch, behind = store.watch("k", after=put), store.watch("k", after=put - 1)
    await anext(behind)
    waiting = asyncio.ensure_future(ended(watch))
    await rig.pass_time(0)
    await store.close()
    same((await waiting, await ended(behind)), (True, True))
    calls: Iterable[Awaitable[object]] = (
        *(store.get("k"), store.list(""), store.put("k", b"2"), store.delete("k"), store.transact()),
        *(store.history("k"), store.grant(rig.ttl_s), store.renew("x"), store.revoke("x")),
    )
    for call in calls:
        await raises(StoreClosed, call)
    await store.close()
