"""`network:`: where the instances of the system listen, and who is to reach them there."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from gapless.config.base import Settings
from gapless.config.settings.fields import text
from gapless.core.model import Network
from gapless.core.model.network import ON_LOOPBACK
from gapless.core.networks import network


def _host(value: Any) -> str:
    """An IP address without a port. Raises ValueError."""
    found = text(value).strip().strip("[]")
    if found == "localhost":
        return ON_LOOPBACK.bind
    try:
        address = ip_address(found)
    except ValueError:
        raise ValueError(f'{found} is not an IP address (without a port); write for instance "10.0.0.5"') from None
    if address.is_multicast or address.is_link_local:
        raise ValueError(f"{found} is not reached from other machines as it stands; give another address")
    return str(address)


class NetworkSettings(Settings):
    bind: Annotated[
        str,
        BeforeValidator(_host),
        Field(
            description="IP address of this machine on which instances listen; `0.0.0.0` or `::` is every one.",
            examples=["10.0.0.5", "0.0.0.0"],  # noqa: S104 what people may write
        ),
    ] = ON_LOOPBACK.bind
    advertise: Annotated[
        str,
        BeforeValidator(_host),
        Field(
            description="IP address at which gateways, callers and the registry find them. Left out: that of `bind`.",
            examples=["10.0.0.5"],
        ),
    ] = ""
    trust: Annotated[
        tuple[Annotated[str, BeforeValidator(lambda value: network(text(value)))], ...],
        Field(
            description="Addresses or networks of gateways elsewhere, whose `x-forwarded-for` is believed.",
            examples=[["10.0.0.0/24"]],
        ),
    ] = ()

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        bind, advertise = ip_address(self.bind), ip_address(self.advertise or self.bind)
        if advertise.is_unspecified:
            raise ValueError(
                f"{advertise} is no address that others can ask: give advertise, the address of this machine at which "
                "they reach it"
            )
        if bind.version != advertise.version:
            raise ValueError(f"{bind} and {advertise} are of different families; bind :: belongs with one of IPv6")
        if bind.is_loopback and not advertise.is_loopback:
            raise ValueError(f"nobody reaches {advertise} when instances listen on {bind}; bind {advertise} itself")
        return self

    def value(self) -> Network:
        return Network(bind=self.bind, advertise=self.advertise or self.bind, trust=self.trust)
