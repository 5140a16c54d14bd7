"""Parts of rows that are alike, once. A hundred instances of a service have the same tags, the same meta and the same
check: decoding makes each of them anew, a kilobyte for each instance."""

from __future__ import annotations

from collections.abc import Hashable
from sys import intern
from typing import TypeVar

import msgspec
from msgspec.structs import force_setattr

from gapless.discovery.catalog.values import Check, Instance

MOST = 4_096
"""Parts that are remembered. When there are more, it begins anew: what was shared stays so."""

T = TypeVar("T")


class Shared:
    """Of equal parts the first. They are frozen, or by convention never written to."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, object] = {}

    def instance(self, instance: Instance) -> None:
        """Put the shared parts in place of its own."""
        force_setattr(instance, "tags", self._tags(instance.tags))
        force_setattr(instance, "meta", self._one(("meta", *sorted(instance.meta.items())), instance.meta))

    def check(self, check: Check) -> None:
        """As `instance`."""
        force_setattr(check, "service_tags", self._tags(check.service_tags))
        force_setattr(check, "definition", self._one(msgspec.json.encode(check.definition), check.definition))
        force_setattr(check, "status", intern(check.status))
        force_setattr(check, "type", intern(check.type))

    def _tags(self, tags: tuple[str, ...]) -> tuple[str, ...]:
        return self._one(tags, tags)

    def _one(self, key: Hashable, part: T) -> T:
        if len(self._parts) >= MOST:
            self._parts.clear()
        shared: T = self._parts.setdefault(key, part)  # type: ignore[assignment] # equal keys, equal types
        return shared
