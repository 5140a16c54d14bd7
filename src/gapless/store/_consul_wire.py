"""What is kept in Consul's KV, and Consul's JSON.

Below the store's prefix:

| key | what |
|---|---|
| `head` | the store's revision, and the number of the last batch |
| `data/KEY=` | an entry: a line with revision, creation and lease, then the value |
| `log/SLOT` | the last batches, each with every write of it: what watches and histories are told |
| `lease/ID` | a lease: time to live, keys, and a number that each renewal raises |

A key ends in `=`, so that a read of the tree below it is a read of this one key, which may be absent: Consul's plain
`get` fails a whole transaction then.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gapless.core import codec
from gapless.core.errors import ConfigError, GaplessError, StoreBroken, StoreFull, StoreUnreachable
from gapless.core.ports import Entry, Update

OPS = 64
"""Operations that Consul takes in one transaction."""
BYTES = 512 * 1024
"""Bytes that it takes in one (limits.txn_max_req_len)."""
SLOTS = 512
"""Batches that the log keeps."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    revision: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A batch in the log: the writes of the revisions above `after`, in order. `id`: whose it is."""

    batch: int
    id: str
    after: int
    groups: tuple[tuple[Update, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """`beat` is raised by each renewal. `ended`: its keys are being removed."""

    ttl_s: float
    keys: tuple[str, ...] = ()
    beat: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A key of Consul's as it stands."""

    value: bytes
    index: int


class Names:
    """Keys below the store's own prefix, so that several systems share a Consul."""

    def __init__(self, prefix: str) -> None:
        self.head = f"{prefix}head"
        self.log = f"{prefix}log/"
        self.leases = f"{prefix}lease/"
        self._data = f"{prefix}data/"

    def key(self, key: str) -> str:
        return f"{self._data}{key}="

    def below(self, prefix: str) -> str:
        return f"{self._data}{prefix}"

    def is_key(self, name: str) -> bool:
        return name.startswith(self._data) and name.endswith("=")

    def of(self, name: str) -> str:
        return name[len(self._data) : -1]

    def slot(self, batch: int) -> str:
        return f"{self.log}{batch % SLOTS:03d}"

    def lease(self, lease: str) -> str:
        return f"{self.leases}{lease}"


def packed(entry: Entry) -> bytes:
    return f"{entry.revision} {entry.created} {entry.lease}\n".encode() + entry.value


def entry(names: Names, name: str, row: Row) -> Entry:
    """Raises StoreBroken for a value that was not written by us."""
    head, _, value = row.value.partition(b"\n")
    try:
        revision, created, lease = head.decode().split(" ")
        return Entry(key=names.of(name), value=value, revision=int(revision), created=int(created), lease=lease)
    except ValueError:
        raise StoreBroken(
            f"{name!r} in Consul was not written by Gapless", "Remove it, or give the store another prefix."
        ) from None


def head(rows: Mapping[str, Row], names: Names) -> Head:
    found = rows.get(names.head)
    return codec.decode(found.value, Head) if found else Head()


def get_tree(name: str) -> Json:
    return {"KV": {"Verb": "get-tree", "Key": name}}


def cas(name: str, value: bytes, index: int) -> Json:
    """Write it if it is still at this index; 0: if it is absent."""
    return {"KV": {"Verb": "cas", "Key": name, "Value": b64encode(value).decode(), "Index": index}}


def put(name: str, value: bytes) -> Json:
    return {"KV": {"Verb": "set", "Key": name, "Value": b64encode(value).decode()}}


def delete_cas(name: str, index: int) -> Json:
    return {"KV": {"Verb": "delete-cas", "Key": name, "Index": index}}


def unchanged(name: str, index: int) -> Json:
    """Go on only if it is at this index; 0: if it is absent."""
    if not index:
        return {"KV": {"Verb": "check-not-exists", "Key": name}}
    return {"KV": {"Verb": "check-index", "Key": name, "Index": index}}


def body(ops: Sequence[Json]) -> bytes:
    return json.dumps(ops, separators=(",", ":"), ensure_ascii=False).encode()


def rows(answer: bytes) -> dict[str, Row]:
    """The keys that a transaction has read or written. Raises StoreBroken."""
    try:
        told = json.loads(answer)["Results"] or ()
        return {
            kv["Key"]: Row(b64decode(kv.get("Value") or ""), int(kv["ModifyIndex"]))
            for kv in (one["KV"] for one in told)
        }
    except (ValueError, KeyError, TypeError) as error:
        raise StoreBroken(f"Consul's answer makes no sense: {answer[:200]!r}", "Is that a Consul?") from error


_AWAY = ("no cluster leader", "leadership lost", "leader not found", "rpc error", "raft is already shutdown", "timeout")
_FULL = ("no space left", "disk is full")


def refusal(status: int, answer: bytes) -> GaplessError:
    """What Consul said, as one of our errors."""
    said = answer[:300].decode(errors="replace").strip()
    low = said.lower()
    if status in (401, 403):
        return ConfigError(
            f"Consul answered {status}: {said}",
            "Give the address a token that may read and write keys below the prefix.",
        )
    if any(words in low for words in _FULL) or status == 507:
        return StoreFull(f"Consul: {said}")
    if status in (429, 502, 503, 504) or any(words in low for words in _AWAY):
        return StoreUnreachable(f"Consul answered {status}: {said}")
    return StoreBroken(f"Consul answered {status}: {said}", "Look at its log, and check the address.")
