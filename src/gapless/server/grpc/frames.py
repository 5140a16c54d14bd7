"""Where the frames of an HTTP/2 connection begin and end (RFC 9113, section 4.1), for whoever passes their bytes on
without taking part: no state of streams, no header compression, no copy.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

PREFACE_BYTES = 24
"""What a client sends before its first frame."""
HEAD_BYTES = 9
DATA, HEADERS, RST_STREAM, PUSH_PROMISE, PING, GOAWAY, CONTINUATION = 0, 1, 3, 5, 6, 7, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
LAST_STREAM = 2**31 - 1
_IN_BLOCKS = frozenset({HEADERS, PUSH_PROMISE, CONTINUATION})


class Frame(NamedTuple):
    """The head of a frame. `opaque` is what came with it of its first eight bytes, which is all of a PING."""

    kind: int
    flags: int
    stream: int
    opaque: bytes


class Frames:
    """One direction of a connection; `preface` is the number of bytes before its first frame."""

    __slots__ = ("_block", "_head", "_left", "begun")

    def __init__(self, preface: int = 0) -> None:
        self._left = preface
        self._head = b""
        self._block = False
        self.begun = False

    @property
    def between(self) -> bool:
        """A frame of ours could be put in here: behind the first one (which must be SETTINGS), inside none, and not in
        a row of them that may not be interrupted."""
        return self.begun and not (self._left or self._head or self._block)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that begin in `data`."""
        found: list[Frame] = []
        at = 0
        while at < len(data):
            at = self.step(data, at, found)
        return found

    def gap(self, data: bytes) -> int:
        """The first place in `data`, which is yet to be fed, where a frame could be put in; -1 if there is none."""
        ahead = copy.copy(self)
        at = 0
        while at < len(data):
            if ahead.between:
                return at
            at = ahead.step(data, at, [])
        return at if ahead.between else -1

    def step(self, data: bytes, at: int, found: list[Frame]) -> int:
        """Go on from `at` to the end of a payload, of a head, or of the data; returns where that is."""
        if self._left:
            taken = min(self._left, len(data) - at)
            self._left -= taken
            return at + taken
        missing = HEAD_BYTES - len(self._head)
        head = self._head + data[at : at + missing]
        if len(head) < HEAD_BYTES:
            self._head = head
            return len(data)
        self._head = b""
        at += missing
        found.append(self._begin(head, data[at : at + 8]))
        return at

    def _begin(self, head: bytes, opaque: bytes) -> Frame:
        kind, flags = head[3], head[4]
        self._left = int.from_bytes(head[:3])
        self.begun = True
        if kind in _IN_BLOCKS:
            self._block = not flags & END_HEADERS
        return Frame(kind, flags, int.from_bytes(head[5:]) & LAST_STREAM, opaque)


def goaway() -> bytes:
    """Begin no more streams here; those that are on their way are still taken (section 6.8)."""
    return frame(GOAWAY, 0, LAST_STREAM.to_bytes(4) + bytes(4))


def ping(opaque: bytes) -> bytes:
    return frame(PING, 0, opaque)


def frame(kind: int, flags: int, payload: bytes, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload
