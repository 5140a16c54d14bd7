"""One service as its callers see it: where its instances are, whom of them to ask, and what was seen of each."""

from __future__ import annotations

from collections.abc import Collection

from gapless.core.errors import Unavailable
from gapless.core.model import BUCKETS, Address, Endpoint, ServiceTable, SplitBy
from gapless.core.ports import World
from gapless.discovery.balancers import DEFAULT
from gapless.discovery.directory import Directory
from gapless.discovery.load import Outcome
from gapless.discovery.loads import Loads
from gapless.discovery.sights import Pace, sight_of
from gapless.observe.metrics import Meter
from gapless.resilience import retry
from gapless.resilience.budget import Budget
from gapless.resilience.deadline import within
from gapless.service.call import pools, report

FIND_S = 10.0
"""How long a call without a deadline waits for discovery to tell of the service: a fresh system starts within it."""


class Callee:
    """Shared by all calls of one caller to one service."""

    def __init__(
        self,
        service: str,
        directory: Directory,
        world: World,
        *,
        policy: retry.RetryPolicy | None = None,
        balance: str = DEFAULT,
        zone: str = "",
        meter: Meter | None = None,
    ) -> None:
        self.service = service
        self.world = world
        self.policy = policy or retry.RetryPolicy()
        self.budget = Budget(self.policy.budget, world)
        self._directory = directory
        self._loads = Loads(world, balance, zone)
        self._attempts = (meter or Meter()).counter(
            "gapless_client_attempts", "Requests sent to other services, by how they ended", ("target", "outcome")
        )
        self._pace = Pace()
        self._table: ServiceTable | None = None
        self._pooled: ServiceTable | None = None
        self._by_release: dict[str, list[tuple[Endpoint, ...]]] = {}

    async def start(self) -> None:
        """Begin to look for it: the first call shall not have to wait."""
        await self._directory.start(self.service)

    async def found(self, end: float, find_s: float = FIND_S) -> ServiceTable:
        """The service's table; waits for its first endpoint until `end`, or for `find_s`. Raises Unavailable."""
        known = self._directory.service(self.service)
        if known is None or not known.endpoints:
            await self._directory.start(self.service)
            try:
                async with within(self.world, min(end - self.world.now(), find_s)):
                    known = await self._directory.wait_for(self.service)
            except TimeoutError as error:
                raise self._unknown() from error
        self._keep_to(known)
        return known

    def _unknown(self) -> Unavailable:
        trouble = self._directory.trouble(self.service)
        why = f"discovery knows no instance of it{f' ({trouble})' if trouble else ''}"
        look = "that it runs: gapless status." if self._directory.governs else "that it runs and passes its checks."
        return Unavailable(report(self.service, why, ()), f"Check its name, and {look}")

    @property
    def known(self) -> bool:
        """Is there anybody to ask?"""
        table = self._directory.service(self.service)
        return table is not None and bool(table.endpoints)

    async def changed(self) -> None:
        """Returns when discovery has told something new."""
        await self._directory.changed()

    def choose(self, tried: Collection[Address], user: str) -> Endpoint | None:
        """The next one to ask: of the user's release when it has anybody left to try. Whoever asks it must tell how
        that `ended`."""
        table = self._directory.service(self.service)
        if table is None:
            return None
        for pool in self._pools(table, self._release(table, user)):
            endpoint = self._loads.choose(pool, tried, user)
            if endpoint is not None:
                return endpoint
        return None

    def left(self, tried: Collection[Address]) -> bool:
        """Is there anybody who has not been tried?"""
        table = self._directory.service(self.service)
        return table is not None and any(each.address not in tried for each in table.endpoints)

    def ended(self, endpoint: Endpoint, took_s: float, outcome: Outcome) -> None:
        """How a request to a chosen one ended."""
        self._loads.ended(endpoint.address, took_s, outcome)
        self._attempts.labels(self.service, outcome.value).inc()
        if self._directory.sights is not None:
            sight = sight_of(outcome, outcome is Outcome.ANSWERED and self._pace.slow(took_s))
            if sight is not None:
                self._directory.sights.saw(self.service, endpoint, sight)

    def _keep_to(self, table: ServiceTable) -> None:
        if table is not self._table:
            self._table = table
            self._loads.forget_but({each.address for each in table.endpoints})

    def _pools(self, table: ServiceTable, release: str) -> list[tuple[Endpoint, ...]]:
        """The same tuples for the same table: what is prepared for picking from them holds as long."""
        if table is not self._pooled:
            self._pooled, self._by_release = table, {}
        found = self._by_release.get(release)
        if found is None:
            found = self._by_release[release] = pools(table, release)
        return found

    def _release(self, table: ServiceTable, user: str) -> str:
        """By the user's bucket; a fresh die where no user is known or the split asks for it."""
        split = table.split
        if user and split.by is not SplitBy.REQUEST:
            return table.release_for(user)
        return split.release_of(int(self.world.random() * BUCKETS))
