"""Reads a stream of the control plane from its Unix socket: HTTP/1.1, chunked, one JSON document per line (RFC 9112
§7.1); and answers it, each time on a connection of its own.

Written on asyncio's streams because it is a dozen lines there, and a service that only listens should not load an HTTP
client for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

DISCOVERY = "/v1/discovery"
HEADERS = "Host: gapless\r\nAccept: application/x-ndjson\r\nConnection: close\r\n"
LARGEST_CHUNK = 64 * 1024 * 1024
"""A table of 100,000 endpoints is a third of it: more is not a table."""


async def open_stream(path: str, target: str = DISCOVERY) -> AsyncGenerator[bytes]:
    """The documents as they come. Raises OSError (nobody there, not 200, nonsense) and EOFError (it ended)."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\n{HEADERS}\r\n".encode())
        await writer.drain()
        await _head(reader, path, f"GET {target}")
        rest = b""
        while True:
            *documents, rest = (rest + await _chunk(reader, path)).split(b"\n")
            for document in documents:
                if document.strip():
                    yield document
    except ValueError as error:
        raise OSError(f"{path} does not speak chunked HTTP: {error}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def send(path: str, target: str, document: bytes) -> None:
    """POST a JSON document. Raises OSError (nobody there, not 200) and EOFError (no answer)."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        length = f"Content-Type: application/json\r\nContent-Length: {len(document)}\r\n"
        writer.write(f"POST {target} HTTP/1.1\r\n{HEADERS}{length}\r\n".encode() + document)
        await writer.drain()
        await _head(reader, path, f"POST {target}")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _head(reader: asyncio.StreamReader, path: str, asked: str) -> None:
    status = await _line(reader)
    if status.split(b" ")[1:2] != [b"200"]:
        raise OSError(f"{path} answered {status.decode('latin-1').strip()!r} to {asked}")
    while await _line(reader):
        pass


async def _chunk(reader: asyncio.StreamReader, path: str) -> bytes:
    size = int((await _line(reader)).partition(b";")[0], 16)
    if size == 0:
        raise EOFError(f"{path} ended the stream")
    if size > LARGEST_CHUNK:
        raise OSError(f"{path} sent a chunk of {size} bytes")
    data = await reader.readexactly(size)
    await reader.readexactly(2)
    return data


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the connection ended")
    return line.rstrip(b"\r\n")
