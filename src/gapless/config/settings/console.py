"""`console:`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from gapless.config.base import Settings
from gapless.config.console import LISTEN, Console
from gapless.config.settings.fields import AddressSchema, address, text
from gapless.core.model import Address

OFF = "off"


def console_or_off(value: Any) -> Any:
    """`off`: none; nothing written behind the key: the usual one."""
    if value == OFF:
        return None
    return {} if value is None else value


def _host(value: Any) -> str:
    name = text(value).lower()
    if not name or any(sign in name for sign in ":/ "):
        raise ValueError('a host name without scheme and port; write for instance "console.example.com"')
    return name


class ConsoleSettings(Settings):
    listen: Annotated[
        Address | None,
        BeforeValidator(lambda value: None if value is None else address(value)),
        AddressSchema,
        Field(
            description="Address of the web console. Left out: the usual one, or the next port that is free.",
            examples=[str(LISTEN)],
            json_schema_extra={"default": str(LISTEN)},
        ),
    ] = None
    hosts: Annotated[
        tuple[Annotated[str, BeforeValidator(_host)], ...],
        Field(description="Names that it is opened by, beside its address.", examples=[["console.example.com"]]),
    ] = ()

    def value(self) -> Console:
        return Console(listen=self.listen, hosts=self.hosts)
