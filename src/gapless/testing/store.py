"""What every store must do, as checks that memory, SQLite and any other backend pass alike.

    @asynccontextmanager
    async def make():
        world = FakeWorld()
        store = MemoryStore(world)
        yield StoreRig(store=store, world=world)
        await store.close()

    await check_store(make)                                     # or, one test for each:
    @pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)

`make` gives an empty store. Only what `core.ports.Store` promises is checked: a backend whose revisions are also raised
by others (Consul) passes too.
"""

from __future__ import annotations

import asyncio

from gapless.testing import _store_keys as keys
from gapless.testing import _store_leases as leases
from gapless.testing import _store_watches as watches
from gapless.testing._store_rig import MakeStore, StoreCheck, StoreRig

__all__ = ["LIMIT_S", "STORE_CHECKS", "MakeStore", "StoreCheck", "StoreRig", "check_store", "run_check"]

LIMIT_S = 60.0
"""Real seconds after which a check counts as hanging: generous, because test machines are busy."""

STORE_CHECKS: tuple[StoreCheck, ...] = (
    keys.an_absent_key_is_none,
    keys.a_put_is_read_back,
    keys.expectations_guard_a_put,
    keys.a_delete_removes,
    keys.a_listing_is_by_key_and_prefix,
    keys.values_are_any_bytes,
    keys.keys_are_any_text,
    keys.a_transaction_is_all_or_nothing,
    keys.a_transaction_sees_what_was_before_it,
    keys.no_increment_is_lost,
    keys.a_conflict_does_not_touch_its_neighbours,
    keys.writes_are_read_by_their_writer,
    keys.history_is_newest_first,
    leases.a_lease_lapses,
    leases.a_renewed_lease_lives,
    leases.a_revoked_lease_takes_its_keys_at_once,
    leases.an_unknown_lease_writes_nothing,
    leases.a_key_can_leave_its_lease,
    watches.a_watch_tells_the_past_and_then_the_present,
    watches.a_watch_hears_only_its_prefix,
    watches.a_watch_that_gives_up_waiting_misses_nothing,
    watches.watches_miss_nothing_under_load,
    watches.a_listing_and_a_watch_make_a_replica,
    watches.a_closed_store_says_so,
)


async def check_store(make: MakeStore) -> None:
    """Run every check on an empty store of its own. Raises AssertionError, with the check's name in a note."""
    for check in STORE_CHECKS:
        async with make() as rig:
            await run_check(check, rig)


async def run_check(check: StoreCheck, rig: StoreRig) -> None:
    """Run one check. Raises AssertionError or TimeoutError, with the check's name in a note."""
    try:
        async with asyncio.timeout(LIMIT_S):
            await check(rig)
    except BaseException as error:
        error.add_note(f"in the store check {getattr(check, '__name__', check)!r}")
        raise
