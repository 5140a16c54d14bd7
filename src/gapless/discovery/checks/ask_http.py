"""The HTTP check: 2xx passes, 429 warns, everything else is critical."""

from __future__ import annotations

import ssl
from urllib.parse import urljoin

import httpcore

from gapless.discovery.catalog.values import OUTPUT_BYTES, Definition, Status
from gapless.discovery.checks.ask import Result

REDIRECTS = 10
MOVED = (301, 302, 303, 307, 308)
USUAL = ((b"User-Agent", b"Gapless Health Check"), (b"Accept", b"text/plain, text/*, */*"), (b"Connection", b"close"))
ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpcore.UnsupportedProtocol)


async def ask_http(definition: Definition, context: ssl.SSLContext) -> Result:
    """Raises OSError, ValueError."""
    method, url = definition.method or "GET", definition.http
    async with httpcore.AsyncConnectionPool(ssl_context=context, max_keepalive_connections=0) as pool:
        for _ in range(REDIRECTS + 1):
            try:
                status, location, body = await _once(pool, method, url, definition)
            except ERRORS as error:
                raise OSError(f"{method} {url}: {str(error) or type(error).__name__}") from error
            if status not in MOVED or not location or definition.disable_redirects:
                break
            url = urljoin(url, location)
            method = "GET" if status == 303 else method
    return Result(_status(status), f"HTTP {method} {definition.http}: {status} Output: {body}")


async def _once(
    pool: httpcore.AsyncConnectionPool, method: str, url: str, definition: Definition
) -> tuple[int, str, str]:
    """The status, where it leads, and the beginning of the body."""
    extensions = {"sni_hostname": definition.tls_server_name} if definition.tls_server_name else {}
    headers = _headers(definition)
    content = definition.body.encode() or None
    async with pool.stream(method, url, headers=headers, content=content, extensions=extensions) as response:
        body = b""
        async for piece in response.aiter_stream():
            body += piece
            if len(body) >= OUTPUT_BYTES:
                break
        location = next((value for name, value in response.headers if name.lower() == b"location"), b"")
        return response.status, location.decode("latin-1"), body[:OUTPUT_BYTES].decode(errors="replace")


def _headers(definition: Definition) -> list[tuple[bytes, bytes]]:
    given = [(name.encode(), value.encode()) for name, values in definition.header.items() for value in values]
    known = {name.lower() for name, _ in given}
    usual = [
        (b"User-Agent", b"Gapless Health Check"),
        (b"Accept", b"text/plain, text/*, */*"),
        (b"Connection", b"close"),
    ]
    return given + [(name, value) for name, value in usual if name.lower() not in known]


def _status(status: int) -> Status:
    if 200 <= status < 300:
        return Status.PASSING
    return Status.WARNING if status == 429 else Status.CRITICAL
