"""A request as handlers see it: what is left of the path, flags and values of the query, the body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar
from urllib.parse import unquote_plus, unquote_to_bytes

import msgspec

from gapless.api.consul.answer import bad_request, failed
from gapless.api.consul.bodies import BadBody, read_body
from gapless.core.duration import parse_duration
from gapless.service.asgi import Receive

T = TypeVar("T")

WAIT_S = 300.0
LONGEST_WAIT_S = 600.0
TRUTHS = {"": True, **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True)}
TRUTHS |= dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False)
"""As Go's ParseBool, and a bare flag is a yes."""

WITH_BODY = frozenset({"PUT", "POST", "DELETE"})
"""Methods whose body is read before the handler is asked."""

Query = Mapping[str, Sequence[str]]


class Blocking(msgspec.Struct, frozen=True):
    """A read that shall wait until there is something newer."""

    index: int = 0
    """0: answer at once."""
    wait_s: float = WAIT_S


class Request:
    """One request. `rest` is what follows the route's path, decoded: a key, a name, an id."""

    __slots__ = ("body", "client", "fields", "method", "path", "query", "receive", "rest")

    def __init__(
        self,
        method: str,
        path: str,
        query: Query,
        *,
        client: str = "",
        fields: Mapping[bytes, bytes] | None = None,
        receive: Receive | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.rest = ""
        self.query = query
        self.client = client
        """The client's address; empty over a Unix socket."""
        self.fields: Mapping[bytes, bytes] = fields or {}
        """Headers by lower-case name."""
        self.body = b""
        self.receive = receive
        """ASGI's: after the body it tells when the client goes."""

    def has(self, name: str) -> bool:
        """Whether a flag is there, bare or with whatever value: `?recurse`, `?stale=`, `?keys=1`."""
        return name in self.query

    def true(self, name: str) -> bool:
        """A flag that may also be denied: `?passing`, `?passing=1`, `?passing=false`. Raises Refusal (400)."""
        if name not in self.query:
            return False
        value = TRUTHS.get(self.query[name][0])
        if value is None:
            raise bad_request(f"Invalid value for ?{name}")
        return value

    def text(self, name: str) -> str:
        """The first value of that name; empty when there is none."""
        return self.query[name][0] if name in self.query else ""

    def many(self, name: str) -> Sequence[str]:
        """All values of a name that may be repeated (`?tag=a&tag=b`), without empty ones."""
        return [value for value in self.query.get(name, ()) if value]

    def number(self, name: str, complaint: str) -> int | None:
        """An unsigned 64-bit number; None when it is not given. Raises Refusal (400) with the complaint."""
        text = self.text(name)
        if name not in self.query:
            return None
        if not (text.isascii() and text.isdigit()) or int(text) >= 2**64:
            raise bad_request(complaint)
        return int(text)

    def json(self, kind: type[T], complaint: str = "Request decode failed") -> T:
        """The body, keys in any case (`bodies`). Raises Refusal (400)."""
        try:
            return read_body(self.body, kind)
        except BadBody as error:
            raise bad_request(f"{complaint}: {error}") from error

    def blocking(self) -> Blocking:
        """`index` and `wait`. Raises Refusal (400)."""
        if "index" not in self.query and "wait" not in self.query:
            return Blocking()
        index = (self.number("index", "Invalid index") or 0) if self.text("index") else 0
        wait = self.text("wait")
        try:
            wait_s = parse_duration(wait) if wait else WAIT_S
        except ValueError as error:
            raise bad_request("Invalid wait time") from error
        return Blocking(index, min(wait_s, LONGEST_WAIT_S) if wait_s > 0 else WAIT_S)

    def check_consistency(self) -> None:
        """Every read is consistent here, so both are fine, though not together. Raises Refusal (400)."""
        if self.has("stale") and self.has("consistent"):
            raise bad_request("Cannot specify ?stale with ?consistent, conflicting semantics.")

    def check_datacenter(self, ours: str) -> None:
        """There is one. Raises Refusal (500, as Consul does)."""
        if (given := self.text("dc")) and given != ours:
            raise failed("No path to datacenter")

    @property
    def token(self) -> str:
        """In any of its three forms; empty without one."""
        if given := self.text("token"):
            return given
        if given_field := self.fields.get(b"x-consul-token"):
            return given_field.decode("latin-1")
        scheme, _, rest = self.fields.get(b"authorization", b"").partition(b" ")
        return rest.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


@lru_cache(maxsize=1024)
def parse_query(text: bytes) -> Query:
    """Values by name, in order. A name without `=` has the value "". Raises Refusal (400) for what is no UTF-8."""
    found: dict[str, list[str]] = {}
    for pair in text.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            found.setdefault(_plain(name), []).append(_plain(value))
    return found


def _plain(text: bytes) -> str:
    try:
        return unquote_plus(text.decode("ascii"), errors="strict") if b"%" in text or b"+" in text else text.decode()
    except UnicodeDecodeError as error:
        raise bad_request("the query is not UTF-8") from error


def decoded(raw_path: bytes) -> str:
    """The path, `%2F` decoded like everything else. Raises Refusal (400) for what is no UTF-8."""
    try:
        return (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode()
    except UnicodeDecodeError as error:
        raise bad_request("the path is not UTF-8") from error
