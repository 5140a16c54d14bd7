"""The past of a key, as a watch that begins at the cluster's own past tells it.

etcd has no question for this, and its watches have no end. The end of a key that exists is its own last revision. A key
that does not exist gets a fence beside it, a key of ours that is written and removed: the watch hears of both, in
order.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gapless.core.errors import StoreUnreachable
from gapless.core.ports import Entry, Update
from gapless.store._etcd_http import EtcdServers
from gapless.store._etcd_wire import FENCE, Names, groups
from gapless.store._servers import BROKEN, CALL_S


async def writes(servers: EtcdServers, names: Names, key: str, now: Entry | None) -> list[Update]:
    """Those that are not compacted, oldest first. `now` is how the key stands. Raises StoreUnreachable."""
    until = now.revision if now else await _fence(servers, names, key)
    found, compacted = await _told(servers, names, key, 0, until)
    if compacted and now and now.revision <= compacted:
        return [Update(key=key, value=now.value, revision=now.revision)]
    if compacted:
        found, _ = await _told(servers, names, key, compacted, until)
    return found


async def _fence(servers: EtcdServers, names: Names, key: str) -> int:
    fence = {"key": names.key(key + FENCE)}
    put = await servers.call("kv/put", fence, again=True)
    await servers.call("kv/deleterange", fence, again=True)
    return int(put["header"]["revision"])


async def _told(servers: EtcdServers, names: Names, key: str, after: int, until: int) -> tuple[list[Update], int]:
    """The writes in (after, until], or the revision at which the cluster was compacted if that is above `after`."""
    create = {"key": names.key(key), "range_end": names.key(key + FENCE * 2), "start_revision": str(after + 1)}
    found: list[Update] = []
    try:
        async with (
            asyncio.timeout(CALL_S),
            servers.told(servers.current, "watch", {"create_request": create}) as documents,
        ):
            async for document in documents:
                result: dict[str, Any] = document["result"]
                if "compact_revision" in result:
                    return [], int(result["compact_revision"])
                events = result.get("events", ())
                found += [update for group in groups(names, events) for update in group]
                if events and int(events[-1]["kv"]["mod_revision"]) >= until:
                    return found, 0
    except (*BROKEN, TimeoutError) as error:
        raise StoreUnreachable(f"etcd did not tell the history of {key!r}: {error!r}") from error
    raise StoreUnreachable(f"etcd broke off while it told the history of {key!r}")
