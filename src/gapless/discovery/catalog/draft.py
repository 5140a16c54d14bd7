"""A transaction of the registry in the making: each row written under the condition that it is still what was decided
on, and removals with their traces."""

from __future__ import annotations

from gapless.core.ports import Check as Unchanged
from gapless.core.ports import Delete, Op, Put
from gapless.discovery.catalog import keys
from gapless.discovery.catalog.values import Check, CheckRow, Instance, InstanceRow, Node, encoded
from gapless.discovery.catalog.view import View, trace_of


class Draft:
    """Collects operations on top of a view. What changes nothing is left out."""

    def __init__(self, view: View, *, rewrite: bool = False) -> None:
        """`rewrite`: also what changes nothing, to hang it on another lease."""
        self.view = view
        self._rewrite = rewrite
        self._ops: dict[str, Op] = {}

    @property
    def ops(self) -> tuple[Op, ...]:
        """Empty when nothing would be written."""
        if all(isinstance(op, Unchanged) for op in self._ops.values()):
            return ()
        return tuple(self._ops.values())

    def __len__(self) -> int:
        return len(self._ops)

    def put_node(self, node: Node) -> None:
        row = self.view.nodes.get(node.name)
        self._put(keys.node_key(node.name), encoded(node), row.raw if row else None, row.revision if row else 0)

    def need_node(self, name: str) -> None:
        """What is written belongs to this node: it must still be there when it is written."""
        row = self.view.nodes.get(name)
        if row is not None:
            self._ops.setdefault(keys.node_key(name), Unchanged(key=keys.node_key(name), expect=row.revision))

    def put_instance(self, node: str, instance: Instance) -> None:
        before = self.view.on.get(node, {}).get(instance.id)
        if before is not None and before.instance.service != instance.service:
            self.drop_instance(before)
            before = None
        stored = self.view.stored(before) if before else None
        key = keys.instance_key(instance.service, node, instance.id)
        self._put(key, encoded(instance), stored.raw if stored else None, stored.revision if stored else 0)

    def need_instance(self, row: InstanceRow) -> None:
        """As `need_node`."""
        key = keys.instance_key(row.instance.service, row.node, row.instance.id)
        self._ops.setdefault(key, Unchanged(key=key, expect=self.view.stored(row).revision))

    def drop_instance(self, row: InstanceRow) -> None:
        """The instance, with what was said of its weight: its checks are the caller's."""
        place = row.instance.service, row.node, row.instance.id
        self._drop(keys.instance_key(*place), self.view.stored(row).revision)
        self._trace(keys.gone_key(row.instance.service), keys.left_key(row.node))
        if (sunk := self.view.sunk.get((row.node, row.instance.id))) is not None:
            self._drop(keys.weight_key(*place), sunk.revision)

    def weigh(self, row: InstanceRow, share: float) -> None:
        """Let its weight sink to a share of what was registered; 1 is all of it."""
        key = keys.weight_key(row.instance.service, row.node, row.instance.id)
        sunk = self.view.sunk.get((row.node, row.instance.id))
        self.need_instance(row)
        if share < 1:
            self._put(key, encoded(share), encoded(sunk.share) if sunk else None, sunk.revision if sunk else 0)
        elif sunk is not None:
            self._drop(key, sunk.revision)
            self._trace(keys.gone_key(row.instance.service), keys.left_key(row.node))

    def put_check(self, check: Check) -> None:
        row = self.view.checks.get(check.node, {}).get(check.id)
        if row is not None and trace_of(row.check) != trace_of(check):
            self._trace(trace_of(row.check))
        key = keys.check_key(check.node, check.id)
        self._put(key, encoded(check), row.raw if row else None, row.revision if row else 0)

    def drop_check(self, row: CheckRow) -> None:
        self._drop(keys.check_key(row.check.node, row.check.id), row.revision)
        self._trace(trace_of(row.check), keys.left_key(row.check.node))

    def drop_node(self, name: str) -> None:
        """The node alone."""
        row = self.view.nodes.get(name)
        if row is not None:
            self._drop(keys.node_key(name), row.revision)
            self._trace(keys.left_key(), keys.left_key(name))

    def _put(self, key: str, raw: bytes, before: bytes | None, revision: int) -> None:
        if raw == before and not self._rewrite:
            self._ops[key] = Unchanged(key=key, expect=revision)
        else:
            self._ops[key] = Put(key=key, value=raw, expect=revision or self.view.unreadable.get(key, 0))

    def _drop(self, key: str, revision: int) -> None:
        self._ops[key] = Delete(key=key, expect=revision)

    def _trace(self, *traces: str) -> None:
        for trace in traces:
            # Its revision is all that it says.
            self._ops[trace] = Put(key=trace, value=b"1")
