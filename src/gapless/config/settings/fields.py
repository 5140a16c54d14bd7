"""Types of keys that several parts of the file use."""

from __future__ import annotations

import ipaddress
import re
import shlex
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from gapless.core.model import Address

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


_APP = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def label(value: str) -> str:
    """A DNS label (RFC 1123): names are part of host names, header values and file names. Raises ValueError."""
    if not _LABEL.fullmatch(value):
        raise ValueError("a name has 1 to 63 characters: lower-case letters, digits and inner hyphens")
    return value


def address(value: Any) -> Address:
    """`host:port`, `[::1]:port`, `:port` or a port alone, which mean loopback. Raises ValueError."""
    host, _, port = str(value).strip().rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError('not an address with a port from 1 to 65535; write for instance "127.0.0.1:8080"')
    host = host.strip("[]") or "127.0.0.1"
    if host == "localhost":
        host = "127.0.0.1"
    try:
        return Address(host=str(ipaddress.ip_address(host)), port=int(port))
    except ValueError:
        raise ValueError(f"{host} is not an IP address; write 127.0.0.1, or 0.0.0.0 for every interface") from None


def variable(value: str) -> str:
    """The name of an environment variable. Raises ValueError."""
    if not _VARIABLE.fullmatch(value):
        raise ValueError("not a name for an environment variable: letters, digits and underscores")
    if value.startswith("GAPLESS_"):
        raise ValueError("names that begin with GAPLESS_ are set by Gapless itself")
    return value


def text(value: Any) -> str:
    if value is None:
        raise ValueError('there is no value; write "" for an empty one')
    if isinstance(value, (dict, list)):
        raise ValueError("not plain text")
    return str(value)


def words(value: Any) -> Any:
    return shlex.split(value) if isinstance(value, str) else value


def word(value: Any) -> str:
    if isinstance(value, dict):
        raise ValueError('braces need quotes in a list: "{port}"')
    return text(value)


def route_path(value: str) -> str:
    if not value.startswith("/") or any(sign in value for sign in "?# "):
        raise ValueError('a path begins with "/", and has no query, fragment or blank')
    return value


def app_name(value: str) -> str:
    if not _APP.fullmatch(value):
        raise ValueError('not "module:attribute", for instance "shop:app"')
    return value


Name = Annotated[str, BeforeValidator(lambda value: label(text(value))), Field(pattern=f"^{_LABEL.pattern}$")]


Variable = Annotated[str, BeforeValidator(variable)]


Text = Annotated[
    str,
    BeforeValidator(text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]}),
]


Command = Annotated[
    tuple[Annotated[str, BeforeValidator(word)], ...],
    BeforeValidator(words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


AddressSchema = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1, "maximum": 65_535}]})
