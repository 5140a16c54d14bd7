"""Looks at a rollout are kept within bounds, and what was decided is among them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gapless.core import codec
from gapless.core.errors import StoreFull
from gapless.core.model import BUCKETS
from gapless.core.model.look import Look, LookChunk
from gapless.rollout import looks
from tests.unit.control_kit import ME, POLICY, WEB, Rig

one = Look(at=0.0, weight=500, decision="hold", reason="", canary_requests=5, stable_requests=95, canary_errors=1)


def in_chunks(kept: list[Look]) -> list[LookChunk]:
    """As they are written, one after the other, and merged each time."""
    chunks: list[LookChunk] = []
    for first in range(0, len(kept), looks.CHUNK):
        chunks.append(LookChunk(first=first, level=0, looks=tuple(kept[first : first + looks.CHUNK])))
        while found := looks.merged(chunks):
            made, old = found
            chunks = sorted([made, *(chunk for chunk in chunks if chunk not in old)], key=lambda chunk: chunk.first)
    return chunks


@given(
    hours=st.integers(0, 8),
    weights=st.lists(st.tuples(st.integers(0, 8 * 3_600), st.sampled_from([500, 2_500, 10_000])), max_size=4),
)
def test_hours_take_little_and_nothing_that_was_counted_or_decided_is_lost(
    hours: int, weights: list[tuple[int, int]]
) -> None:
    now = dict(weights)
    kept, weight = [], 100
    for second in range(0, hours * 3_600, 7):
        weight = next((w for at, w in now.items() if second <= at < second + 7), weight)
        kept.append(replace(one, at=float(second), weight=weight, decision="promote" if second % 5_003 < 7 else "hold"))
    chunks = in_chunks(kept)
    found = looks.in_order(chunks)
    assert len(found) <= 2_000
    assert sum(look.canary_requests for look in found) == 5 * len(kept)
    assert [look.at for look in found] == sorted({look.at for look in found})
    assert found[-300:] == kept[-300:]
    changes = [b for a, b in pairwise(kept) if (a.weight, a.decision) != (b.weight, b.decision)]
    assert {look.at for look in changes} <= {look.at for look in found}
    assert all(len(codec.encode(chunk)) < 60_000 for chunk in chunks)


def test_a_chunk_and_what_it_became_are_told_once() -> None:
    kept = [replace(one, at=float(at)) for at in range(1_200)]
    chunks = [LookChunk(first=n, level=0, looks=tuple(kept[n : n + 60])) for n in range(0, 1_200, 60)]
    merged = looks.merged(chunks)
    assert merged
    assert sum(look.canary_requests for look in looks.in_order([*chunks[1:], merged[0]])) == 6_000


def test_idle_seconds_are_seldom_kept() -> None:
    idle = replace(one, canary_requests=0, stable_requests=0)
    assert looks.is_worth_keeping(None, idle)
    assert not looks.is_worth_keeping(idle, replace(idle, at=9.0))
    assert looks.is_worth_keeping(idle, replace(idle, at=10.0))
    assert looks.is_worth_keeping(idle, replace(idle, decision="promote"))
    assert looks.is_worth_keeping(idle, one)


async def test_each_look_of_a_rollout_is_kept_and_survives_a_kill() -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    rig.bad.add("bad")
    await rig.plane.rollouts.deploy("web", None, "bad", {"A": "1"}, ME)
    assert await rig.end_rollout() == "rolled back"
    before = await rig.plane.lookbook.looks("web", 1)
    assert before[-1].decision == "rollback"
    assert before[-1].e_errors >= before[-1].e_limit or before[-1].e_broken >= before[-1].e_limit
    assert {look.weight for look in before} == {3_000}
    await rig.pass_time(6.0)
    await rig.kill()
    await rig.up()
    assert await rig.plane.lookbook.looks("web", 1) == before
    await rig.down()


async def test_the_bake_is_looked_at_as_the_steps_are_until_it_is_over() -> None:
    rig = Rig(replace(WEB, rollout=replace(POLICY, bake_s=20.0)))
    await rig.up()
    await rig.settle()
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    await rig.pass_time(1.0)
    await rig.plane.rollouts.steer("web", "promote", ME)
    assert await rig.end_rollout() == "promoted"
    await rig.pass_time(8.0)
    await rig.kill()
    await rig.up()
    await rig.pass_time(30.0)
    rollout = rig.plane.records.rollout("web")
    assert rollout
    baked = [look for look in await rig.plane.lookbook.looks("web", 1) if look.at >= rollout.ended_at]
    assert {look.weight for look in baked} == {BUCKETS}, "promoted by hand at its first step, it has all the users"
    assert {look.decision for look in baked} == {"hold", "promote"}
    assert "after promotion" in baked[-1].reason
    assert sum(look.canary_requests for look in baked) > 500
    assert baked[-1].at <= rollout.baked_at
    assert not rig.plane.lookbook._books, "nothing is kept open once it is over"
    await rig.down()


async def test_a_store_that_is_full_loses_no_rollout() -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    put = rig.store.put

    async def full(key: str, value: bytes, **more: object) -> int:
        if key.startswith("looks/"):
            raise StoreFull("no space is left")
        return await put(key, value, **more)  # type: ignore[arg-type]

    rig.store.put = full  # type: ignore[method-assign]
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    assert await rig.end_rollout() == "promoted"
    kept = await rig.plane.lookbook.looks("web", 1)
    assert kept
    rig.store.put = put  # type: ignore[method-assign]
    await rig.pass_time(6.0)
    assert await rig.plane.lookbook.looks("web", 1) == kept
    await rig.down()


async def test_a_new_control_plane_goes_on_after_the_looks_of_the_one_before() -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    await rig.pass_time(1.0)
    await rig.plane.rollouts.steer("web", "pause", ME)
    await rig.pass_time(12.0)
    before = await rig.plane.lookbook.looks("web", 1)
    await rig.kill()
    await rig.up()
    await rig.pass_time(12.0)
    after = await rig.plane.lookbook.looks("web", 1)
    assert len(after) > len(before)
    assert len(await rig.plane.lookbook._chunks("web", 1)) == 2
    await rig.down()
