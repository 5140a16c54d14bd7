"""One request to an instance's admin socket: plain HTTP/1.1 on asyncio's streams, because there is nothing to pool."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

HEAD_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str


async def get(socket: Path, target: str, limit_s: float, accept: str = "*/*") -> Answer:
    """As `post`."""
    head = f"GET {target} HTTP/1.1\r\nhost: admin\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
    return await _ask(socket, head, limit_s)


async def post(socket: Path, target: str, limit_s: float) -> Answer:
    """Raises OSError when nobody listens, TimeoutError, and ConnectionError when the answer is cut or is no HTTP."""
    head = f"POST {target} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    return await _ask(socket, head, limit_s)


async def _ask(socket: Path, head: str, limit_s: float) -> Answer:
    async with asyncio.timeout(limit_s):
        reader, writer = await asyncio.open_unix_connection(str(socket), limit=HEAD_LIMIT)
        try:
            writer.write(head.encode())
            await writer.drain()
            return await _read(reader)
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Answer:
    try:
        status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
        body = await _read_body(reader, headers)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise ConnectionError(f"the answer was cut or is no HTTP: {error}") from error
    return Answer(status, body.decode(errors="replace").strip())


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers (names in lower case). Raises ValueError."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    version, status, *_ = (*first.split(" ", 2), "")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not HTTP/1: {first!r}")
    fields = (line.partition(":") for line in lines)
    return int(status), {name.strip().lower(): value.strip() for name, _, value in fields}


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunks(reader)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return body
