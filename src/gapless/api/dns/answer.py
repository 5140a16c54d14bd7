"""What is answered to a question: a pure function of the catalog, the zone's settings and a die.

The zone holds what may be asked now: an instance that is critical is not in it, and a name that leads to nobody else
does not exist (NXDOMAIN). A name that exists, but not with the type asked for, is NOERROR without an answer. Both carry
the SOA, which says how long that may be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import dns.rdataclass
from dns.rcode import NOERROR, NXDOMAIN, REFUSED
from dns.rdatatype import ANY, AXFR, CNAME, IXFR, MAILA, MAILB, NS, SOA, SRV

from gapless.api.dns import records
from gapless.api.dns.lookup import Lookup, Target, Zone
from gapless.api.dns.names import Apex, Branch, NameServer, OfAddress, OfNode, OfService, address_label, subject
from gapless.api.dns.records import Record

LEAST_ADDRESS, LEAST_SERVICE = 16, 21
"""Bytes of the shortest A and SRV records: more than n / 16 or n / 21 of them need not be made for n bytes."""
TRANSFERS = (AXFR, IXFR, MAILA, MAILB)
CLASSES = (dns.rdataclass.IN, dns.rdataclass.ANY)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """`labels`: those of the name, as they were asked, without the root's."""

    labels: tuple[bytes, ...]
    rdtype: int
    rdclass: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The sections of a response, whole: cutting them to their room is the packet's business."""

    rcode: int = NOERROR
    authoritative: bool = True
    answer: Sequence[Record] = ()
    authority: Sequence[Record] = ()
    additional: Sequence[Record] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a name that exists."""

    answer: Sequence[Record] = ()
    additional: Sequence[Record] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for at a name. `room`: bytes of the whole response."""

    owner: bytes
    rdtype: int
    room: int


class Answers:
    """`roll` is a die: uniform in [0, 1). Raises ValueError when the zone's name is none."""

    def __init__(self, lookup: Lookup, zone: Zone, roll: Callable[[], float]) -> None:
        self.zone = zone
        self._lookup, self._roll = lookup, roll
        self._datacenter = zone.datacenter.lower()
        self._suffix = tuple(zone.domain.lower().rstrip(".").encode().split(b"."))
        self._origin = _name(self._suffix)
        self._server = _name((b"ns", *self._suffix))

    def answer(self, question: Question, room: int) -> Answer:
        """`room`: the bytes that there will be for it at most."""
        if not self._is_ours(question):
            return Answer(rcode=REFUSED, authoritative=False)
        wanted = Wanted(_name(question.labels), question.rdtype, room)
        found = self._find(self._below(question), wanted)
        if found is None:
            return Answer(rcode=NXDOMAIN, authority=(self._soa(),))
        authority = () if found.answer else (self._soa(),)
        return Answer(answer=found.answer, authority=authority, additional=found.additional)

    def _is_ours(self, question: Question) -> bool:
        end = tuple(label.lower() for label in question.labels[-len(self._suffix) :])
        return end == self._suffix and question.rdclass in CLASSES and question.rdtype not in TRANSFERS

    def _below(self, question: Question) -> list[str]:
        """The labels in front of the zone's, in lower case: names are equal whatever their case (RFC 4343)."""
        own = question.labels[: -len(self._suffix)]
        return [label.decode("utf-8", "surrogateescape").lower() for label in own]

    def _find(self, labels: Sequence[str], wanted: Wanted) -> Found | None:
        match subject(labels, self._datacenter):
            case Apex():
                return self._apex(wanted)
            case NameServer():
                return _hosts(wanted, self.zone.address)
            case Branch():
                return Found()
            case OfAddress(address=address):
                return _hosts(wanted, address)
            case OfNode(node=node):
                return self._node(wanted, node)
            case OfService(service=service, tag=tag):
                return self._service(wanted, self._usable(service, tag))
        return None

    def _apex(self, wanted: Wanted) -> Found:
        soa = [self._soa()] if wanted.rdtype in (SOA, ANY) else []
        if wanted.rdtype not in (NS, ANY):
            return Found(soa)
        glue = records.addresses(self._server, [self.zone.address], ANY)
        return Found([*soa, records.name_server(self._origin, self._server)], glue)

    def _soa(self) -> Record:
        return records.authority(self._origin, self._server, self._lookup.revision, self.zone.ttl_s)

    def _node(self, wanted: Wanted, node: str) -> Found | None:
        address = self._lookup.node_address(node)
        return None if address is None else _hosts(wanted, address)

    def _usable(self, service: str, tag: str) -> list[Target]:
        statuses = ("passing",) if self.zone.only_passing else ("passing", "warning")
        return [
            target
            for target in self._lookup.targets(service)
            if target.status in statuses and (not tag or tag in map(str.lower, target.tags))
        ]

    def _service(self, wanted: Wanted, targets: Sequence[Target]) -> Found | None:
        if not targets:
            return None
        if wanted.rdtype == SRV:
            return self._ends(wanted, targets)
        hosts = shuffled(dict.fromkeys(map(_host, targets)), self._roll, wanted.room // LEAST_ADDRESS + 1)
        found = _hosts(wanted, *hosts)
        if wanted.rdtype != ANY:
            return found
        ends = self._ends(wanted, targets)
        return Found([*ends.answer, *(it for it in found.answer if it.rdtype != CNAME)], ends.additional)

    def _ends(self, wanted: Wanted, targets: Iterable[Target]) -> Found:
        """SRV records, and the addresses of what they point to."""
        # Told apart by what is cheap to compare: names are made for those alone that can be told.
        apart = {(it.address, "" if it.address else it.node, it.port): it for it in targets}
        most = wanted.room // LEAST_SERVICE + 1
        chosen = [(self._target_name(it), it) for it in shuffled(apart.values(), self._roll, most)]
        ends = [(name, it) for name, it in chosen if name is not None]
        answer = [records.service(wanted.owner, name, it.port, it.weight) for name, it in ends]
        # Once for each SRV record, also where they share a target: HAProxy (2.6) uses an address up for one server, so
        # that a newcomer on a host that it knows would get none.
        glue = [record for name, it in ends for record in self._glue(name, it)]
        return Found(answer, glue)

    def _glue(self, name: bytes, target: Target) -> Sequence[Record]:
        """The addresses of an SRV record's target; a host name that was registered is others' to resolve."""
        found = records.addresses(name, [_host(target)], ANY)
        return [record for record in found if record.rdtype != CNAME]

    def _target_name(self, target: Target) -> bytes | None:
        """A name that leads to the target's address when it is asked for in turn."""
        host = _host(target)
        ip = records.packed(host)
        if ip is None:
            return records.host_name(host)
        if not target.address and (node := self._inside(*target.node.split("."), "node")):
            return node
        # Names of nodes can be empty or too long; an address says it as well.
        return self._inside(address_label(ip), "addr")

    def _inside(self, *labels: str) -> bytes | None:
        encoded = (label.encode("utf-8", "surrogateescape") for label in (*labels, self._datacenter))
        return records.wire_name((*encoded, *self._suffix))


def _hosts(wanted: Wanted, *hosts: str) -> Found:
    return Found(records.addresses(wanted.owner, hosts, wanted.rdtype))


def _host(target: Target) -> str:
    """Its own address, or else its node's."""
    return target.address or target.node_address


def _name(labels: Iterable[bytes]) -> bytes:
    name = records.wire_name(labels)
    if name is None:
        raise ValueError(f"{b'.'.join(labels).decode(errors='replace')!r} is no name for DNS")
    return name


def shuffled(items: Iterable[T], roll: Callable[[], float], most: int) -> list[T]:
    """Up to `most` of the items, each as likely as any other, in random order (Fisher and Yates)."""
    pool = list(items)
    most = min(most, len(pool))
    for place in range(most):
        other = place + int(roll() * (len(pool) - place))
        pool[place], pool[other] = pool[other], pool[place]
    return pool[:most]
