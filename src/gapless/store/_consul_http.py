"""The servers of a Consul, asked over their HTTP API: transactions, and reads that wait."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from gapless.store._consul_wire import BYTES, OPS, Json, Row, body, get_tree, refusal, rows
from gapless.store._servers import CALL_S, Address, Form, Headers, Servers

CONSUL = Form(
    kind="Consul",
    scheme="consul",
    port=8500,
    prefix="/gapless/",
    usage="Write consul://HOST:8500[,HOST:8500…][/PREFIX/][?token=…&ca=FILE&cert=FILE&key=FILE]; consuls:// for TLS.",
    options=frozenset({"token"}),
)
WAIT_S = 5.0
"""How long a read waits for news: a server that hangs is left after that."""
LATE_S = 2.0
"""Consul waits up to a sixteenth longer than it was asked to, and answers need their time."""


class ConsulServers(Servers):
    """`Servers` in Consul's words."""

    def __init__(self, where: Address) -> None:
        super().__init__(where)
        token = [(b"x-consul-token", where.token.encode())] if where.token else []
        self._headers: Headers = [(b"content-type", b"application/json"), *token]

    async def read(self, names: Iterable[str], limit_s: float = CALL_S) -> dict[str, Row]:
        """All keys that begin with one of the names, as they stood at one moment (of up to 64 names). Raises
        StoreUnreachable, ConfigError, StoreBroken."""
        found: dict[str, Row] = {}
        wanted = list(names)
        for first in range(0, len(wanted), OPS):
            some = [get_tree(name) for name in wanted[first : first + OPS]]
            status, answer = await self._txn(some, limit_s)
            if status != 200:
                raise refusal(status, answer)
            found |= rows(answer)
        return found

    async def write(self, ops: Sequence[Json], limit_s: float = CALL_S) -> dict[str, Row] | None:
        """Do all of it; None when an expectation failed. It is asked again of the next server when an answer is lost:
        the caller's expectations must make it harmless to do twice. Raises as `read`, and ValueError for too much at
        once."""
        status, answer = await self._txn(ops, limit_s)
        if status == 409:
            return None
        if status == 413:
            said = answer[:200].decode(errors="replace")
            raise ValueError(f"a transaction is too large for Consul, which takes {BYTES >> 10} KiB at once: {said}")
        if status != 200:
            raise refusal(status, answer)
        return rows(answer)

    async def wait(self, name: str, index: int) -> int:
        """Returns the index of the key, at once or as soon as it is another one than `index`, or after WAIT_S. Of the
        current server only. Raises BROKEN, and what `refusal` makes of Consul's errors."""
        target = f"/v1/kv/{quote(name)}?index={index}&wait={WAIT_S:g}s"
        limit_s = WAIT_S * (1 + 1 / 16) + LATE_S
        reply = await self.request(self.current, "GET", target, self._headers, b"", limit_s)
        if reply.status not in (200, 404):
            raise refusal(reply.status, reply.body)
        told = next((int(value) for field, value in reply.headers if field.lower() == b"x-consul-index"), 0)
        # As Consul's documentation demands: one that goes backwards, or is nothing, begins anew.
        return told if told >= index else 0

    async def _txn(self, ops: Sequence[Json], limit_s: float) -> tuple[int, bytes]:
        content = body(ops)

        async def ask(server: int) -> tuple[int, bytes]:
            reply = await self.request(server, "PUT", "/v1/txn", self._headers, content, limit_s)
            if reply.status not in (200, 409, 413):
                raise refusal(reply.status, reply.body)
            return reply.status, reply.body

        return await self.first(ask, again=True)
