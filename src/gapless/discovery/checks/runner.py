"""Runs the checks of an agent's node: asks at intervals, watches heartbeats, and deregisters what is long critical.

What waits costs a line in an agenda, whatever the number; a task is only what is being asked at the moment, and those
are limited. The agenda has one timer. What follows from a result is decided by `streak`, `lapse` and `critical`.

Heartbeats change nothing but moments in memory, so they are as cheap as an attribute. A time to live that lapses makes
the runner ask the instance itself (`discovery.lapse`): at once, and by the way that its other checks are asked, or by a
TCP connection to its address. An instance that is dead refuses, and is out of rotation within milliseconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

from msgspec import structs

from gapless.core.duration import parse_duration
from gapless.core.errors import GaplessError
from gapless.core.ports import World
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.definitions import ASKED, kind_of
from gapless.discovery.catalog.errors import NotRegistered, unknown_check
from gapless.discovery.catalog.values import CheckRow, Definition, Found, Status, cut, worst
from gapless.discovery.checks.agenda import Agenda
from gapless.discovery.checks.ask import Ask
from gapless.discovery.checks.crew import Crew
from gapless.discovery.checks.streak import FRESH, Streak, verdict
from gapless.discovery.lapse import Action, Evict, Lapses, Probe, Standing, Welcome

LEAST_INTERVAL_S = 0.1
"""Whatever was asked for (nanoseconds, by mistake): an instance has more to do than to answer checks."""
LEAST_REAP_S = 1.0
"""The least time that something must be critical before it is deregistered. Consul waits a minute at least, which is
long in a test and where instances come and go (spring-cloud-consul#344)."""
JITTER = 0.1
"""Share of an interval by which it varies, so that checks which began together do not stay together."""
FIRST_S = 0.05
"""A new check is asked within this, so that its instance is soon in rotation."""
ASKING = 256
"""Questions under way at once; as many again for reverse heartbeats, which must not wait behind silent machines."""
WRITING = 1024
"""Statuses on their way to the store: they share its commits."""
PROBE_TIMEOUT = "1s"
"""For the reverse heartbeat: an instance that answers slower than this is no use to its callers."""
ALIAS_S = 10.0
"""An alias follows the checks of its instance at once; within this it finds out that there is no instance."""
RETRY_S = 1.0
"""After the store could not take a status."""

_log = logging.getLogger("gapless.registry")


class Runner:
    """`ask` answers a definition (`checks.ask.Asker`). All methods run on the loop."""

    def __init__(
        self, catalog: Catalog, world: World, ask: Ask, *, mine: Callable[[CheckRow], bool] = lambda row: True
    ) -> None:
        """`mine`: which checks of the node are this runner's, where several processes share it."""
        self._catalog, self._world, self._ask, self._mine = catalog, world, ask, mine
        self._asks, self._reaps, self._retries = Agenda(), Agenda(), Agenda()
        self._lapses = Lapses()
        self._ttls: dict[str, float] = {}
        self._streaks: dict[str, Streak] = {}
        self._followers: dict[tuple[str, str], set[str]] = {}
        """Alias checks by what they follow: node and instance."""
        self._unwritten: dict[str, tuple[str, str]] = {}
        self._askers, self._probers, self._writers = Crew(ASKING), Crew(ASKING), Crew(WRITING)
        self._armed_at = math.inf
        self._disarm: Callable[[], None] = lambda: None
        self._open = False

    async def start(self) -> None:
        """Takes over the checks that there are: every time to live gets its grace, every interval begins anew."""
        self._open = True
        rows = [row for row in self._catalog.own_checks() if self._mine(row)]
        for row in rows:
            self._begin(row, first_s=_interval_s(row.check.definition))
        alive = {row.check.id: self._ttls[row.check.id] for row in rows if self._has_ttl(row)}
        self._lapses.restarted(alive, self._world.now())
        self._catalog.view.watchers.append(self._changed)
        self._arm()

    async def aclose(self) -> None:
        """What is being asked is given up."""
        self._open = False
        self._disarm()
        if self._changed in self._catalog.view.watchers:
            self._catalog.view.watchers.remove(self._changed)
        for crew in (self._askers, self._probers, self._writers):
            await crew.aclose()

    async def heard(self, check: str, status: str, output: str) -> None:
        """A heartbeat, or a status that somebody else found. Durable when it changes something. Raises NotRegistered,
        and what the store raises."""
        if self._catalog.check(check) is None:
            raise unknown_check(check)
        ttl_s = self._ttls.get(check)
        if ttl_s is not None and status == Status.CRITICAL:
            self._lapses.gone(check)
        elif ttl_s is not None:
            self._lapses.heard(check, ttl_s, self._world.now())
            self._arm()
        self._unwritten.pop(check, None)
        await self._catalog.update_check(check, status, output)

    # What the catalog tells

    def _changed(self, before: CheckRow | None, after: CheckRow | None) -> None:
        row = after or before
        if row is None:
            return
        for alias in self._followers.get((row.check.node, row.check.service_id), ()):
            self._asks.plan(alias, self._world.now())
        if row.check.node == self._catalog.name and self._mine(row):
            self._own_changed(before, after)
        self._arm()

    def _own_changed(self, before: CheckRow | None, after: CheckRow | None) -> None:
        if before is not None and (after is None or after.check.definition != before.check.definition):
            self._end(before)
            before = None
        if after is None:
            return
        if before is None:
            self._begin(after, first_s=FIRST_S)
            if self._has_ttl(after):
                self._lapses.heard(after.check.id, self._ttls[after.check.id], self._world.now())
        elif before.check.status != after.check.status:
            self._plan_reap(after)

    def _has_ttl(self, row: CheckRow) -> bool:
        return row.check.id in self._ttls and row.check.status != Status.CRITICAL

    def _begin(self, row: CheckRow, first_s: float) -> None:
        check, kind = row.check, kind_of(row.check.definition)
        if kind in ASKED:
            self._asks.plan(check.id, self._world.now() + first_s * self._world.random())
        elif kind == "ttl":
            self._ttls[check.id] = parse_duration(check.definition.ttl)
        elif kind == "alias":
            for followed in self._followed(check.definition):
                self._followers.setdefault(followed, set()).add(check.id)
            self._asks.plan(check.id, self._world.now())
        self._plan_reap(row)

    def _end(self, row: CheckRow) -> None:
        name = row.check.id
        for followed in self._followed(row.check.definition):
            self._followers.get(followed, set()).discard(name)
        for agenda in (self._asks, self._reaps, self._retries):
            agenda.drop(name)
        self._lapses.gone(name)
        self._ttls.pop(name, None)
        self._streaks.pop(name, None)
        self._unwritten.pop(name, None)

    def _followed(self, definition: Definition) -> list[tuple[str, str]]:
        """What an alias check follows: an instance with its node, or a node."""
        if kind_of(definition) != "alias":
            return []
        node = definition.alias_node or self._catalog.name
        return [(node, name) for name in {"", definition.alias_service}]

    def _plan_reap(self, row: CheckRow) -> None:
        check = row.check
        if check.status != Status.CRITICAL or not check.service_id or not check.definition.deregister_after:
            self._reaps.drop(check.id)
        elif check.id not in self._reaps:
            after_s = max(parse_duration(check.definition.deregister_after), LEAST_REAP_S)
            self._reaps.plan(check.id, self._world.now() + after_s)

    # What is due

    def _arm(self) -> None:
        """One timer, for the first of all that is due. One that rings too early finds nothing, and is set anew."""
        due = min(self._asks.due(), self._reaps.due(), self._retries.due(), self._lapses.due())
        if self._open and due < self._armed_at:
            self._disarm()
            self._armed_at = due
            self._disarm = self._world.after(max(due - self._world.now(), 0.0), self._tick)

    def _tick(self) -> None:
        self._armed_at = math.inf
        now = self._world.now()
        for name in self._asks.take(now):
            self._askers.take(partial(self._ask_check, name))
        for name in self._reaps.take(now):
            self._writers.take(partial(self._reap, name))
        for name in self._retries.take(now):
            if name in self._unwritten:
                self._writers.take(partial(self._write, name, *self._unwritten[name]))
        self._act(self._lapses.tick(now))
        self._arm()

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Probe(name):
                    self._probers.take(partial(self._probe, name))
                case Evict(name, reason):
                    self._writers.take(partial(self._evict, name, reason))
                case Welcome(name):
                    self._writers.take(partial(self._welcome, name))

    # What is done

    async def _ask_check(self, name: str) -> None:
        row = self._catalog.check(name)
        if row is None:
            return
        definition, began_at = row.check.definition, self._world.now()
        if kind_of(definition) == "alias":
            self._asks.plan(name, began_at + ALIAS_S)
            self._arm()
            await self._write(name, *self._alias(definition))
            return
        result = await self._ask(definition)
        current = self._catalog.check(name)
        if current is None or current.check.definition != definition:
            return
        streak = self._streaks[name] = self._streaks.get(name, FRESH).after(result.status)
        self._asks.plan(name, max(self._world.now(), began_at + self._next_s(definition)))
        self._arm()
        status = verdict(definition, streak, result.status)
        await self._write(name, status or current.check.status, result.output)

    def _next_s(self, definition: Definition) -> float:
        return _interval_s(definition) * (1 + JITTER * (self._world.random() - 0.5))

    def _alias(self, definition: Definition) -> tuple[str, str]:
        node, instance = definition.alias_node or self._catalog.name, definition.alias_service
        if instance and self._catalog.instance(instance, node) is None:
            return Status.CRITICAL, f"Service {instance} could not be found on node {node}"
        rows = self._catalog.view.checks_of(node, "")
        if instance:
            rows += self._catalog.view.checks_of(node, instance)
        rows = tuple(row for row in rows if kind_of(row.check.definition) != "alias")
        status = worst(rows)
        return status, "All checks passing." if status == Status.PASSING else f"Aliased check {status}"

    async def _probe(self, name: str) -> None:
        """The reverse heartbeat: its time to live has lapsed, so it is asked."""
        row = self._catalog.check(name)
        definition = _way_to_ask(self._catalog.instance(row.check.service_id)) if row else None
        answered = definition is not None and (await self._ask(definition)).status != Status.CRITICAL
        self._act(self._lapses.probed(name, answered, self._world.now()))
        self._arm()

    async def _evict(self, name: str, reason: str) -> None:
        if self._lapses.standing(name) is Standing.CRITICAL:
            await self._write(name, Status.CRITICAL, reason)
        if self._lapses.standing(name) is Standing.PASSING:
            await self._welcome(name)  # it was heard of while that was written

    async def _welcome(self, name: str) -> None:
        row = self._catalog.check(name)
        if row is not None and row.check.status == Status.CRITICAL:
            await self._write(name, Status.PASSING, "not heard of in time, but it answers when it is asked")

    async def _reap(self, name: str) -> None:
        row = self._catalog.check(name)
        if row is None or row.check.status != Status.CRITICAL:
            return
        _log.warning(
            "%s is deregistered: its check %s was critical for %s",
            row.check.service_id,
            name,
            row.check.definition.deregister_after,
        )
        try:
            await self._catalog.deregister(row.check.service_id)
        except NotRegistered:
            return  # by itself, meanwhile
        except GaplessError as error:
            _log.warning("%s cannot be deregistered yet: %s", row.check.service_id, error)
            self._reaps.plan(name, self._world.now() + RETRY_S)
            self._arm()

    async def _write(self, name: str, status: str, output: str) -> None:
        """Tried again until the store takes it, or something newer is known."""
        self._unwritten[name] = (status, output)
        try:
            await self._catalog.update_check(name, status, cut(output))
        except NotRegistered:
            pass  # with its instance, meanwhile
        except GaplessError as error:
            _log.warning("the status of check %s cannot be written yet: %s", name, error)
            self._retries.plan(name, self._world.now() + RETRY_S)
            self._arm()
            return
        if self._unwritten.get(name) == (status, output):
            del self._unwritten[name]


def _interval_s(definition: Definition) -> float:
    return max(parse_duration(definition.interval), LEAST_INTERVAL_S) if definition.interval else 0.0


def _way_to_ask(found: Found | None) -> Definition | None:
    """How an instance is asked whether it lives: as one of its checks does, or by a connection to its address. None:
    there is nothing that could be asked."""
    if found is None:
        return None
    for row in found.checks:
        if row.check.service_id and kind_of(row.check.definition) in ("http", "tcp", "grpc"):
            return structs.replace(row.check.definition, timeout=PROBE_TIMEOUT)
    if not found.instance.port or not found.address:
        return None
    host = f"[{found.address}]" if ":" in found.address else found.address
    return Definition(tcp=f"{host}:{found.instance.port}", timeout=PROBE_TIMEOUT)
