"""What to send, how often, and what a good answer is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gapless.core.errors import ConfigError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def seconds(text: str) -> float:
    """`500ms`, `30s`, `2m`, `1h` or a bare number of seconds. Raises ConfigError."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"{text!r} is not a duration", "Write it like 500ms, 30s, 2m or 1h.")
    return float(match[1]) * _UNITS_S[match[2]]


def header(text: str) -> tuple[str, str]:
    """`name: value` as a pair. Raises ConfigError."""
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name) or "\r" in value or "\n" in value:
        raise ConfigError(f"{text!r} is not a header", "Write it like 'accept: application/json'.")
    return name, value.strip()


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. `path` has its query."""

    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises ConfigError for anything but http://host[:port][/path]."""
        parts = urlsplit(url)
        if parts.scheme == "https":
            raise ConfigError(f"{url} is https, which this client does not speak", "Ask the plain-HTTP listener.")
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"{url!r} is not a URL to ask", "Write it like http://127.0.0.1:8080/orders.")
        try:
            port = parts.port or 80
        except ValueError as error:
            raise ConfigError(f"{url!r} has no valid port", "Use a number from 1 to 65535.") from error
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not (path.isascii() and path.isprintable()) or " " in path:
            raise ConfigError(f"{url!r} has characters that a URL cannot have", "Percent-encode them.")
        return cls(parts.hostname, port, parts.netloc.rpartition("@")[2], path)


@dataclass(frozen=True, slots=True)
class Expect:
    """What a good answer is: its status lies in one of the ranges (both ends included), its body matches."""

    statuses: tuple[tuple[int, int], ...] = ((200, 399),)
    body: re.Pattern[str] | None = None

    def allows(self, status: int) -> bool:
        return any(low <= status <= high for low, high in self.statuses)

    @classmethod
    def parse(cls, statuses: str = "", body: str = "") -> Expect:
        """`200,201,4xx` (empty: 2xx and 3xx) and a regular expression that is searched for. Raises ConfigError."""
        ranges = tuple(_range(part.strip()) for part in statuses.split(",")) if statuses else cls().statuses
        try:
            return cls(ranges, re.compile(body) if body else None)
        except re.error as error:
            raise ConfigError(
                f"{body!r} is not a regular expression: {error}", "Escape what is meant literally."
            ) from error


def _range(text: str) -> tuple[int, int]:
    if re.fullmatch(r"[1-5]xx", text):
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    if re.fullmatch(r"[1-5]\d\d", text):
        return int(text), int(text)
    raise ConfigError(f"{text!r} is not a status", "Write it like 200, or 2xx for all of them, separated by commas.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """A load. `{user}`, `{n}` and `{uuid}` are replaced in the path, the headers and the body of each request."""

    url: str
    rate: float = 50.0
    """Requests per second that become due, whatever the answers do."""
    connections: int = 16
    """How many requests can be under way at once; when all are busy a request waits and its latency runs."""
    for_s: float = math.inf
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    users: int = 0
    """Each request is sent for one of so many users, uniformly; 0: for nobody in particular."""
    user_header: str = "x-user-id"
    expect: Expect = field(default_factory=Expect)
    http2: bool = False
    """In clear text, by prior knowledge."""
    fresh: bool = False
    """Each request on a connection of its own."""
    timeout_s: float = 5.0
    """From the due time to the last byte."""

    def check(self) -> Target:
        """The target, when the whole makes sense. Raises ConfigError."""
        limits = (
            (0 < self.rate <= 100_000, f"a rate of {self.rate:g}/s", "Use more than 0, and at most 100000."),
            (1 <= self.connections <= 10_000, f"{self.connections} connections", "Use 1 to 10000."),
            (self.for_s > 0, f"a length of {self.for_s:g} s", "Use more than 0."),
            (0 < self.timeout_s < math.inf, f"a time limit of {self.timeout_s:g} s", "Use more than 0."),
            (self.users >= 0, f"{self.users} users", "Use 0 for none, or more."),
            (bool(_TOKEN.fullmatch(self.method)), f"the method {self.method!r}", "Use a word such as GET or POST."),
        )
        for fine, what, remedy in limits:
            if not fine:
                raise ConfigError(f"{what} cannot be sent", remedy)
        return Target.parse(self.url)
