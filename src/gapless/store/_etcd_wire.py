"""etcd's JSON (the gRPC gateway, API v3): keys and values in base64, 64-bit numbers as text, zeros left out."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gapless.core.errors import Compacted, Conflict, GaplessError, LeaseLost, StoreBroken, StoreFull, StoreUnreachable
from gapless.core.ports import Check, Delete, Entry, Op, Put, Update

FENCE = "\0"
"""Ends the names of keys that are ours alone: no key of a caller holds a NUL."""

Json = Mapping[str, Any]


def text64(value: bytes) -> str:
    return b64encode(value).decode()


class Names:
    """Keys below the store's own prefix, so that several systems share a cluster."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()

    def key(self, key: str) -> str:
        return text64(self._prefix + key.encode())

    def end(self, prefix: str) -> str:
        """The first key behind all those that begin with the prefix: UTF-8 never ends in 0xff."""
        whole = self._prefix + prefix.encode()
        return text64(whole[:-1] + bytes([whole[-1] + 1]))

    def of(self, key64: str) -> str:
        return b64decode(key64)[len(self._prefix) :].decode()


def entry(names: Names, kv: Json) -> Entry:
    return Entry(
        key=names.of(kv["key"]),
        value=b64decode(kv.get("value", "")),
        revision=int(kv["mod_revision"]),
        created=int(kv["create_revision"]),
        lease=kv.get("lease", "") if kv.get("lease", "0") != "0" else "",
    )


def groups(names: Names, events: Iterable[Json]) -> list[tuple[Update, ...]]:
    """A watch's events by revision; fences are left out."""
    found: dict[int, list[Update]] = {}
    for event in events:
        kv = event["kv"]
        key = names.of(kv["key"])
        if key.endswith(FENCE):
            continue
        value = None if event.get("type") == "DELETE" else b64decode(kv.get("value", ""))
        revision = int(kv["mod_revision"])
        found.setdefault(revision, []).append(Update(key=key, value=value, revision=revision))
    return [tuple(group) for group in found.values()]


def transaction(names: Names, ops: Sequence[Op]) -> dict[str, Any]:
    """A txn that does all of it, or tells how the expected keys stand. Raises LeaseLost for a lease that is none of
    ours."""
    expected = [op for op in ops if op.expect is not None]
    return {
        "compare": [_compare(names, op) for op in expected],
        "success": [_request(names, op) for op in ops if not isinstance(op, Check)],
        "failure": [{"request_range": {"key": names.key(op.key)}} for op in expected],
    }


def conflict(names: Names, ops: Sequence[Op], answer: Json) -> Conflict:
    """Which expectation failed. `answer` is that of a transaction which did not succeed."""
    expected = [op for op in ops if op.expect is not None]
    for op, response in zip(expected, answer["responses"], strict=True):
        kvs = response["response_range"].get("kvs", ())
        found = entry(names, kvs[0]).revision if kvs else 0
        if found != op.expect:
            return Conflict(op.key, op.expect or 0, found)
    raise StoreBroken("etcd refused a transaction whose expectations all hold", "Report it with etcd's version.")


def _compare(names: Names, op: Op) -> Json:
    of = {"key": names.key(op.key), "result": "EQUAL"}
    if op.expect == 0:
        return {**of, "target": "CREATE", "create_revision": "0"}
    return {**of, "target": "MOD", "mod_revision": str(op.expect)}


def _request(names: Names, op: Put | Delete) -> Json:
    if isinstance(op, Delete):
        return {"request_delete_range": {"key": names.key(op.key)}}
    put = {"key": names.key(op.key), "value": text64(op.value)}
    return {"request_put": {**put, "lease": str(lease_number(op.lease))} if op.lease else put}


def lease_number(lease: str) -> int:
    """Raises LeaseLost for what etcd cannot have granted."""
    if not lease.isdecimal() or int(lease) >= 2**63:
        raise LeaseLost(f"lease {lease!r} is not one of this etcd")
    return int(lease)


_KINDS: Sequence[tuple[str, type[GaplessError]]] = (
    ("lease not found", LeaseLost),
    ("has been compacted", Compacted),
    ("database space exceeded", StoreFull),
    ("no leader", StoreUnreachable),
    ("timed out", StoreUnreachable),
    ("leader changed", StoreUnreachable),
    ("too many requests", StoreUnreachable),
    ("server stopped", StoreUnreachable),
    ("not capable", StoreUnreachable),
)
UNAVAILABLE = 14
"""gRPC's code for a server that cannot serve now."""


def refusal(status: int, body: bytes) -> GaplessError:
    """What etcd said, as one of our errors."""
    told, code = _told(body)
    for words, kind in _KINDS:
        if words in told:
            return kind() if kind is LeaseLost else kind(f"etcd: {told}")
    if code == UNAVAILABLE:
        return StoreUnreachable(f"etcd: {told}")
    return StoreBroken(f"etcd answered {status}: {told}", "Look at its log; check the address and the user's rights.")


def _told(body: bytes) -> tuple[str, Any]:
    """The message and gRPC's code; a stream wraps them once more."""
    try:
        said = json.loads(body)
        said = said["error"] if isinstance(said["error"], dict) else said
        return str(said["message"]), said.get("code", said.get("grpc_code"))
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace"), None
