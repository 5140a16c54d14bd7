"""The way of every request through Consul's API: route, method, token, datacenter, body, handler, answer."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Iterable

import msgspec

from gapless.api.consul.answer import JSON, TEXT, Answer, Refusal, not_found, too_large, wrong_method
from gapless.api.consul.request import WITH_BODY, Request, decoded, parse_query
from gapless.api.consul.router import Handler, Route, Router
from gapless.api.consul.watches import ClientLeft
from gapless.core.errors import GaplessError, StoreClosed
from gapless.service.asgi import FIELDS, Headers, Receive, Scope, Send

_log = logging.getLogger("gapless.registry")

BODY_BYTES = 512 * 1024
"""Consul's limit of a value, and here of any body."""
UNKNOWN_PATH = "Invalid URL path: not a recognized HTTP API endpoint"
AGENT = "/v1/agent/"
"""What is asked of this agent, so that a datacenter means nothing."""
KNOWN = ((b"x-consul-knownleader", b"true"), (b"x-consul-lastcontact", b"0"))


class ConsulApi:
    """ASGI 3. `token`: what every request must show ("": nothing is asked for, and any token is ignored)."""

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        datacenter: str = "dc1",
        token: str = "",
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._router = Router(routes)
        self._datacenter = datacenter
        self._token = token.encode()
        self.release = release
        """To be called when the server is about to end: whoever waits is answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"Consul's API speaks HTTP, not {scope['type']}")
        try:
            answer = await self._handled(scope, receive)
        except ClientLeft:
            return
        except Exception as error:  # noqa: BLE001 - told the client, and logged; the next request may well succeed
            answer = _told(error, f"{scope['method']} {scope['path']}")
        await _send(scope, send, answer)

    async def _handled(self, scope: Scope, receive: Receive) -> Answer:
        """Raises Refusal, GaplessError, ClientLeft."""
        path = decoded(scope["raw_path"])
        found = self._router.find(path)
        if found is None:
            raise not_found(UNKNOWN_PATH)
        route, rest = found
        method = scope["method"]
        if method == "OPTIONS":
            return Answer(kind=TEXT, extra=((b"allow", route.allowed.encode()),))
        handler = _handler(route, method)
        request = self._request(scope, receive, path)
        request.rest = rest
        self._admit(request)
        if method in WITH_BODY:
            request.body = await _body(request.fields, receive)
        answer = await handler(request)
        return _prettily(answer) if answer.kind is JSON and request.has("pretty") else answer

    def _request(self, scope: Scope, receive: Receive, path: str) -> Request:
        fields = scope.get(FIELDS)
        client = scope.get("client")
        return Request(
            scope["method"],
            path,
            parse_query(scope["query_string"]),
            client=client[0] if client else "",
            fields=fields if fields is not None else dict(scope["headers"]),
            receive=receive,
        )

    def _admit(self, request: Request) -> None:
        """Raises Refusal."""
        if self._token and not hmac.compare_digest(request.token.encode(), self._token):
            raise Refusal(403, "Permission denied")
        if request.query:
            request.check_consistency()
            if not request.path.startswith(AGENT):
                request.check_datacenter(self._datacenter)


def _told(error: Exception, request: str) -> Answer:
    """What went wrong, to the client, and to our log where that is not the client's doing."""
    if isinstance(error, Refusal):
        return Answer(error.text.encode(errors="replace"), error.status, kind=TEXT, extra=error.extra)
    if isinstance(error, GaplessError):
        _log.warning("%s could not be done: %s", request, error)
        return Answer(str(error).encode(), 503 if isinstance(error, StoreClosed) else 500, kind=TEXT)
    _log.error("%s failed", request, exc_info=error)
    return Answer(b"internal error: the log of the registry tells more", 500, kind=TEXT)


def _handler(route: Route, method: str) -> Handler:
    """Raises Refusal (405)."""
    handler = route.methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        raise wrong_method(method, route.allowed)
    return handler


async def _body(fields: object, receive: Receive) -> bytes:
    """All of it. Raises Refusal (413) as soon as it is too large, ClientLeft."""
    announced = fields.get(b"content-length", b"") if isinstance(fields, dict) else b""
    if announced.isdigit() and int(announced) > BODY_BYTES:
        raise too_large(BODY_BYTES, int(announced))
    message = await receive()
    if not message.get("more_body"):
        return _piece(message)
    pieces = [_piece(message)]
    size = len(pieces[0])
    while message.get("more_body"):
        message = await receive()
        pieces.append(_piece(message))
        size += len(pieces[-1])
        if size > BODY_BYTES:
            raise too_large(BODY_BYTES)
    return b"".join(pieces)


def _piece(message: object) -> bytes:
    assert isinstance(message, dict)
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body = message.get("body", b"")
    assert isinstance(body, bytes)
    return body


def _prettily(answer: Answer) -> Answer:
    return (
        msgspec.structs.replace(answer, body=msgspec.json.format(answer.body, indent=4) + b"\n")
        if answer.body
        else answer
    )


async def _send(scope: Scope, send: Send, answer: Answer) -> None:
    headers: Headers = [(b"content-type", answer.kind)]
    if answer.index:
        headers += ((b"x-consul-index", b"%d" % answer.index), *KNOWN)
    headers += answer.extra
    if scope["method"] == "HEAD":
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
