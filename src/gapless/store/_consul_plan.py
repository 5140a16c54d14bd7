"""What a batch of jobs comes to in Consul, as pure functions of what was read for it.

Every write of ours moves `head` on, and only from where it was read. So all batches stand in one order, each is decided
on what the one before has left, and a batch whose answer was lost can be sent again: it is done once or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gapless.core import codec
from gapless.core.errors import GaplessError
from gapless.core.ports import Check, Entry, Put, Update
from gapless.store._consul_wire import (
    OPS,
    Chunk,
    Head,
    Json,
    Lease,
    Names,
    Row,
    cas,
    delete_cas,
    entry,
    head,
    packed,
    put,
    unchanged,
)
from gapless.store._keys import Commit, Draft, Grant, Job, Keys, Revoke, Transact

ROOM = OPS - 2
"""Operations of a transaction beside those on head and log."""
BATCH_BYTES = 96 * 1024
"""Values of a batch: they travel twice (entry and log), in base64 once and twice, within Consul's 512 KiB."""


def touched(job: Job) -> tuple[set[str], set[str]]:
    """The keys and the leases that a job is about."""
    match job:
        case Transact(ops):
            return {op.key for op in ops}, {op.lease for op in ops if isinstance(op, Put) and op.lease}
        case Grant(lease) | Revoke(lease):
            return set(), {lease}


def weight(job: Job) -> int:
    """Bytes of its values."""
    ops = job.ops if isinstance(job, Transact) else ()
    return sum(len(op.value) + len(op.key) for op in ops if isinstance(op, Put))


def fitting(jobs: Sequence[Job]) -> int:
    """How many of the jobs, from the first on, go into one transaction; at least one. Revocations go alone: what they
    remove shows only later."""
    keys: set[str] = set()
    leases: set[str] = set()
    total = 0
    for count, job in enumerate(jobs):
        more_keys, more_leases = touched(job)
        keys, leases, total = keys | more_keys, leases | more_leases, total + weight(job)
        too_much = len(keys) + len(leases) > ROOM or total > BATCH_BYTES or isinstance(job, Revoke)
        if too_much:
            return max(count, 1)
    return len(jobs)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read for a batch, by name in Consul."""

    names: Names
    rows: Mapping[str, Row]

    @property
    def head(self) -> Head:
        return head(self.rows, self.names)

    def index(self, name: str) -> int:
        row = self.rows.get(name)
        return row.index if row else 0

    def entries(self) -> Iterable[Entry]:
        return (entry(self.names, name, row) for name, row in self.rows.items() if self.names.is_key(name))

    def lease(self, lease: str) -> Lease | None:
        """Unless it has ended."""
        row = self.rows.get(self.names.lease(lease))
        found = codec.decode(row.value, Lease) if row else None
        return found if found and not found.ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`outcomes`: of each job, once `ops` are done. Without ops nothing need be written."""

    outcomes: Sequence[Commit | GaplessError]
    ops: Sequence[Json] = field(default_factory=tuple)


def planned(seen: Seen, jobs: Sequence[Job], mark: str) -> Plan:
    """The batch, decided one job after the other. `mark` tells it apart in the log."""
    leases = {one for job in jobs for one in touched(job)[1]}
    living = {one: found.ttl_s for one in leases if (found := seen.lease(one))}
    draft = Draft(Keys(seen.entries(), living, seen.head.revision))
    outcomes = [_decided(draft, job) for job in jobs]
    commits = [one for one in outcomes if isinstance(one, Commit) and not one.empty]
    if not commits:
        return Plan(outcomes=outcomes)
    ops = [*_data_ops(seen, jobs, commits), *_lease_ops(seen, commits)]
    return Plan(outcomes=outcomes, ops=[*_moved(seen, commits, mark), *ops])


def _decided(draft: Draft, job: Job) -> Commit | GaplessError:
    try:
        return draft.decide(job)
    except GaplessError as error:
        return error


def _moved(seen: Seen, commits: Sequence[Commit], mark: str) -> list[Json]:
    """Head goes on, and the log tells what was written; a batch that writes no entry leaves them alone."""
    groups = tuple(commit.updates for commit in commits if commit.changes)
    names, now = seen.names, seen.head
    if not groups:
        return []
    then = Head(revision=commits[-1].revision, batch=now.batch + 1)
    chunk = Chunk(batch=then.batch, id=mark, after=now.revision, groups=groups)
    return [
        cas(names.head, codec.encode(then), seen.index(names.head)),
        put(names.slot(then.batch), codec.encode(chunk)),
    ]


def _data_ops(seen: Seen, jobs: Sequence[Job], commits: Sequence[Commit]) -> list[Json]:
    final: dict[str, Entry | None] = {}
    for commit in commits:
        final |= commit.changes
    read_only = {op.key for job in jobs if isinstance(job, Transact) for op in job.ops if isinstance(op, Check)}
    ops = [_data_op(seen, key, now) for key, now in final.items()]
    names = (seen.names.key(key) for key in sorted(read_only - final.keys()))
    return [*ops, *(unchanged(name, seen.index(name)) for name in names)]


def _data_op(seen: Seen, key: str, now: Entry | None) -> Json:
    name = seen.names.key(key)
    index = seen.index(name)
    if now is not None:
        return cas(name, packed(now), index)
    return delete_cas(name, index) if index else unchanged(name, 0)


def _lease_ops(seen: Seen, commits: Sequence[Commit]) -> list[Json]:
    hung: dict[str, set[str]] = {}
    for commit in commits:
        for one in commit.changes.values():
            if one is not None and one.lease:
                hung.setdefault(one.lease, set()).add(one.key)
    granted = {commit.granted.lease: Lease(ttl_s=commit.granted.ttl_s) for commit in commits if commit.granted}
    ops = []
    for lease in {**granted, **hung}:
        name, known = seen.names.lease(lease), seen.lease(lease) or granted[lease]
        keys = tuple(sorted(set(known.keys) | hung.get(lease, set())))
        if lease not in granted and keys == known.keys:
            ops.append(unchanged(name, seen.index(name)))
        else:
            ops.append(cas(name, codec.encode(replace(known, keys=keys)), seen.index(name)))
    return ops


def ended(seen: Seen, lease: str, mark: str) -> tuple[Plan, bool]:
    """The end of a lease, whose keys (as many as fit) were read, and whether more of them are left for another turn:
    then nobody can hang on it any more, and nobody can renew it."""
    name = seen.names.lease(lease)
    known = codec.decode(seen.rows[name].value, Lease)
    some, rest = known.keys[: ROOM - 1], known.keys[ROOM - 1 :]
    hanging = {one.key for one in seen.entries() if one.lease == lease}
    gone: dict[str, Entry | None] = {key: None for key in some if key in hanging}
    commit = Commit(revision=seen.head.revision + bool(gone), changes=gone, ended=lease)
    record = (
        cas(name, codec.encode(replace(known, keys=rest, ended=True)), seen.index(name))
        if rest
        else delete_cas(name, seen.index(name))
    )
    ops = [*_moved(seen, [commit], mark), *_data_ops(seen, (), [commit]), record]
    return Plan(outcomes=[commit], ops=ops), bool(rest)


def updates(chunks: Iterable[Chunk], after: int, until: int) -> list[tuple[Update, ...]]:
    """The groups in (after, until], by revision."""
    groups = (group for chunk in sorted(chunks, key=lambda one: one.batch) for group in chunk.groups)
    return [group for group in groups if after < group[0].revision <= until]
