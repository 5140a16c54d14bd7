"""The servers of an etcd cluster, asked over their HTTP gateway, with a user where there must be one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpcore

from gapless.core.errors import ConfigError
from gapless.store._etcd_wire import refusal
from gapless.store._servers import BROKEN, CALL_S, Address, Form, Headers, Reply, Servers

ETCD = Form(
    kind="etcd",
    scheme="etcd",
    port=2379,
    prefix="/gapless/",
    usage="Write etcd://HOST:2379[,HOST:2379…][/PREFIX/][?ca=FILE&cert=FILE&key=FILE], or etcds:// for TLS.",
)
_UNAUTHENTICATED = ("invalid auth token", "user name is empty")


class EtcdServers(Servers):
    """`Servers` in etcd's words."""

    def __init__(self, where: Address) -> None:
        super().__init__(where)
        self._user, self._password = where.user, where.password
        self._token = ""

    async def call(self, path: str, body: Mapping[str, Any], *, again: bool, limit_s: float = CALL_S) -> dict[str, Any]:
        """The answer. `again`: asking twice does no harm. `limit_s` is for each server. Raises as `Servers.first`, and
        what `refusal` makes of etcd's errors."""

        async def ask(server: int) -> dict[str, Any]:
            reply = await self._ask(server, path, body, limit_s)
            if reply.status != 200:
                raise refusal(reply.status, reply.body)
            return _parsed(reply.body)

        return await self.first(ask, again=again)

    async def ask(self, server: int, path: str, body: Mapping[str, Any]) -> bool:
        """Whether this very server answers."""
        try:
            return (await self._ask(server, path, body)).status == 200
        except BROKEN:
            return False

    @asynccontextmanager
    async def told(self, server: int, path: str, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[Any]]:
        """The documents that a server sends for as long as it does. Raises BROKEN."""
        async with self.stream(server, "POST", f"/v3/{path}", self._headers(), _body(body)) as answer:
            yield _documents(answer)

    async def _ask(self, server: int, path: str, body: Mapping[str, Any], limit_s: float = CALL_S) -> Reply:
        reply = await self._post(server, path, body, limit_s)
        if self._user and any(words.encode() in reply.body for words in _UNAUTHENTICATED) and reply.status != 200:
            await self._authenticate(server)
            reply = await self._post(server, path, body, limit_s)
        return reply

    async def _authenticate(self, server: int) -> None:
        self._token = ""
        account = {"name": self._user, "password": self._password}
        reply = await self._post(server, "auth/authenticate", account, CALL_S)
        if reply.status != 200:
            raise ConfigError(f"etcd does not let {self._user!r} in", "Check user and password in the address.")
        self._token = _parsed(reply.body)["token"]

    async def _post(self, server: int, path: str, body: Mapping[str, Any], limit_s: float) -> Reply:
        return await self.request(server, "POST", f"/v3/{path}", self._headers(), _body(body), limit_s)

    def _headers(self) -> Headers:
        known = [(b"content-type", b"application/json")]
        return [*known, (b"authorization", self._token.encode())] if self._token else known


def _body(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _parsed(body: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(body)
    return parsed


async def _documents(answer: httpcore.Response) -> AsyncIterator[Any]:
    rest = b""
    async for chunk in answer.aiter_stream():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)
