"""Asks an instance what a user has asked."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import httpcore

from gapless.core.model import Address
from gapless.core.ports import World
from gapless.gateway.mirror.answers import Answer

KEPT_BYTES = 256 << 10
"""Of a body, to be compared place by place; of a larger one only the digest is."""
READ_BYTES = 8 << 20
"""An endless answer is cut off here, on both sides alike."""
IDLE_S = 1.0
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
"""RFC 9110 §7.6.1. The encoding of the body is left out as well, so that bodies are compared and not their packing."""
LEFT_OUT = HOP_BY_HOP | {b"accept-encoding", b"content-length", b"expect"}


@dataclass(frozen=True, slots=True)
class Question:
    method: str
    target: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes = b""


class Asker:
    """Keeps connections. `limit_s`: for a whole answer."""

    def __init__(self, world: World, connections: int) -> None:
        self._world = world
        self._pool = httpcore.AsyncConnectionPool(max_connections=connections, keepalive_expiry=IDLE_S)

    async def ask(self, question: Question, address: Address, limit_s: float, *, again: bool) -> Answer:
        """Never raises: what goes wrong is the answer. `again`: ask once more when the connection fails: it may have
        been kept for too long, which is no fault of the release's."""
        answer = await self._once(question, address, limit_s)
        if again and answer.broken:
            answer = await self._once(question, address, limit_s)
        return answer

    async def _once(self, question: Question, address: Address, limit_s: float) -> Answer:
        began, broken = self._world.now(), False
        try:
            async with asyncio.timeout(limit_s):
                return await self._whole(question, address, began)
        except TimeoutError:
            cause = f"no whole answer within {limit_s:g} s"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            cause, broken = type(error).__name__, True
        except (ValueError, OSError, httpcore.UnsupportedProtocol) as error:
            cause = f"it could not be asked ({type(error).__name__})"
        return Answer(cause=cause, broken=broken, took_s=self._world.now() - began)

    async def _whole(self, question: Question, address: Address, began: float) -> Answer:
        url = httpcore.URL(scheme=b"http", host=address.host, port=address.port, target=question.target)
        headers = [(name, value) for name, value in question.headers if name.lower() not in LEFT_OUT]
        if question.body:
            headers.append((b"content-length", str(len(question.body)).encode()))
        async with self._pool.stream(question.method, url, headers=headers, content=question.body or None) as response:
            digest, kept, length = hashlib.blake2b(digest_size=16), bytearray(), 0
            async for part in response.aiter_stream():
                length += len(part)
                digest.update(part)
                kept += part if length <= KEPT_BYTES else b""
                if length > READ_BYTES:
                    break
            return Answer(
                status=response.status,
                headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers},
                body=bytes(kept) if length <= KEPT_BYTES else None,
                digest=digest.digest(),
                took_s=self._world.now() - began,
            )

    async def close(self) -> None:
        await self._pool.aclose()
