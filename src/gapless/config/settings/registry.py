"""`registry:`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from gapless.config.base import Settings
from gapless.config.quantities import Duration
from gapless.config.registry import Registry
from gapless.config.settings.fields import AddressSchema, Name, address, label, text
from gapless.core.model import Address

_REGISTRY = Registry()


OFF = "off"


def _address_or_off(value: Any) -> Address | None:
    return None if value is None or value == OFF else address(value)


def _whole_seconds(value: float) -> float:
    if value != int(value) or value >= 2**31:
        raise ValueError('DNS counts in whole seconds; write for instance "5s"')
    return value


def _domain(value: str) -> str:
    for part in value.split("."):
        label(part)
    return value


class RegistrySettings(Settings):
    http: Annotated[
        Address,
        BeforeValidator(address),
        AddressSchema,
        Field(
            description="Address of Consul's HTTP API.",
            examples=["127.0.0.1:8500"],
            json_schema_extra={"default": str(_REGISTRY.http)},
        ),
    ] = _REGISTRY.http
    dns: Annotated[
        Address | None,
        BeforeValidator(_address_or_off),
        AddressSchema,
        Field(
            description="Address of DNS, UDP and TCP; `off`: names are not answered.",
            examples=["127.0.0.1:8600", OFF],
            json_schema_extra={"default": str(_REGISTRY.dns)},
        ),
    ] = _REGISTRY.dns
    node: Annotated[Name, Field(description="Name of this machine in the registry.")] = _REGISTRY.node
    datacenter: Annotated[Name, Field(description="Where it is; part of names.")] = _REGISTRY.datacenter
    zone: Annotated[
        str, BeforeValidator(text), Field(description="Zone of this machine; clients prefer their own.")
    ] = _REGISTRY.zone
    domain: Annotated[
        str, BeforeValidator(text), AfterValidator(_domain), Field(description="What all names end with.")
    ] = _REGISTRY.domain
    ttl: Annotated[
        Duration,
        AfterValidator(_whole_seconds),
        Field(description="How long others may keep what DNS answered.", examples=["5s"]),
    ] = _REGISTRY.ttl_s
    linger: Annotated[
        Duration,
        Field(
            description="How long an instance that has left it serves on before it is asked to end.", examples=["1s"]
        ),
    ] = _REGISTRY.linger_s
    only_passing: Annotated[bool, Field(description="DNS leaves out instances in warning, too.")] = (
        _REGISTRY.only_passing
    )
    script_checks: Annotated[
        bool, Field(description="Clients may register checks that are commands, which run here.")
    ] = _REGISTRY.script_checks

    def value(self) -> Registry:
        return Registry(
            http=self.http,
            dns=self.dns,
            node=self.node,
            datacenter=self.datacenter,
            zone=self.zone,
            domain=self.domain,
            ttl_s=int(self.ttl),
            linger_s=self.linger,
            only_passing=self.only_passing,
            script_checks=self.script_checks,
        )
