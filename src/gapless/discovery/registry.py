"""Who can be asked: endpoints as leased keys `registry/<service>/<id>`, gone when nobody renews them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from gapless.core.codec import decode, encode
from gapless.core.errors import LeaseLost
from gapless.core.model import Endpoint
from gapless.core.ports import Store

PREFIX = "registry/"
TTL_S = 10.0
"""A process that died without deregistering is listed for so long at most; callers find out sooner by themselves."""

_log = logging.getLogger("gapless.registry")


def key_of(service: str, instance: str) -> str:
    """Raises ValueError for names that would reach outside their place."""
    for name in (service, instance):
        if not name or "/" in name:
            raise ValueError(f"{name!r} cannot be a name in the registry: it must not be empty or contain '/'")
    return f"{PREFIX}{service}/{instance}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A registered endpoint and the lease that it lives by."""

    service: str
    endpoint: Endpoint
    lease: str
    ttl_s: float

    @property
    def key(self) -> str:
        return key_of(self.service, self.endpoint.instance)


class Registry:
    """Registrations on a store. Raises what the store raises."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def register(self, service: str, endpoint: Endpoint, ttl_s: float = TTL_S) -> Registration:
        """Make it known; acknowledged means durable. The same instance again replaces its entry and its lease."""
        key = key_of(service, endpoint.instance)
        lease = await self._store.grant(ttl_s)
        made = Registration(service=service, endpoint=endpoint, lease=lease, ttl_s=ttl_s)
        before = await self._store.get(key)
        await self._store.put(key, encode(endpoint), lease=lease)
        if before is not None and before.lease:
            await self._store.revoke(before.lease)
        return made

    async def renew(self, registration: Registration) -> Registration:
        """Keep it alive; registers it again when the lease was lost meanwhile. Returns what to renew next time."""
        try:
            await self._store.renew(registration.lease)
        except LeaseLost:
            _log.warning("the lease of %s was lost; registering again", registration.key)
            return await self.register(registration.service, registration.endpoint, registration.ttl_s)
        return registration

    async def deregister(self, registration: Registration) -> None:
        """Remove it at once; no error when it has gone already."""
        await self._store.revoke(registration.lease)

    async def list(self, service: str) -> Sequence[Endpoint]:
        """Who is registered now, by instance."""
        listing = await self._store.list(f"{PREFIX}{service}/")
        return tuple(decode(entry.value, Endpoint) for entry in listing.entries)
