"""What a refused request is told: status, `Retry-After`, and a body of application/problem+json (RFC 9457)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from gapless.resilience.errors import DeadlineExceeded, RateLimited, Rejected
from gapless.service.asgi import Headers, Send, respond

LEAST_RETRY_S = 1
"""When nobody knows when there will be room: `Retry-After` has whole seconds (RFC 9110 §10.2.3)."""

_TEXTS = {
    429: ("Too Many Requests", "There were more requests than the rate allows; ask again after Retry-After seconds."),
    503: ("Service Unavailable", "This cannot be served now; ask again after Retry-After seconds."),
    504: ("Gateway Timeout", "The deadline passed before there was an answer."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A refusal, ready to be sent. It tells nothing of the inside but the kind of the policy."""

    status: int
    policy: str
    retry_after_s: int | None

    @classmethod
    def of(cls, error: Rejected, own: bool = True) -> Problem:
        """`own`: this server's policy has refused its caller. What a policy of something deeper refused is not the
        caller's doing: 429 becomes 503."""
        if isinstance(error, DeadlineExceeded):
            return cls(status=504, policy=error.policy, retry_after_s=None)
        status = 429 if own and isinstance(error, RateLimited) else 503
        return cls(status=status, policy=error.policy, retry_after_s=_whole(error.retry_after_s))

    def headers(self) -> Headers:
        found: Headers = [(b"content-type", b"application/problem+json")]
        if self.retry_after_s is not None:
            found.append((b"retry-after", b"%d" % self.retry_after_s))
        return found

    def body(self) -> bytes:
        title, detail = _TEXTS[self.status]
        said = {"type": "about:blank", "title": title, "status": self.status, "detail": detail, "policy": self.policy}
        return msgspec.json.encode(said)


async def refuse(send: Send, problem: Problem) -> None:
    await respond(send, problem.status, problem.body(), problem.headers())


def _whole(seconds: float | None) -> int:
    """Rounded up: who asks a moment too early is refused again."""
    if seconds is None or not math.isfinite(seconds):
        return LEAST_RETRY_S
    return max(math.ceil(seconds), LEAST_RETRY_S)
