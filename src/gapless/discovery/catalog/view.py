"""The registry in memory: what is found by which name, and which topics a change concerns.

`View` is made of the store's rows and of nothing else. It takes whole listings and single writes, and moves the indexes
of exactly those topics that a write concerns. After a restart the same rows give the same indexes, or, where several
writes are known by their last one only, higher ones: never lower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from sys import intern
from typing import TypeVar

import msgspec

from gapless.core.ports import Entry, Listing, Update
from gapless.discovery.catalog import keys, topic
from gapless.discovery.catalog.shared import Shared
from gapless.discovery.catalog.values import (
    Check,
    CheckRow,
    Found,
    Instance,
    InstanceRow,
    Node,
    NodeRow,
    Status,
    Sunk,
    encoded,
)
from gapless.discovery.topics import Topics

_ORDER = ("node", "service", "weight", "check", "left", "lifted", "gone", "floor", "alive")
"""In a listing: what others hang on comes before them."""
_RANKS = {kind: rank for rank, kind in enumerate(_ORDER)}
_WRITERS = {kind: f"_write_{kind}" for kind in _ORDER}

_log = logging.getLogger("gapless.discovery")

T = TypeVar("T", Node, Instance, Check, float)
K = TypeVar("K")
V = TypeVar("V")


class View:
    """All rows, by every name that they are asked for. Reads are dictionaries' own."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.nodes: dict[str, NodeRow] = {}
        self.services: dict[str, dict[tuple[str, str], InstanceRow]] = {}
        """By service, then by node and id."""
        self.on: dict[str, dict[str, InstanceRow]] = {}
        """By node, then by id."""
        self.checks: dict[str, dict[str, CheckRow]] = {}
        """By node, then by check id."""
        self.sunk: dict[tuple[str, str], Sunk] = {}
        """Instances whose callers complain, by node and id: everywhere else they are shown with their sunk weight."""
        self.alive: set[str] = set()
        """Nodes whose agents live."""
        self.traces: dict[str, int] = {}
        """The keys of all traces, and their revisions."""
        self.unreadable: dict[str, int] = {}
        """The keys of rows that are none of ours, and their revisions: who writes there must know."""
        self.said = 0
        """How often checks had something else to say, which moves no index."""
        self.untraced: set[str] = set()
        """What somebody who removed rows left undone, as an ended lease does: traces to be written, and weights of
        instances that have gone to be removed."""
        self.watchers: list[Callable[[CheckRow | None, CheckRow | None], None]] = []
        """Told of each write of a check: how it stood, and how it stands. They must not raise or block."""
        self._of: dict[tuple[str, str], tuple[CheckRow, ...]] = {}
        self._tags: dict[str, dict[str, int]] = {}
        self._revisions: dict[str, int] = {}
        self._shared = Shared()

    def tags(self, service: str) -> tuple[str, ...]:
        """Of all its instances, each once."""
        return tuple(self._tags.get(service, ()))

    def checks_of(self, node: str, instance: str) -> tuple[CheckRow, ...]:
        """Of an instance alone; with an empty id, of the node itself."""
        return self._of.get((node, instance), ())

    def stored(self, row: InstanceRow) -> InstanceRow:
        """The row as it lies in the store."""
        sunk = self.sunk.get((row.node, row.instance.id))
        return sunk.stored if sunk is not None and sunk.stored.instance.service == row.instance.service else row

    def found(self, row: InstanceRow) -> Found:
        """With its node and all checks that its health depends on."""
        return Found(self.nodes.get(row.node), row, self._of.get((row.node, ""), ()) + self._own(row))

    def instances(self, service: str) -> Iterator[Found]:
        """By node and id."""
        rows = self.services.get(service, {})
        return map(self.found, map(rows.__getitem__, sorted(rows)))

    def _own(self, row: InstanceRow) -> tuple[CheckRow, ...]:
        return self._of.get((row.node, row.instance.id), ())

    # What the store tells

    def reset(self, listing: Listing) -> None:
        """Take all of it; what is not in it has gone."""
        entries = {entry.key: entry for entry in listing.entries}
        for key in [key for key in self._keys() if key not in entries]:
            self._write(Update(key=key, value=None, revision=listing.revision))
        placed = sorted(((keys.place_of(key), entry) for key, entry in entries.items()), key=_rank)
        for place, entry in placed:
            self._put(place, Update(key=entry.key, value=entry.value, revision=entry.revision), entry.created)
        self._level(placed)

    def apply(self, group: tuple[Update, ...]) -> None:
        """Take the writes of one revision."""
        for update in group:
            self._write(update)
        if self.untraced:
            self.untraced.difference_update(update.key for update in group)

    def say(self, row: CheckRow, output: str) -> None:
        """A check that stands as it stood has something else to say: readers see it, nobody is woken, and a restart
        forgets it."""
        self.said += 1
        check = msgspec.structs.replace(row.check, output=output)
        self._place(CheckRow(check, encoded(check), row.created, row.revision))

    def _keys(self) -> Iterator[str]:
        yield from map(keys.node_key, self.nodes)
        yield from map(keys.alive_key, self.alive)
        for rows in self.on.values():
            yield from (keys.instance_key(row.instance.service, row.node, row.instance.id) for row in rows.values())
        for sunk in self.sunk.values():
            yield keys.weight_key(sunk.stored.instance.service, sunk.stored.node, sunk.stored.instance.id)
        for node, checks in self.checks.items():
            yield from (keys.check_key(node, check) for check in checks)

    def _write(self, update: Update) -> None:
        self._put(keys.place_of(update.key), update, 0)

    def _put(self, place: keys.Place, update: Update, created: int) -> None:
        write: Callable[[tuple[str, ...], Update, int], None] | None = getattr(self, _WRITERS.get(place.kind, ""), None)
        if write is not None:
            write(place.names, update, created)

    def _level(self, placed: list[tuple[keys.Place, Entry]]) -> None:
        """The topics that any row may have raised before: the last of them all counts."""
        highest = dict.fromkeys(_ORDER, 0)
        for (kind, _), entry in placed:
            highest[kind] = max(highest.get(kind, 0), entry.revision)
        self.topics.floor = max(self.topics.floor, highest["floor"])
        self.topics.move(topic.SERVICES, max(highest["service"], highest["gone"]))
        for state in topic.STATES:
            self.topics.move(state, max(highest["check"], highest["gone"], highest["left"]))

    def _decoded(self, update: Update, kind: type[T]) -> T | None:
        """None for a removal, and for a row that is none of ours: it is said, and taken for absent."""
        self.unreadable.pop(update.key, None)
        if update.value is None:
            return None
        try:
            return msgspec.json.decode(update.value, type=kind)
        except msgspec.MsgspecError as error:
            _log.error("the registry's row %r cannot be read, and counts as absent: %s", update.key, error)
            self.unreadable[update.key] = update.revision
            return None

    # Nodes

    def _write_node(self, names: tuple[str, ...], update: Update, created: int) -> None:
        name = intern(names[0])
        before = self.nodes.get(name)
        node = self._decoded(update, Node)
        if node is not None:
            made = created or (before.created if before else update.revision)
            self.nodes[name] = NodeRow(node, update.value or b"", made, update.revision)
        elif self.nodes.pop(name, None) is not None:
            self.untraced |= {keys.left_key(), keys.left_key(name)}
        self._move(update.revision, topic.NODES, topic.node(name))
        for service in self._services_on(name):
            self._move(update.revision, topic.instances(service), topic.health(service))

    def _services_on(self, node: str) -> set[str]:
        return {row.instance.service for row in self.on.get(node, {}).values()}

    # Instances

    def _write_service(self, names: tuple[str, ...], update: Update, created: int) -> None:
        service, node, identity = intern(names[0]), intern(names[1]), names[2]
        before = self.services.get(service, {}).get((node, identity))
        instance = self._decoded(update, Instance)
        if instance is not None:
            msgspec.structs.force_setattr(instance, "service", service)
            self._shared.instance(instance)
            made = created or (before.created if before else update.revision)
            row = InstanceRow(node, instance, update.value or b"", made, update.revision)
            sunk = self.sunk.get((node, identity))
            self._put_instance(self._sink(row, sunk.share, sunk.revision) if sunk else row)
        elif before is not None:
            self._drop_instance(before)
            if self.sunk.pop((node, identity), None) is not None:
                self.untraced.add(keys.weight_key(service, node, identity))
            self.untraced |= {keys.gone_key(service), keys.left_key(node)}
        self._retag(service, before, instance, update.revision)
        self._move(update.revision, topic.node(node), topic.instances(service), topic.health(service))

    def _write_weight(self, names: tuple[str, ...], update: Update, created: int) -> None:
        service, node, identity = names
        row = self.services.get(service, {}).get((node, identity))
        if row is None:
            return  # its instance went first
        stored, share = self.stored(row), self._decoded(update, float)
        self.sunk.pop((node, identity), None)
        self._put_instance(stored if share is None else self._sink(stored, share, update.revision))
        if share is None:
            self.untraced |= {keys.gone_key(service), keys.left_key(node)}
        self._move(update.revision, topic.node(node), topic.instances(service), topic.health(service))

    def _sink(self, row: InstanceRow, share: float, revision: int) -> InstanceRow:
        sunk = self.sunk[row.node, row.instance.id] = Sunk(row, share, revision)
        return sunk.shown

    def _put_instance(self, row: InstanceRow) -> None:
        service, identity = row.instance.service, row.instance.id
        self.services.setdefault(service, {})[row.node, identity] = row
        self.on.setdefault(row.node, {})[identity] = row
        # After a restart the rows that came before it count too.
        of_node = self.nodes.get(row.node)
        self._move(of_node.revision if of_node else 0, topic.instances(service), topic.health(service))

    def _drop_instance(self, row: InstanceRow) -> None:
        service, identity = row.instance.service, row.instance.id
        _drop(self.services, service, (row.node, identity))
        if self.on.get(row.node, {}).get(identity) is row:
            _drop(self.on, row.node, identity)

    def _retag(self, service: str, before: InstanceRow | None, after: Instance | None, revision: int) -> None:
        """Count the tags; wake who waits for names and tags only when one came or went."""
        old = before.instance.tags if before else ()
        new = after.tags if after else ()
        if old == new and (before is None) == (after is None):
            return
        known = self._tags.setdefault(service, {})
        changed = False
        for tag in new:
            changed = changed or tag not in known
            known[tag] = known.get(tag, 0) + 1
        for tag in old:
            known[tag] -= 1
            if not known[tag]:
                del known[tag]
                changed = True
        there = len(self.services.get(service, ()))
        if not there:
            del self._tags[service]
        if changed or not there or (before is None and there == 1):
            self._move(revision, topic.SERVICES)

    # Checks

    def _write_check(self, names: tuple[str, ...], update: Update, created: int) -> None:
        node, identity = intern(names[0]), names[1]
        before = self.checks.get(node, {}).get(identity)
        check = self._decoded(update, Check)
        if check is not None:
            msgspec.structs.force_setattr(check, "node", node)
            msgspec.structs.force_setattr(check, "service", intern(check.service))
            self._shared.check(check)
            made = created or (before.created if before else update.revision)
            self._place(CheckRow(check, update.value or b"", made, update.revision))
        elif before is not None:
            self._drop_check(before)
        if before is not None and (check is None or _told_by(before.check) != _told_by(check)):
            self._touch(before.check, update.revision)
        if check is not None:
            self._touch(check, update.revision)
        after = self.checks.get(node, {}).get(identity)
        for watcher in self.watchers:
            watcher(before, after)

    def _place(self, row: CheckRow) -> None:
        check = row.check
        before = self.checks.setdefault(check.node, {}).get(check.id)
        if before is not None:
            self._unhang(before)
        self.checks[check.node][check.id] = row
        of = (check.node, check.service_id)
        self._of[of] = tuple(sorted((*self._of.get(of, ()), row), key=lambda row: row.check.id))

    def _drop_check(self, row: CheckRow) -> None:
        check = row.check
        self._unhang(row)
        _drop(self.checks, check.node, check.id)
        self.untraced |= {keys.left_key(check.node), trace_of(check)}

    def _unhang(self, row: CheckRow) -> None:
        of = (row.check.node, row.check.service_id)
        left = tuple(other for other in self._of.get(of, ()) if other.check.id != row.check.id)
        if left:
            self._of[of] = left
        else:
            self._of.pop(of, None)

    def _touch(self, check: Check, revision: int) -> None:
        self._move(revision, topic.checks_on(check.node), topic.CHECKS, topic.state(check.status))
        if check.service_id:
            self._move(revision, topic.checks_of(check.service), topic.health(check.service))
            return
        for service in self._services_on(check.node):
            self._move(revision, topic.health(service))

    def _write_alive(self, names: tuple[str, ...], update: Update, created: int) -> None:
        if update.value is None:
            self.alive.discard(names[0])
        else:
            self.alive.add(names[0])

    # Traces: read in a listing; while the removals themselves are seen they say nothing new.

    def _write_gone(self, names: tuple[str, ...], update: Update, created: int) -> None:
        self._keep_trace(update)
        if created:
            service = names[0]
            self._move(update.revision, topic.instances(service), topic.checks_of(service), topic.health(service))

    def _write_left(self, names: tuple[str, ...], update: Update, created: int) -> None:
        self._keep_trace(update)
        if created and names[0]:
            self._move(update.revision, topic.node(names[0]), topic.checks_on(names[0]))
        elif created:
            self._move(update.revision, topic.NODES)

    def _write_lifted(self, names: tuple[str, ...], update: Update, created: int) -> None:
        self._keep_trace(update)
        if created:
            for service in self._services_on(names[0]):
                self._move(update.revision, topic.health(service))

    def _keep_trace(self, update: Update) -> None:
        if update.value is None:
            self.traces.pop(update.key, None)
        else:
            self.traces[update.key] = update.revision

    def _move(self, revision: int, *topics: topic.Topic) -> None:
        for one in topics:
            self.topics.move(one, revision)


def trace_of(check: Check) -> str:
    """The trace that its removal leaves besides its node's."""
    return keys.gone_key(check.service) if check.service_id else keys.lifted_key(check.node)


def _told_by(check: Check) -> tuple[str, ...]:
    """What decides which topics it belongs to."""
    return check.status, check.service_id, check.service


def passing(found: Found) -> bool:
    """Is it to be asked?"""
    return found.status == Status.PASSING


def _rank(placed: tuple[keys.Place, Entry]) -> int:
    return _RANKS.get(placed[0].kind, len(_RANKS))


def _drop(table: dict[str, dict[K, V]], outer: str, inner: K) -> None:
    rows = table[outer]
    del rows[inner]
    if not rows:
        del table[outer]
