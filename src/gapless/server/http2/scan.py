"""What stands before the HTTP/2 library: whole frames, of a bearable size and number, and only what it treats right.

Pure: bytes in, bytes for h2 out, or the reason why the connection must end. RFC 9113 allows a client much that costs
the server more than the client (resets, pings, settings, empty frames, endless header blocks); each of these has a
budget that useful frames refill.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from h2.errors import ErrorCodes

from gapless.server.http.preface import PREFACE

HEAD = 9
MAX_FRAME = 16_384
"""What we let a client send in one frame: the protocol's default, so that no client may be wrong about it."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS = 0x4

IDLE_FRAMES = 2000.0
"""Frames that ask for nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown kinds) that may come in one
go; each useful frame earns some back, and so does time."""
IDLE_PER_S = 50.0
EARNED = 10.0
"""gRPC's proxies ping at each round trip that carries data, and browsers open two windows for each frame they got."""
RESETS = 1000.0
RESETS_PER_S = 33.0
"""As nghttp2 allows them after CVE-2023-44487 (rapid reset)."""
KNOWN_SETTINGS = frozenset({1, 2, 3, 4, 5, 6, 8})
_ENTRY = 6
MAX_TABLE = b"\x00\x01" + (4096).to_bytes(4, "big")
LENGTHS = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
"""Of frames that have only one; h2 takes a wrong one for another kind of error."""


class Abuse(Exception):
    """The connection must end, with this error code."""

    def __init__(self, code: ErrorCodes, why: str) -> None:
        super().__init__(why)
        self.code = code


class Budget:
    """A token bucket."""

    __slots__ = ("_at", "_left", "_most", "_per_s")

    def __init__(self, most: float, per_s: float, now: float) -> None:
        self._most = self._left = most
        self._per_s = per_s
        self._at = now

    def spend(self, now: float) -> bool:
        """False when there is nothing left."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_s) - 1.0
        self._at = now
        return self._left >= 0.0

    def earn(self, tokens: float) -> None:
        self._left = min(self._most, self._left + tokens)


class Scan:
    """One connection's. `max_block` is the greatest size of a header block as it comes, compressed."""

    def __init__(self, max_block: int, now: float) -> None:
        self.leaving = False
        """The client has said GOAWAY. h2 would then send nothing more, not even what was asked for before."""
        self._max_block = max_block
        self._held = b""
        self._preface = len(PREFACE)
        self._first = True
        self._highest = 0
        self._block_of = 0
        self._block = 0
        self._idle = Budget(IDLE_FRAMES, IDLE_PER_S, now)
        self._resets = Budget(RESETS, RESETS_PER_S, now)

    @property
    def in_head(self) -> bool:
        """A header block, or the connection's beginning, has begun and not ended: a slow client's trick."""
        unfinished = len(self._held) > 3 and self._held[3] in (HEADERS, CONTINUATION)
        return bool(self._block_of) or unfinished or self._first

    def answered(self) -> None:
        """A request was answered in full: who lets us do that may give up others."""
        self._resets.earn(1.0)

    def sent(self) -> None:
        """We sent DATA, for which windows are opened."""
        self._idle.earn(EARNED)

    def feed(self, data: bytes, now: float) -> Iterator[bytes]:
        """Pieces for h2, a frame each, so that what came before a wrong one counts in any segmentation. Raises Abuse at
        its place; of the frames after it nothing is known."""
        data = self._held + data if self._held else data
        at = min(self._preface, len(data))
        self._preface -= at
        if at:
            yield data[:at]
        while len(data) - at >= HEAD:
            length, kind, flags, stream = _head(data, at)
            self._check_size(kind, length)
            if len(data) - at - HEAD < length:
                break
            start, at = at, at + HEAD + length
            inside = bool(self._block_of)
            self._count(kind, flags, stream, length, now)
            if kind == GOAWAY and not inside:
                _check_goaway(stream, length)
                self.leaving = True
            elif kind == SETTINGS:
                yield _bearable(data[start:at])
            else:
                yield data[start:at]
        self._held = data[at:]

    def _check_size(self, kind: int, length: int) -> None:
        """At once, not when the frame is complete: nobody needs to send what will be refused."""
        if length > MAX_FRAME:
            raise Abuse(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if LENGTHS.get(kind, length) != length or (kind == SETTINGS and length % _ENTRY):
            raise Abuse(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of kind {kind} with {length} bytes")
        if self._first and kind != SETTINGS:
            raise Abuse(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")

    def _count(self, kind: int, flags: int, stream: int, length: int, now: float) -> None:
        if self._first and flags & ACK:
            raise Abuse(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._first = False
        if kind in (HEADERS, CONTINUATION):
            self._count_block(kind, flags, stream, length)
        elif kind == RST_STREAM:
            self._count_reset(stream, now)
        elif kind == SETTINGS and flags & ACK and length:
            raise Abuse(ErrorCodes.FRAME_SIZE_ERROR, "SETTINGS with ACK and content")
        elif kind == DATA and length:
            self._idle.earn(EARNED)
        elif not (kind == DATA and flags & END_STREAM) and not self._idle.spend(now):
            raise Abuse(ErrorCodes.ENHANCE_YOUR_CALM, f"too many frames of kind {kind} that ask for nothing")

    def _count_block(self, kind: int, flags: int, stream: int, length: int) -> None:
        if kind == HEADERS:
            self._highest = max(self._highest, stream)
            self._block = 0
            self._idle.earn(EARNED)
        self._block += length + HEAD  # so that empty frames count, too
        if self._block > self._max_block:
            raise Abuse(ErrorCodes.ENHANCE_YOUR_CALM, f"a header block of more than {self._max_block} bytes")
        self._block_of = 0 if flags & END_HEADERS else stream

    def _count_reset(self, stream: int, now: float) -> None:
        if stream > self._highest:
            raise Abuse(ErrorCodes.PROTOCOL_ERROR, f"RST_STREAM on idle stream {stream}")
        if not self._resets.spend(now):
            raise Abuse(ErrorCodes.ENHANCE_YOUR_CALM, "too many streams were reset")


def _head(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Length, kind, flags and stream of the frame that begins at `at`."""
    high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
    return high << 8 | low, kind, flags, stream & 0x7FFFFFFF


_HEAD = struct.Struct(">HBBBL")


def _check_goaway(stream: int, length: int) -> None:
    if stream:
        raise Abuse(ErrorCodes.PROTOCOL_ERROR, "GOAWAY on a stream")
    if length < 8:
        raise Abuse(ErrorCodes.FRAME_SIZE_ERROR, "GOAWAY is too short")


def _bearable(frame: bytes) -> bytes:
    """The same SETTINGS without unknown ones, which h2 would remember for ever, and without a table for our header
    compression that would take more memory than we give it."""
    entries = [frame[at : at + _ENTRY] for at in range(HEAD, len(frame), _ENTRY)]
    body = b"".join(min(one, MAX_TABLE) if one[:2] == MAX_TABLE[:2] else one for one in entries if _known(one))
    return len(body).to_bytes(3, "big") + frame[3:HEAD] + body


def _known(entry: bytes) -> bool:
    return entry[0] << 8 | entry[1] in KNOWN_SETTINGS
