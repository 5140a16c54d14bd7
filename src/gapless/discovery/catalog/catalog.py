"""The registry: reads from memory, durable writes, and waits that end when what they wait for changes.

    catalog = Catalog(store, world, name="registry-1")
    await catalog.start()
    await catalog.register(Instance(service="orders", id="orders-1", port=8000), [check])
    catalog.instances("orders")                       # at once, from memory
    await catalog.wait(topic.health("orders"), index, 60.0)

A write is answered when the store has it and this process shows it: whoever writes reads what it wrote.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from msgspec import structs

from gapless.core.errors import Conflict, GaplessError
from gapless.core.ports import Listing, Op, Put, Store, Update, World
from gapless.discovery.catalog import keys, topic, writes
from gapless.discovery.catalog.values import (
    SERF_HEALTH,
    Check,
    CheckRow,
    Found,
    Instance,
    InstanceRow,
    Node,
    NodeRow,
    Status,
    cut,
)
from gapless.discovery.catalog.view import View
from gapless.discovery.follow import Follower
from gapless.discovery.topics import Topics

TRIES = 200
"""Of a write that others overtake: each time it is decided anew on what they wrote, and one of them succeeds."""
TRACES = 20_000
"""Of removals are kept at most, before half of them are thinned out: names that never come back shall not fill the
store."""
DATACENTER = "dc1"

_log = logging.getLogger("gapless.discovery")

Decide = Callable[[View], tuple[Op, ...]]


class Catalog:
    """The registry on a store, and one agent's node in it: that of `name`. Methods that write raise what the store
    raises, and what `catalog.writes` says for each."""

    def __init__(
        self,
        store: Store,
        world: World,
        *,
        name: str,
        address: str = "127.0.0.1",
        datacenter: str = DATACENTER,
        itself: Instance | None = None,
    ) -> None:
        """`itself`: the instance as which the agent is found in the registry, if it shall be."""
        self.name, self.address, self.datacenter = name, address, datacenter
        self.lease = ""
        """Of the store: what is written of the agent's own instances and checks hangs on it, where there is one."""
        self.topics = Topics()
        self.view = View(self.topics)
        """For reads that are not among those below."""
        self._store, self._world = store, world
        self.itself = itself
        self._started = False
        self._own_id = (itself.id or itself.service) if itself else ""
        self._mending: asyncio.Task[None] | None = None
        self._follower = Follower(store, keys.PREFIX, world, reset=self._reset, apply=self._apply)

    async def start(self) -> None:
        """The view is complete, and the agent's node in it, when this returns."""
        await self._follower.start()
        await self.write(self._own_node)
        self._started = True

    async def aclose(self) -> None:
        await self._follower.aclose()
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait({self._mending})

    # Reads

    @property
    def revision(self) -> int:
        """The store's, of the newest write that the view shows."""
        return self._follower.revision

    def index(self, of: topic.Topic) -> int:
        """At least 1: Consul's clients take 0 for no index at all."""
        return max(self.topics.index(of), 1)

    async def wait(self, of: topic.Topic, index: int, seconds: float) -> int:
        """Until the topic's index is above the given one, or the time is over; returns it."""
        return max(await self.topics.wait(of, index, seconds, self._world.after), 1)

    def services(self) -> dict[str, tuple[str, ...]]:
        """Every service with the tags of its instances."""
        return {service: self.view.tags(service) for service in sorted(self.view.services)}

    def instances(self, service: str, *, passing: bool = False) -> tuple[Found, ...]:
        """By node and id, each with its node and checks. `passing`: only those that are to be asked."""
        found = self.view.instances(service)
        return tuple(one for one in found if not passing or one.status == Status.PASSING)

    def nodes(self) -> tuple[NodeRow, ...]:
        """By name."""
        return tuple(self.view.nodes[name] for name in sorted(self.view.nodes))

    def node(self, name: str) -> NodeRow | None:
        return self.view.nodes.get(name)

    def instances_on(self, node: str) -> tuple[InstanceRow, ...]:
        """By id."""
        rows = self.view.on.get(node, {})
        return tuple(rows[identity] for identity in sorted(rows))

    def checks_on(self, node: str) -> tuple[CheckRow, ...]:
        """Those of the node and of the instances on it, by id."""
        rows = self.view.checks.get(node, {})
        return tuple(rows[identity] for identity in sorted(rows))

    def checks_of(self, service: str) -> tuple[CheckRow, ...]:
        """Those of a service's instances, without their nodes'."""
        rows = self.view.services.get(service, {})
        return tuple(check for node, identity in sorted(rows) for check in self.view.checks_of(node, identity))

    def checks_in(self, state: str) -> tuple[CheckRow, ...]:
        """All of a status, or of `any`."""
        rows = (row for node in sorted(self.view.checks) for row in self.checks_on(node))
        return tuple(row for row in rows if state in ("any", row.check.status))

    def instance(self, identity: str, node: str = "") -> Found | None:
        """The instance of that id on the node, by default the agent's own."""
        row = self.view.on.get(node or self.name, {}).get(identity)
        return self.view.found(row) if row else None

    def check(self, identity: str, node: str = "") -> CheckRow | None:
        """As `instance`."""
        return self.view.checks.get(node or self.name, {}).get(identity)

    def own_instances(self) -> tuple[InstanceRow, ...]:
        """What was registered with this agent, by id."""
        return tuple(row for row in self.instances_on(self.name) if row.instance.id != self._own_id)

    def own_checks(self) -> tuple[CheckRow, ...]:
        """As `own_instances`."""
        return tuple(row for row in self.checks_on(self.name) if row.check.id != SERF_HEALTH)

    # Writes of the agent, on its own node

    async def register(
        self, instance: Instance, checks: Sequence[Check] = (), *, replace: bool = False, rewrite: bool = False
    ) -> None:
        """Raises Invalid."""
        await self.write(lambda view: writes.register_service(view, self.name, instance, checks, replace, rewrite))

    async def deregister(self, instance: str) -> None:
        """Raises NotRegistered."""
        await self.write(lambda view: writes.deregister_service(view, self.name, instance))

    async def register_check(self, check: Check) -> None:
        """Raises Invalid, NotRegistered."""
        await self.write(lambda view: writes.register_check(view, self.name, check))

    async def deregister_check(self, check: str) -> None:
        """Raises NotRegistered."""
        await self.write(lambda view: writes.deregister_check(view, self.name, check))

    async def update_check(self, check: str, status: str, output: str, node: str = "") -> None:
        """Written when the status changes; what the check says beside it is shown at once, and kept in memory. Raises
        NotRegistered, Invalid."""
        on = node or self.name
        await self.write(lambda view: writes.update_check(view, on, check, status, output))
        row = self.check(check, on)
        if row is not None and row.check.status == status and row.check.output != cut(output):
            self.view.say(row, cut(output))

    async def maintain(self, instance: str, on: bool, reason: str = "") -> None:
        """Raises NotRegistered."""
        await self.write(lambda view: writes.maintain_service(view, self.name, instance, on, reason))

    async def maintain_node(self, on: bool, reason: str = "") -> None:
        await self.write(lambda view: writes.maintain_node(view, self.name, on, reason))

    # Writes for any node

    async def put(
        self, node: Node, instance: Instance | None = None, checks: Sequence[Check] = (), *, keep_node: bool = False
    ) -> None:
        """Raises Invalid."""
        placed = node if node.datacenter else structs.replace(node, datacenter=self.datacenter)
        await self.write(lambda view: writes.register_in_catalog(view, placed, instance, checks, keep_node))

    async def remove(self, node: str, *, instance: str = "", check: str = "") -> None:
        """An instance, a check, or the whole node with all on it; what is not there is no error."""
        if instance:
            await self.write(lambda view: _if_there(view.on, node, instance, writes.deregister_service, view))
        elif check:
            await self.write(lambda view: _if_there(view.checks, node, check, writes.deregister_check, view))
        else:
            while await self.write(lambda view: writes.deregister_node(view, node)):
                pass

    async def write(self, decide: Decide) -> bool:
        """Perform what is decided on the view, again when others were quicker. False when there was nothing to do.
        Raises what `decide` raises, and what the store does."""
        for _ in range(TRIES):
            ops, seen = decide(self.view), self._follower.revision
            if not ops:
                return False
            try:
                revision = await self._store.transact(*map(self._hung, ops))
            except Conflict as conflict:
                overtaken = conflict
                # What was decided on is no longer so: that is on its way here, or has come meanwhile.
                await self._follower.reached(seen + 1)
            else:
                await self._follower.reached(revision)
                return True
        raise overtaken

    def _hung(self, op: Op) -> Op:
        if not self.lease or not isinstance(op, Put):
            return op
        kind, names = keys.place_of(op.key)
        own = (kind == "service" and names[1] == self.name) or (kind == "check" and names[0] == self.name)
        return replace(op, lease=self.lease) if own else op

    # What the store tells

    def _reset(self, listing: Listing) -> None:
        self.view.reset(listing)
        self._changed()

    def _apply(self, group: tuple[Update, ...]) -> None:
        self.view.apply(group)
        self._changed()

    def _changed(self) -> None:
        lost = self._started and self.name not in self.view.nodes
        undone = lost or self.view.untraced or len(self.view.traces) > TRACES
        if undone and self._mending is None:
            self._mending = asyncio.create_task(self._mend(), name="mend the registry")

    async def _mend(self) -> None:
        try:
            while ops := writes.mend(self.view):
                await self._store.transact(*ops)
                self.view.untraced.difference_update(op.key for op in ops)
            if self.name not in self.view.nodes:
                await self.write(self._own_node)  # somebody deregistered it, but here it is
            if len(self.view.traces) > TRACES:
                await self.thin(TRACES // 2)
        except GaplessError as error:
            _log.warning("the registry cannot be mended yet: %s", error)
        finally:
            self._mending = None

    async def thin(self, keep: int) -> None:
        """Forget all but the newest traces of what was removed. Indexes do not go back, and after a restart many are
        higher than they were, which costs each watcher a look."""
        for ops in writes.thin(self.view, keep):
            try:
                await self._follower.reached(await self._store.transact(*ops))
            except Conflict:
                continue  # one of them is the newest now

    def _own_node(self, view: View) -> tuple[Op, ...]:
        row = view.nodes.get(self.name)
        node = Node(
            name=self.name,
            id=row.node.id if row else str(UUID("".join(self._world.token() for _ in range(4)))),
            address=self.address,
            datacenter=self.datacenter,
            tagged_addresses={"lan": self.address, "wan": self.address},
            meta=row.node.meta if row else {},
        )
        health = Check(
            node=self.name,
            id=SERF_HEALTH,
            name="Serf Health Status",
            status=Status.PASSING,
            output="Agent alive and reachable",
        )
        return writes.register_in_catalog(view, node, self.itself, [health])


def _if_there(
    rows: Mapping[str, Mapping[str, object]],
    node: str,
    identity: str,
    remove: Callable[[View, str, str], tuple[Op, ...]],
    view: View,
) -> tuple[Op, ...]:
    return remove(view, node, identity) if identity in rows.get(node, {}) else ()
