"""The network that instances are in."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from gapless.core.model.address import Address

LOOPBACK = "127.0.0.1"
THIS_MACHINE = ("127.0.0.0/8", "::1")
"""Networks that only this machine speaks from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """IP addresses: instances listen on `bind`, and everybody asks them at `advertise`."""

    bind: str = LOOPBACK
    advertise: str = LOOPBACK
    trust: tuple[str, ...] = ()
    """Addresses and networks of gateways elsewhere, whose word on where a request comes from is believed."""

    def listen(self, advertised: Address) -> Address:
        """Where an instance is to listen, that is asked there. One recorded under other settings keeps its own."""
        return Address(host=self.bind, port=advertised.port) if advertised.host == self.advertise else advertised

    @property
    def trusted(self) -> tuple[str, ...]:
        """With this machine, whose own gateway comes from the address that it asks. Empty: it alone, by loopback."""
        ours = [host for host in (self.bind, self.advertise) if not _vague(host)]
        more = dict.fromkeys((*ours, *self.trust))
        return (*THIS_MACHINE, *more) if more else ()


def _vague(host: str) -> bool:
    address = ip_address(host)
    return address.is_loopback or address.is_unspecified


ON_LOOPBACK = Network()
