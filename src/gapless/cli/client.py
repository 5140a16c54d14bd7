"""The command line's way to the control plane: HTTP on the Unix socket in the state directory."""

from __future__ import annotations

import contextlib
import getpass
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gapless.core import errors
from gapless.core.errors import ControlUnreachable, GaplessError

ANSWER_LIMIT_S = 300.0
"""A deploy answers after its snapshot, which may install a wheel with all its dependencies."""
CONNECT_LIMIT_S = 2.0
LEADER_SOCKET = "control.sock"


def state_of(state: Path | None, file: Path) -> Path:
    """The state directory: as given, else `.gapless` beside gapless.yaml."""
    return (state or file.parent / ".gapless").absolute()


class ControlClient:
    """One control plane. Every method raises ControlUnreachable, or the error that the control plane answers."""

    def __init__(self, state: Path, socket: str = LEADER_SOCKET) -> None:
        self._socket = state / socket

    def get(self, path: str) -> Any:
        return self.ask("GET", path, None)

    def _standbys(self) -> list[ControlClient]:
        if self._socket.name != LEADER_SOCKET:
            return []
        state = self._socket.parent
        return [ControlClient(state, socket.name) for socket in sorted(state.glob("standby-*.sock"))]

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self.ask("POST", path, {"who": author(), **(body or {})})

    def ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """The leader, or else one that stands by: that can tell what is, and why nothing can be changed now."""
        try:
            return self._call(method, path, body)
        except ControlUnreachable:
            for other in self._standbys():
                with contextlib.suppress(ControlUnreachable):
                    return other.ask(method, path, body)
            raise

    def lines(self, path: str) -> Iterator[Any]:
        """A stream's documents until it ends. A control plane that dies in the middle raises ControlUnreachable."""
        import httpcore

        with self._pool() as pool, self._translated(), pool.stream("GET", _url(path)) as response:
            _raise_for(response.status, response.read() if response.status >= 400 else b"")
            rest = b""
            for chunk in response.iter_stream():
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in whole)
        del httpcore

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        timeouts = {"timeout": {"connect": CONNECT_LIMIT_S, "read": ANSWER_LIMIT_S, "write": 10.0, "pool": 1.0}}
        with self._pool() as pool, self._translated():
            response = pool.request(method, _url(path), content=content, extensions=timeouts)
        _raise_for(response.status, response.content)
        return json.loads(response.content)

    def _pool(self) -> Any:
        import httpcore

        return httpcore.ConnectionPool(uds=str(self._socket))

    def _translated(self) -> _Translated:
        return _Translated(self._socket)


class _Translated:
    """httpcore's errors in our words."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        import httpcore

        if isinstance(error, (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)):
            raise ControlUnreachable(f"no control plane answers at {self._socket} ({error or type(error).__name__})")


def author() -> str:
    """Who types this, for the change log."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


def _url(path: str) -> str:
    return f"http://control{path}"


def _raise_for(status: int, content: bytes) -> None:
    if status < 400:
        return
    try:
        said = json.loads(content)
        kind = getattr(errors, said["kind"], GaplessError)
        error = GaplessError(said["error"], said["remedy"])
        error.exit_code = kind.exit_code
    except (ValueError, KeyError):
        error = GaplessError(f"the control plane answered {status}: {content[:500].decode(errors='replace')}")
    raise error
