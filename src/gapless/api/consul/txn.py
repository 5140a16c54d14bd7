"""`/v1/txn`: several operations on keys, all or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from gapless.api.consul.answer import Answer, Refusal, bad_request, encode
from gapless.api.consul.bodies import Body
from gapless.api.consul.kv import shown
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.discovery.kv.draft import Draft, InvalidSession
from gapless.discovery.kv.kv import KeyValues
from gapless.discovery.kv.rows import Row

LARGEST = 64
"""Operations of one transaction."""


class KvOp(Body):
    verb: str = ""
    key: str = ""
    value: bytes = b""
    flags: int = 0
    index: int = 0
    session: str = ""


class TxnOp(Body):
    kv: KvOp | None = msgspec.field(default=None, name="KV")
    node: dict[str, Any] | None = None
    service: dict[str, Any] | None = None
    check: dict[str, Any] | None = None
    session: dict[str, Any] | None = None


class Told(NamedTuple):
    """A row of the results."""

    row: Row
    valued: bool = True
    """Reads tell the value, writes do not."""
    there: bool = True

    def shown(self, revision: int) -> dict[str, Any]:
        return shown(self.row.told_at(revision) if self.there else self.row, value=self.valued)


class Failed(Exception):
    """An operation cannot be done; says why."""


class Txn:
    def __init__(self, keys: KeyValues) -> None:
        self._keys = keys

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/txn", {"PUT": self.put})

    async def put(self, request: Request) -> Answer:
        ops = _kv_ops(request.json(list[TxnOp], "Failed to parse body"))
        try:
            results, revision = await self._keys.write(lambda draft: perform(draft, ops))
        except TxnFailed as failed:
            return Answer(encode({"Results": None, "Errors": failed.errors}), 409)
        told = [{"KV": one.shown(revision)} for one in results]
        return Answer(encode({"Results": told, "Errors": None}))


class TxnFailed(Exception):
    """Nothing was done."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors)
        self.errors = errors


def _kv_ops(given: Sequence[TxnOp]) -> list[KvOp]:
    """Raises Refusal (400, 413)."""
    if len(given) > LARGEST:
        raise Refusal(413, f"Transaction contains too many operations ({len(given)} > {LARGEST})")
    ops = [op.kv for op in given]
    found = [op for op in ops if op is not None]
    if len(found) < len(ops):
        raise bad_request(
            "this registry has transactions of KV operations only: write nodes, services and checks by /v1/catalog"
        )
    return found


def perform(draft: Draft, ops: Sequence[KvOp]) -> list[Told]:
    """Pure. Raises TxnFailed with what is wrong with each."""
    results: list[Told] = []
    errors: list[dict[str, Any]] = []
    for number, op in enumerate(ops):
        try:
            results += _verb(op)(draft, op)
        except Failed as error:
            errors.append({"OpIndex": number, "What": str(error)})
        except InvalidSession as error:
            errors.append({"OpIndex": number, "What": f'invalid session "{error}"'})
    if errors:
        raise TxnFailed(errors)
    return results


def _verb(op: KvOp) -> Callable[[Draft, KvOp], Iterable[Told]]:
    """Raises Failed."""
    verb = VERBS.get(op.verb)
    if verb is None:
        raise Failed(f'unknown KV verb "{op.verb}"')
    if not op.key and op.verb not in ("get-tree", "delete-tree"):
        raise Failed("Missing key name")
    return verb


def _set(draft: Draft, op: KvOp) -> Iterable[Told]:
    draft.set(op.key, op.value, op.flags)
    return _written(draft, op)


def _cas(draft: Draft, op: KvOp) -> Iterable[Told]:
    if not draft.set_if(op.key, op.value, op.flags, op.index):
        raise Failed(f'failed to set key "{op.key}", index is stale')
    return _written(draft, op)


def _lock(draft: Draft, op: KvOp) -> Iterable[Told]:
    if not draft.lock(op.key, op.value, op.flags, op.session):
        raise Failed(f'failed to lock key "{op.key}", lock is already held')
    return _written(draft, op)


def _unlock(draft: Draft, op: KvOp) -> Iterable[Told]:
    if not draft.unlock(op.key, op.value, op.flags, op.session):
        raise Failed(f'failed to unlock key "{op.key}", lock isn\'t held, or is held by another session')
    return _written(draft, op)


def _written(draft: Draft, op: KvOp) -> Iterable[Told]:
    row = draft.peek(op.key)
    assert row is not None
    return [Told(row, valued=False)]


def _there(draft: Draft, op: KvOp) -> Row:
    """Raises Failed."""
    row = draft.get(op.key)
    if row is None:
        raise Failed(f'key "{op.key}" doesn\'t exist')
    return row


def _get(draft: Draft, op: KvOp) -> Iterable[Told]:
    return [Told(_there(draft, op))]


def _get_or_empty(draft: Draft, op: KvOp) -> Iterable[Told]:
    row = draft.get(op.key)
    return [Told(row) if row is not None else Told(Row(key=op.key), there=False)]


def _get_tree(draft: Draft, op: KvOp) -> Iterable[Told]:
    return [Told(row) for row in draft.below(op.key)]


def _check_index(draft: Draft, op: KvOp) -> Iterable[Told]:
    row = _there(draft, op)
    if row.modified != op.index:
        raise Failed(f"current modify index {row.modified} is not equal to requested {op.index}")
    return [Told(row, valued=False)]


def _check_session(draft: Draft, op: KvOp) -> Iterable[Told]:
    row = _there(draft, op)
    if row.session != op.session:
        raise Failed(f'current session "{row.session}" does not match given session "{op.session}"')
    return [Told(row, valued=False)]


def _check_not_exists(draft: Draft, op: KvOp) -> Iterable[Told]:
    if draft.get(op.key) is not None:
        raise Failed(f'key "{op.key}" exists')
    return []


def _delete(draft: Draft, op: KvOp) -> Iterable[Told]:
    draft.delete(op.key)
    return []


def _delete_cas(draft: Draft, op: KvOp) -> Iterable[Told]:
    if not draft.delete_if(op.key, op.index):
        raise Failed(f'failed to delete key "{op.key}", index is stale')
    return []


def _delete_tree(draft: Draft, op: KvOp) -> Iterable[Told]:
    draft.delete_below(op.key)
    return []


VERBS: dict[str, Callable[[Draft, KvOp], Iterable[Told]]] = {
    "set": _set,
    "cas": _cas,
    "lock": _lock,
    "unlock": _unlock,
    "get": _get,
    "get-or-empty": _get_or_empty,
    "get-tree": _get_tree,
    "check-index": _check_index,
    "check-session": _check_session,
    "check-not-exists": _check_not_exists,
    "delete": _delete,
    "delete-cas": _delete_cas,
    "delete-tree": _delete_tree,
}
