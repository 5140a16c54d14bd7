"""A catalog in a dictionary, and questions to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype

from gapless.api.dns.answer import Answers
from gapless.api.dns.lookup import Lookup, Target, Zone
from gapless.api.dns.wire import reply
from gapless.testing import FakeWorld


@dataclass
class FakeLookup:
    services: dict[str, list[Target]] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    revision: int = 7

    def targets(self, service: str) -> Sequence[Target]:
        return self.services.get(service, ())

    def node_address(self, node: str) -> str | None:
        return self.nodes.get(node)


def target(number: int, **more: Any) -> Target:
    given = {"node": f"n{number}", "node_address": f"10.0.0.{number}", "port": 8000 + number, **more}
    return Target(**given)


def catalog(*targets: Target, service: str = "web") -> FakeLookup:
    return FakeLookup({service: list(targets)}, {it.node: it.node_address for it in targets})


def answers(lookup: Lookup, **zone: Any) -> Answers:
    return Answers(lookup, Zone(**zone), FakeWorld().random)


def ask(lookup: Lookup, name: str, rdtype: str = "A", **zone: Any) -> dns.message.Message:
    """The response, as it arrives over TCP."""
    wire = reply(answers(lookup, **zone), dns.message.make_query(name, rdtype).to_wire(), payload=None)
    assert wire is not None
    return dns.message.from_wire(wire)


def texts(section: Sequence[Any]) -> list[str]:
    """Records as `name TYPE data`, in alphabetical order."""
    lines = [(rrset, rdata) for rrset in section for rdata in rrset]
    return sorted(f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}" for rrset, rdata in lines)


def summary(response: dns.message.Message) -> tuple[str, list[str], list[str]]:
    """The code, the answers, and which types are in the authority section."""
    types = [dns.rdatatype.to_text(rrset.rdtype) for rrset in response.authority]
    return dns.rcode.to_text(response.rcode()), texts(response.answer), types
