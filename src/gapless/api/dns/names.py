"""What a name asks for: `[tag.]name.service[.dc]`, `_name._tag.service[.dc]`, `node.node[.dc]`, `<hex>.addr[.dc]`, each
below the zone (pure). The forms are those of Consul."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

NO_TAG = "tcp"
"""`_name._tcp` is RFC 2782's way of saying that any instance will do."""
_DIGITS = re.compile("[0-9a-f]{8}|[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Apex:
    """The zone itself."""


@dataclass(frozen=True, slots=True)
class NameServer:
    """`ns`: where the zone is served."""


@dataclass(frozen=True, slots=True)
class Branch:
    """It holds nothing itself, and names may exist below it: no data, but no NXDOMAIN either (RFC 8020)."""


@dataclass(frozen=True, slots=True)
class OfService:
    service: str
    tag: str = ""


@dataclass(frozen=True, slots=True)
class OfNode:
    node: str


@dataclass(frozen=True, slots=True)
class OfAddress:
    """An address written as a name, so that an SRV record can point to it."""

    address: str


Subject = Apex | NameServer | Branch | OfService | OfNode | OfAddress


def subject(labels: Sequence[str], datacenter: str) -> Subject | None:
    """What the labels in front of the zone's name ask for; both arguments in lower case. None: no such name can be."""
    if not labels:
        return Apex()
    if list(labels) == ["ns"]:
        return NameServer()
    return _below(_without(labels, datacenter))


def _without(labels: Sequence[str], datacenter: str) -> Sequence[str]:
    """Without the data centre, which is ours when none is given. Its name alone is the branch of all that is in it."""
    named = labels[-1] == datacenter and (len(labels) == 1 or labels[-2] in _KINDS)
    return labels[:-1] if named else labels


def _below(labels: Sequence[str]) -> Subject | None:
    if not labels:
        return Branch()
    *rest, kind = labels
    read = _KINDS.get(kind)
    if read is None:
        return None
    return read(rest) if rest else Branch()


def _service(labels: Sequence[str]) -> Subject | None:
    *before, last = labels
    if not last.startswith("_"):
        return OfService(service=last, tag=".".join(before))
    if not before:
        return Branch()
    if len(before) == 1 and before[0].startswith("_"):
        tag = last.removeprefix("_")
        return OfService(service=before[0].removeprefix("_"), tag="" if tag == NO_TAG else tag)
    return None


def _node(labels: Sequence[str]) -> Subject:
    return OfNode(".".join(labels))


def _address(labels: Sequence[str]) -> Subject | None:
    if len(labels) != 1 or not _DIGITS.fullmatch(labels[0]):
        return None
    return OfAddress(str(ipaddress.ip_address(bytes.fromhex(labels[0]))))


_KINDS = {"service": _service, "node": _node, "addr": _address}


def address_label(ip: bytes) -> str:
    """The label below `addr` that leads to an IP address of 4 or 16 bytes."""
    return ip.hex()
