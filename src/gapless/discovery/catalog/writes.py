"""What a request comes to: pure functions from a view and a request to the operations of one transaction, none of them
when nothing changes. They raise what is to be said to whoever asked.

Statuses outlive a registration that is repeated: whoever registers again, because it restarted or because it could not
know, does not take a passing instance out of rotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import structs

from gapless.core.ports import Delete, Op, Put
from gapless.discovery.catalog import definitions
from gapless.discovery.catalog.draft import Draft
from gapless.discovery.catalog.errors import Invalid, NotRegistered, unknown_check, unknown_service
from gapless.discovery.catalog.keys import FLOOR, WEIGHTS
from gapless.discovery.catalog.values import (
    NODE_MAINTENANCE,
    SERVICE_MAINTENANCE,
    WITNESSES,
    Check,
    CheckRow,
    Instance,
    InstanceRow,
    Node,
    Status,
    cut,
)
from gapless.discovery.catalog.view import View

Ops = tuple[Op, ...]

CHUNK = 100
"""Operations in one transaction at most where many rows go at once: etcd takes 128."""

_REASON = "Maintenance mode is enabled for this {}, but no reason was provided. This is a default message."


def register_service(
    view: View,
    node: str,
    instance: Instance,
    checks: Sequence[Check],
    replace: bool = False,
    rewrite: bool = False,
) -> Ops:
    """An agent's own registration. `replace`: checks of an earlier one that are not named again go. `rewrite`: also
    what is there already is written. Raises Invalid."""
    if not instance.service:
        raise Invalid("Missing service name")
    named = instance if instance.id else structs.replace(instance, id=instance.service)
    draft = Draft(view, rewrite=rewrite)
    draft.need_node(node)
    draft.put_instance(node, named)
    given = definitions.of_instance(checks, named, node)
    for check in given:
        draft.put_check(_as_before(view, check))
    _settle_others(draft, node, named, {check.id for check in given}, replace)
    return draft.ops


def register_check(view: View, node: str, check: Check) -> Ops:
    """A check for itself: of the node, or of the instance that it names. Raises Invalid, NotRegistered."""
    if not check.name:
        raise Invalid("Missing check name")
    made = definitions.of_node(check, node)
    draft = Draft(view)
    draft.need_node(node)
    if check.service_id:
        row = view.on.get(node, {}).get(check.service_id)
        if row is None:
            raise NotRegistered(f'ServiceID "{check.service_id}" does not exist')
        draft.need_instance(row)
        made = definitions.bound(made, row.instance)
    draft.put_check(_as_before(view, made))
    return draft.ops


def register_in_catalog(
    view: View, node: Node, instance: Instance | None, checks: Sequence[Check], keep_node: bool = False
) -> Ops:
    """Any node's registration, as an operator or a tool makes it: what is given is what stands. `keep_node`: the node's
    row is left as it is when there is one. Raises Invalid."""
    if not node.name or not (node.address or keep_node):
        raise Invalid("Must provide node and address")
    draft = Draft(view)
    if keep_node and node.name in view.nodes:
        draft.need_node(node.name)
    else:
        draft.put_node(_with_id(view, node))
    if instance is not None:
        named = _named(instance)
        draft.put_instance(node.name, named)
        _settle_others(draft, node.name, named, {check.id or check.name for check in checks}, replace=False)
    for check in checks:
        draft.put_check(_of_catalog(view, node.name, instance, check))
    return draft.ops


def deregister_service(view: View, node: str, instance: str) -> Ops:
    """With its checks. Raises NotRegistered."""
    row = view.on.get(node, {}).get(instance)
    if row is None:
        raise unknown_service(instance)
    draft = Draft(view)
    draft.drop_instance(row)
    for check in view.checks_of(node, instance):
        draft.drop_check(check)
    return draft.ops


def deregister_check(view: View, node: str, check: str) -> Ops:
    """Raises NotRegistered."""
    draft = Draft(view)
    draft.drop_check(_check(view, node, check))
    return draft.ops


def deregister_node(view: View, node: str) -> Ops:
    """With all that is on it: a part of it when that is much, so ask again until nothing is left to do. The node itself
    goes with the last part."""
    draft = Draft(view)
    rows: Iterable[InstanceRow | CheckRow] = (
        *view.on.get(node, {}).values(),
        *view.checks.get(node, {}).values(),
    )
    for row in rows:
        if len(draft) + 3 > CHUNK:
            return draft.ops
        draft.drop_instance(row) if isinstance(row, InstanceRow) else draft.drop_check(row)
    draft.drop_node(node)
    return draft.ops


def update_check(view: View, node: str, check: str, status: str, output: str) -> Ops:
    """A check's status has come. Nothing is written while it stays what it is: heartbeats cost no disk. Raises
    NotRegistered, Invalid."""
    definitions.validate_status(status)
    row = _check(view, node, check)
    if row.check.status == status:
        return ()
    draft = Draft(view)
    draft.put_check(structs.replace(row.check, status=status, output=cut(output)))
    return draft.ops


def maintain_service(view: View, node: str, instance: str, on: bool, reason: str = "") -> Ops:
    """Take the instance out of rotation, or back. Raises NotRegistered."""
    row = view.on.get(node, {}).get(instance)
    if row is None:
        raise unknown_service(instance)
    check = Check(node=node, id=SERVICE_MAINTENANCE + instance, name="Service Maintenance Mode", type="maintenance")
    return _maintain(view, definitions.bound(check, row.instance), on, reason or _REASON.format("service"))


def maintain_node(view: View, node: str, on: bool, reason: str = "") -> Ops:
    """Take all instances on the node out of rotation, or back."""
    check = Check(node=node, id=NODE_MAINTENANCE, name="Node Maintenance Mode", type="maintenance")
    return _maintain(view, check, on, reason or _REASON.format("node"))


def witness(view: View, node: str, instance: str, share: float, output: str, by: str) -> Ops:
    """What the callers of an instance say of it: its weight sinks to a share, and at 0 a check of its own is critical.
    `by`: the registry that was told. Of an instance that has gone, only the check may be left."""
    row = view.on.get(node, {}).get(instance)
    draft = Draft(view)
    mark = view.checks.get(node, {}).get(WITNESSES + instance)
    if row is None:
        if mark is not None:
            draft.drop_check(mark)
        return draft.ops
    # At 0 it is out of rotation by its check; the weight is the one it comes back with.
    draft.weigh(row, share or 1.0)
    if not share and mark is None:
        check = Check(node=node, id=WITNESSES + instance, name="Seen by its callers", notes=by, type="witnesses")
        draft.put_check(structs.replace(definitions.bound(check, row.instance), output=cut(output)))
    elif share and mark is not None:
        draft.drop_check(mark)
    return draft.ops


def mend(view: View) -> Ops:
    """What removals by a lease left undone, a part of it at a time."""
    todo = sorted(view.untraced)[:CHUNK]
    return tuple(Delete(key=key) if key.startswith(WEIGHTS) else _trace(key) for key in todo)


def thin(view: View, keep: int) -> list[Ops]:
    """The oldest traces go, so that at most `keep` stay, and the floor rises above them."""
    oldest = sorted(view.traces, key=view.traces.__getitem__)[: max(len(view.traces) - keep, 0)]
    chunks = (oldest[start : start + CHUNK] for start in range(0, len(oldest), CHUNK))
    return [(_trace(FLOOR), *(Delete(key=key, expect=view.traces[key]) for key in chunk)) for chunk in chunks]


def _trace(key: str) -> Put:
    return Put(key=key, value=b"1")


def _maintain(view: View, check: Check, on: bool, reason: str) -> Ops:
    draft = Draft(view)
    row = view.checks.get(check.node, {}).get(check.id)
    if on and row is None:
        draft.put_check(structs.replace(check, status=Status.CRITICAL, notes=cut(reason)))
    elif row is not None and not on:
        draft.drop_check(row)
    return draft.ops


def _check(view: View, node: str, check: str) -> CheckRow:
    row = view.checks.get(node, {}).get(check)
    if row is None:
        raise unknown_check(check)
    return row


def _as_before(view: View, check: Check) -> Check:
    row = view.checks.get(check.node, {}).get(check.id)
    return structs.replace(check, status=row.check.status, output=row.check.output) if row else check


def _settle_others(draft: Draft, node: str, instance: Instance, given: set[str], replace: bool) -> None:
    """The checks that an earlier registration left: out with them, or along to the new name and tags."""
    for row in draft.view.checks_of(node, instance.id):
        if row.check.id in given:
            continue
        if replace and row.check.type not in ("maintenance", "witnesses"):
            draft.drop_check(row)
        else:
            draft.put_check(definitions.bound(row.check, instance))


def _with_id(view: View, node: Node) -> Node:
    before = view.nodes.get(node.name)
    return structs.replace(node, id=before.node.id) if before and not node.id else node


def _named(instance: Instance) -> Instance:
    if not instance.service and not instance.id:
        raise Invalid("Must provide service name (Service.Service) or ID when SkipNodeUpdate is not set")
    return structs.replace(instance, id=instance.id or instance.service, service=instance.service or instance.id)


def _of_catalog(view: View, node: str, instance: Instance | None, check: Check) -> Check:
    definitions.validate_status(check.status)
    made = structs.replace(check, node=node, id=check.id or check.name, output=cut(check.output))
    if not made.service_id:
        return made
    if instance is not None and _named(instance).id == made.service_id:
        return definitions.bound(made, _named(instance))
    row = view.on.get(node, {}).get(made.service_id)
    if row is None:
        raise Invalid(f"Missing service registration: node {node!r} has no instance {made.service_id!r}")
    return definitions.bound(made, row.instance)
