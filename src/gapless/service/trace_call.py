"""The trace of a call to another service: what it is told, and its own span when the request is recorded."""

from __future__ import annotations

from gapless.observe.trace.context import HEADER, present, render
from gapless.observe.trace.recorder import Open, recorder
from gapless.observe.trace.spans import Value

NAME = HEADER.decode()


def told() -> dict[bytes, bytes]:
    """The header of a call that has no span of its own; none outside of a request."""
    trace = present.get()
    return {} if trace is None else {HEADER: render(trace)}


class CallSpan:
    """One attempt. Costs next to nothing when the request is not recorded."""

    __slots__ = ("_open", "_service")

    def __init__(self, service: str) -> None:
        trace, recording = present.get(), recorder.get()
        self._service = service
        self._open: Open | None = recording.child(service, trace) if recording and trace and trace.sampled else None

    def header(self) -> dict[bytes, bytes]:
        return {HEADER: render(self._open.trace)} if self._open else told()

    def end(self, method: str, detail: str, *, failed: bool, instance: str) -> None:
        if self._open:
            attributes: dict[str, Value] = {
                "http.request.method": method,
                "peer.service": self._service,
                "gapless.instance": instance,
                "gapless.outcome": detail,
            }
            self._open.end(f"{method} {self._service}", failed=failed, attributes=attributes)
