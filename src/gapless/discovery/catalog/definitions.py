"""What a check must say to be one, which kind it is, and what it is called when nobody named it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from msgspec import structs

from gapless.core.duration import parse_duration
from gapless.discovery.catalog.errors import Invalid
from gapless.discovery.catalog.values import WORSE, Check, Definition, Instance, cut

_parsed = lru_cache(maxsize=1024)(parse_duration)
"""Registrations by the thousand say the same few durations."""

ASKED = ("script", "http", "tcp", "grpc")
"""Kinds that the registry runs at intervals."""


def kind_of(definition: Definition) -> str:
    """script, http, tcp, grpc, alias or ttl; empty for a check that only others update."""
    asked = (definition.args, definition.http, definition.tcp, definition.grpc)
    for kind, given in zip(ASKED, asked, strict=True):
        if given:
            return kind
    if definition.alias_node or definition.alias_service:
        return "alias"
    return "ttl" if definition.ttl else ""


def validate(definition: Definition) -> None:
    """Raises Invalid, with Consul's words, for a definition that an agent could not act on."""
    kind, interval_s, ttl_s = kind_of(definition), _seconds(definition, "interval"), _seconds(definition, "ttl")
    _seconds(definition, "timeout")
    _seconds(definition, "deregister_after")
    if interval_s > 0 and ttl_s > 0:
        raise Invalid("Invalid check: Interval and TTL cannot both be specified")
    if kind in ASKED and interval_s <= 0:
        raise Invalid("Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks")
    if kind not in (*ASKED, "alias") and ttl_s <= 0:
        raise Invalid("Invalid check: TTL must be > 0 for TTL checks")
    if definition.output_max_bytes < 0:
        raise Invalid("Invalid check: MaxOutputMaxSize must be positive")


def validate_status(status: str) -> None:
    """Raises Invalid."""
    if status not in WORSE:
        raise Invalid(f"Bad check status: {status!r} is none of passing, warning, critical")


def of_instance(checks: Sequence[Check], instance: Instance, node: str) -> tuple[Check, ...]:
    """The checks of a registration, with the ids and names that Consul gives them. Raises Invalid."""
    several = len(checks) > 1
    return tuple(
        _completed(check, instance, node, f"service:{instance.id}{f':{number}' if several else ''}")
        for number, check in enumerate(checks, start=1)
    )


def of_node(check: Check, node: str) -> Check:
    """A check that was registered for itself, not bound to an instance. Raises Invalid."""
    validate(check.definition)
    validate_status(check.status)
    return structs.replace(
        check,
        node=node,
        id=check.id or check.name,
        output=cut(check.output),
        type=check.type or kind_of(check.definition),
    )


def bound(check: Check, instance: Instance) -> Check:
    """The check, as one of the instance."""
    return structs.replace(check, service_id=instance.id, service=instance.service, service_tags=instance.tags)


def _completed(check: Check, instance: Instance, node: str, default_id: str) -> Check:
    named = structs.replace(check, id=check.id or default_id, name=check.name or f"Service '{instance.service}' check")
    return bound(of_node(named, node), instance)


def _seconds(definition: Definition, name: str) -> float:
    text = getattr(definition, name)
    try:
        return _parsed(text) if text else 0.0
    except ValueError as error:
        raise Invalid(f"Invalid check: {name}: {error}") from error
