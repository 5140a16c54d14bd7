"""One call to a service: what is asked, whom, and what follows from each answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gapless.core.model import Endpoint, ServiceTable
from gapless.discovery.load import Outcome
from gapless.resilience import retry

CARRIED = (b"traceparent", b"tracestate", b"x-user-id")
"""Headers of the request being served that its own calls carry on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try and how it ended."""

    endpoint: Endpoint
    outcome: Outcome
    detail: str

    def __str__(self) -> str:
        return f"{self.endpoint.instance} at {self.endpoint.address}: {self.detail}"


def headers_of(
    given: Mapping[str, str] | None,
    inbound: Mapping[bytes, bytes],
    *,
    request_id: str,
    user: str,
    idempotency_key: str,
    json: bool,
) -> dict[bytes, bytes]:
    """The headers of a call, by lower-case name: inherited ones, then the caller's, then those of its arguments."""
    headers = {name: inbound[name] for name in CARRIED if name in inbound}
    if request_id:
        headers[b"x-request-id"] = request_id.encode("latin-1", "replace")
    if json:
        headers[b"content-type"] = b"application/json"
    for name, value in (given or {}).items():
        headers[name.lower().encode("latin-1")] = value.encode("latin-1")
    if user:
        headers[b"x-user-id"] = user.encode("latin-1", "replace")
    if idempotency_key:
        headers[b"idempotency-key"] = idempotency_key.encode("latin-1")
    return headers


def pools(table: ServiceTable, release: str) -> list[tuple[Endpoint, ...]]:
    """Whom to ask, in order of preference: the chosen release, then the stable one, then any other. A release that is
    gone must not cost its users their answer."""
    wanted = [release, table.split.stable]
    chosen = tuple(each for each in table.endpoints if each.release == release)
    stable = tuple(each for each in table.endpoints if each.release == table.split.stable != release)
    others = tuple(each for each in table.endpoints if each.release not in wanted)
    return [pool for pool in (chosen, stable, others) if pool]


def judged(status: int) -> Outcome:
    """What an answer says about the instance: 501 and 505 are about the request."""
    return Outcome.FAILED if status in (500, 502, 503, 504) else Outcome.ANSWERED


def again(status: int, headers: Mapping[str, str], *, repeatable: bool, keyed: bool) -> bool:
    """Is this answer worth another attempt? 409 with Retry-After means that the same key is being worked on."""
    if status == 409:
        return keyed and "retry-after" in headers
    return status in retry.RETRIED_STATUSES and repeatable


def report(service: str, why: str, attempts: Sequence[Attempt], most: int = 10) -> str:
    """The message of Unavailable: why, and each place that was asked."""
    tried = "".join(f"\n  {attempt}" for attempt in attempts[-most:])
    more = f"\n  (and {len(attempts) - most} before)" if len(attempts) > most else ""
    return f"no instance of {service!r} could answer: {why}" + (f"; tried:{tried}{more}" if tried else "")


def body_of(json: Any, content: bytes | None) -> bytes:
    """The bytes to send. Raises TypeError when both are given, or for what is not JSON."""
    if json is None:
        return content or b""
    if content is not None:
        raise TypeError("give json or content, not both")
    import json as codec

    return codec.dumps(json, separators=(",", ":")).encode()
