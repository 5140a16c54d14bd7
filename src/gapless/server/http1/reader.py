"""The bytes of an HTTP/1.1 connection to requests: llhttp splits them, here they get their meaning."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools

from gapless.server.http.site import Upgrade
from gapless.server.http1.cycle import Cycle
from gapless.server.http1.request import (
    Headers,
    Refused,
    check_fields,
    check_host,
    check_sizes,
    check_version,
    read_target,
    told,
)
from gapless.server.http1.watch import Watch
from gapless.service.asgi import FIELDS

if TYPE_CHECKING:
    from gapless.server.http1.protocol import Http1

_log = logging.getLogger("gapless.server")

ASGI = {"version": "3.0", "spec_version": "2.4"}


class Reader:
    """Tells its connection of each request (`arrived`), each request's end (`completed`), and of upgrades."""

    __slots__ = (
        "_conn",
        "_headers",
        "_host",
        "_parser",
        "_segment",
        "_target",
        "_watch",
        "between",
        "incoming",
    )

    def __init__(self, conn: Http1, watch: Watch) -> None:
        self.incoming: Cycle | None = None
        """The request whose body is not complete."""
        self.between = True
        """No message has begun that is not complete."""
        self._conn = conn
        self._watch = watch
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Headers = []
        self._host: bytes | None = None
        self._segment = 0

    def close(self) -> None:
        self._parser = None  # they refer to each other

    def feed(self, data: bytes) -> None:
        """Raises Refused: nothing that follows can be trusted."""
        self._segment = len(data)
        rest: Any = data
        while (used := self._parse(rest)) is not None:
            rest = memoryview(rest)[used:]
            if self._upgrade(rest):
                self.close()
                return
        if self.incoming is not None:
            self._watch.body(self.incoming, len(data))
        elif not self.between:
            self._watch.head(self._target, self._headers, len(data))

    def _parse(self, data: Any) -> int | None:
        """Where an upgrade's request ends in it, if there is one. Raises Refused."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return int(upgrade.args[0])
        except httptools.HttpParserError as error:
            raise refusal(error) from error
        return None

    # What the parser says.

    def on_message_begin(self) -> None:
        self.between = False
        self._watch.message()
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            return  # the end of feeding tells
        conn = self._conn
        headers, self._headers = self._headers, []  # trailers would come into the same list
        fields = dict(headers)
        keep_alive = parser.should_keep_alive()
        version = "1.1" if keep_alive and b"connection" not in fields else parser.get_http_version()
        method = parser.get_method().decode()
        self._check(headers, fields, version)
        raw_path, query = self._target, b""
        if raw_path.startswith(b"/") and b"#" not in raw_path:
            raw_path, _, query = raw_path.partition(b"?")
        else:
            raw_path, query, host = read_target(method, raw_path)
            if host is not None:
                headers = told(host, headers)
                fields = dict(headers)
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        if conn.surplus and path not in conn.site.probes:
            raise Refused(503, "more connections than this worker takes")
        scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "server": conn.server,
            "client": conn.client,
            "scheme": conn.scheme,
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "state": {},
            "extensions": conn.extensions,
            FIELDS: fields,
        }
        if conn.peer_trusted:
            conn.site.trust.apply(scope, fields)
        self.incoming = cycle = Cycle(conn, scope, keep_alive, version == "1.0", b"expect" in fields)
        conn.arrived(cycle)

    def _check(self, headers: Headers, fields: dict[bytes, bytes], version: str) -> None:
        """Raises Refused."""
        limits = self._conn.site.limits
        if version != "1.1" or len(fields) != len(headers) or b"host" not in fields or b"transfer-encoding" in fields:
            check_version(version)
            check_fields(headers, version)
        if len(headers) > limits.header_count or self._segment > limits.line_bytes or self._watch.split:
            check_sizes(self._target, headers, limits)
        host = fields.get(b"host")
        if host is not None and host != self._host:
            check_host(host)
            self._host = host
        if b"expect" in fields and fields[b"expect"].lower() != b"100-continue":
            raise Refused(417, f"the expectation {fields[b'expect']!r}")
        if limits.body_bytes and int(fields.get(b"content-length", 0)) > limits.body_bytes:
            raise Refused(413, f"a body of {int(fields[b'content-length'])} bytes")

    def on_body(self, body: bytes) -> None:
        cycle = self.incoming
        if cycle is None:
            return  # an upgrade's
        cycle.add(body)
        if 0 < self._conn.site.limits.body_bytes < cycle.received:
            raise Refused(413, "a chunked body without end")

    def on_message_complete(self) -> None:
        cycle = self.incoming
        if cycle is None:
            return
        self.between = True
        self.incoming = None
        cycle.complete = True
        self._conn.completed(cycle)

    # Upgrades.

    def _upgrade(self, rest: memoryview) -> bool:
        """To a WebSocket, or (False) to nothing: a server may go on as if `Upgrade` had not been said (RFC 9110 §7.8).
        The parser has skipped the body then, so that it reads the head once more, without that word."""
        headers, fields = self._headers, dict(self._headers)
        parser, self._parser = self._parser, httptools.HttpRequestParser(self)
        method, version = parser.get_method(), parser.get_http_version()
        if method == b"CONNECT":
            raise Refused(501, "CONNECT")
        websocket = self._conn.site.websocket
        if method == b"GET" and websocket and fields.get(b"upgrade", b"").lower() == b"websocket":
            self._check(headers, fields, version)
            self._become_websocket(websocket, fields, head_bytes(method, self._target, version, headers) + bytes(rest))
            return True
        others = [field for field in headers if field[0] != b"upgrade"]
        self._parse(head_bytes(method, self._target, version, others))
        return False

    def _become_websocket(self, upgrade: Upgrade, fields: dict[bytes, bytes], request: bytes) -> None:
        conn = self._conn
        if conn.cycle is not None or int(fields.get(b"content-length", 0)) or b"transfer-encoding" in fields:
            raise Refused(400, "an upgrade with a body, or behind another request")
        if conn.surplus:
            raise Refused(503, "more connections than this worker takes")
        self.between = True
        conn.leave()
        upgrade(conn.transport, request)


def refusal(error: Exception) -> Refused:
    """Of what the parser raised, which is what our own methods raised under it, if they did."""
    if not isinstance(error, httptools.HttpParserCallbackError):
        return Refused(400, str(error))
    cause = error.__context__
    if isinstance(cause, Refused):
        return cause
    _log.error("could not read a request", exc_info=cause)
    return Refused(500, "our own failure")


def head_bytes(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode()), *(b"%b: %b" % field for field in headers)]
    return b"\r\n".join([*lines, b"", b""])
