"""The bytes of a request, rendered from the spec's templates."""

from __future__ import annotations

from dataclasses import dataclass

from gapless.load.spec import LoadSpec, Target

CONNECTION = frozenset(("host", "connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"))
"""What HTTP/2 says in other ways (RFC 9113, 8.2.2)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request that is due. Times are on the world's clock that never jumps."""

    n: int
    due: float
    dispatched: float
    user: str
    uuid: str
    crowded: bool
    """All connections were busy when it became due."""


@dataclass(frozen=True, slots=True)
class Template:
    """Head and body with their places still open; `{` and `}` elsewhere (as in JSON) mean themselves."""

    head: str
    body: str
    names: tuple[tuple[str, str], ...]
    """The head again, as the fields of HTTP/2."""
    sized: bool
    """The method means a body: its length is told even when it is 0 (RFC 9110, 8.6)."""

    @classmethod
    def of(cls, spec: LoadSpec, target: Target) -> Template:
        """The head in the order of RFC 9112, the user's headers last; one that is given replaces our own."""
        given = {name.lower() for name, _ in spec.headers}
        ours = [("host", target.authority), ("user-agent", "gapless-load"), ("accept", "*/*")]
        if spec.users and spec.user_header:
            ours.append((spec.user_header, "{user}"))
        fields = [(name, value) for name, value in ours if name.lower() not in given]
        fields += [(name, value) for name, value in spec.headers if name.lower() != "content-length"]
        lines = [f"{spec.method} {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        pseudo = ((":method", spec.method), (":scheme", "http"), (":path", target.path))
        host = next(value for name, value in fields if name.lower() == "host")
        rest = ((name.lower(), value) for name, value in fields if name.lower() not in CONNECTION)
        names = (*pseudo, (":authority", host), *rest)
        return cls("\r\n".join(lines), spec.body, names, spec.method in ("POST", "PUT", "PATCH"))

    def render(self, request: Request) -> bytes:
        body = _fill(self.body, request).encode()
        head = _fill(self.head, request)
        length = f"\r\ncontent-length: {len(body)}" if body or self.sized else ""
        return f"{head}{length}\r\n\r\n".encode() + body

    def fields(self, request: Request) -> tuple[list[tuple[str, str]], bytes]:
        """The same for HTTP/2."""
        body = _fill(self.body, request).encode()
        fields = _filled(self.names, request)
        return [*fields, *([("content-length", str(len(body)))] if body or self.sized else [])], body


def _filled(names: tuple[tuple[str, str], ...], request: Request) -> list[tuple[str, str]]:
    return [(name, _fill(value, request)) for name, value in names]


def _fill(text: str, request: Request) -> str:
    if "{" not in text:
        return text
    return text.replace("{user}", request.user).replace("{n}", str(request.n)).replace("{uuid}", request.uuid)
