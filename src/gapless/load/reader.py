"""The bytes of one response, in whatever pieces they come, to an answer or the reason why there is none. Pure."""

from __future__ import annotations

import sys
from typing import Any

from gapless.load.cause import Answer, Cause, Loss, ended

KEPT_BYTES = 512
"""Of a body nobody wants to match, so much is kept: for the detail of a loss."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_BODILESS = frozenset({204, 304})


class Reader:
    """Feed it until it returns something. One reader per request: what comes after its answer is not looked at."""

    def __init__(self, *, head_only: bool = False, whole: bool = False) -> None:
        self.begun = False
        self._head_only = head_only
        self._keep = sys.maxsize if whole else KEPT_BYTES
        self._parser: Any = None
        self._framed = False
        self._to_the_end = False
        self._release = ""
        self._body = bytearray()
        self._answer: Answer | None = None

    def feed(self, data: bytes) -> Answer | Loss | None:
        """The answer once it is whole; a loss when these bytes are no HTTP; None while more must come."""
        import httptools

        self.begun = self.begun or bool(data)
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return Loss(Cause.WRONG, "the server switched to another protocol")
        except httptools.HttpParserError as error:
            if self._answer is None:
                return Loss(Cause.WRONG, f"not HTTP: {error}")
        return self._answer

    def end(self, error: Exception | None) -> Answer | Loss:
        """The connection has ended: a body that only the end delimits is whole now, everything else is lost."""
        if self._to_the_end and error is None:
            return self._make(keep_alive=False)
        return ended(error, begun=self.begun)

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._answer is not None:  # bytes that nobody asked for: this connection cannot be trusted any more
            self._answer = Answer(
                status=self._answer.status, release=self._answer.release, body=self._answer.body, keep_alive=False
            )
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _FRAMING:
            self._framed = True
        elif name == b"x-gapless-release" and self._answer is None:
            self._release = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer is not None or status < 200:
            return
        if self._head_only:
            self._answer = self._make(keep_alive=self._parser.should_keep_alive())
        self._to_the_end = not self._framed and status not in _BODILESS

    def on_body(self, data: bytes) -> None:
        if self._answer is None and len(self._body) < self._keep:
            self._body += data

    def on_message_complete(self) -> None:
        if self._answer is None and self._parser.get_status_code() >= 200:
            self._answer = self._make(keep_alive=self._parser.should_keep_alive())

    def _make(self, *, keep_alive: bool) -> Answer:
        status = self._parser.get_status_code()
        return Answer(status=status, release=self._release, body=bytes(self._body), keep_alive=keep_alive)
