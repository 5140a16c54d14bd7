"""Notices by HTTP: webhooks, and Slack's incoming ones."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from gapless.core.model.notice import Channel
from gapless.core.ports import World
from gapless.observe.notice_queue import Attempt, Batch
from gapless.observe.notice_sign import HEADER, signature
from gapless.observe.notice_words import as_json, as_slack

AGAIN = frozenset({408, 425, 429})
"""Client errors that time heals; all others of 4xx say that it would be refused for ever."""
SAID = 200
"""Bytes of an answer that are shown to people."""


async def send_webhook(channel: Channel, batch: Batch, secrets: Mapping[str, str], world: World) -> Attempt:
    """POST the notice, signed. `secrets`: the channel's texts with their references resolved."""
    body = msgspec.json.encode(as_json(batch.message, batch.told))
    headers = {"Content-Type": "application/json", "User-Agent": "gapless", **_identity(batch)}
    headers |= {name: secrets[f"headers.{name}"] for name in channel.headers}
    if secret := secrets["secret"]:
        headers[HEADER] = signature(secret, body, world.time())
    return await _post(secrets["webhook"], body, headers, channel.timeout_s, world)


async def send_slack(channel: Channel, batch: Batch, secrets: Mapping[str, str], world: World) -> Attempt:
    """POST it in Slack's form, which knows no signatures: the URL is the secret."""
    body = msgspec.json.encode(as_slack(batch.message))
    return await _post(secrets["slack"], body, {"Content-Type": "application/json"}, channel.timeout_s, world)


def _identity(batch: Batch) -> dict[str, str]:
    """The same at every attempt: a receiver leaves out what it has seen."""
    return {"X-Gapless-Id": batch.message.id, "Idempotency-Key": batch.message.id}


async def _post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, world: World) -> Attempt:
    import httpcore

    limits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)}
    try:
        async with (
            httpcore.AsyncConnectionPool() as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body, extensions=limits) as response,
        ):
            said = await _beginning(response)
            return outcome(response.status, _header(response, b"retry-after"), said, world.time())
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
        return Attempt(ok=False, error=f"{type(error).__name__}: {error}".rstrip(": "))
    except (httpcore.UnsupportedProtocol, ValueError) as error:
        return Attempt(ok=False, final=True, error=f"the URL cannot be asked: {error}")


async def _beginning(response: Any) -> str:
    """Of an answer without end no more is read than what is shown."""
    said = b""
    async for chunk in response.aiter_stream():
        said += chunk
        if len(said) >= SAID:
            break
    return said[:SAID].decode(errors="replace").strip()


def _header(response: Any, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def outcome(status: int, retry_after: str, said: str, now_at: float) -> Attempt:
    """What an answer means. A redirection is not followed: a notice may hold what the next host must not see."""
    if 200 <= status < 300:
        return Attempt(ok=True)
    final = 300 <= status < 500 and status not in AGAIN
    error = f"it answered {status}{f': {said}' if said else ''}"
    return Attempt(ok=False, error=error, final=final, after_s=retry_after_s(retry_after, now_at))


def retry_after_s(value: str, now_at: float) -> float:
    """RFC 9110 §10.2.3: seconds or a date; of anything else nothing."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(parsedate_to_datetime(value).timestamp() - now_at, 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0
