"""The bytes of a response (RFC 1035, 4.1): sections in the order of their worth, until the room is full (pure)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dns.rdataclass import IN
from dns.rdatatype import OPT

from gapless.api.dns.answer import Answer, Question
from gapless.api.dns.records import Record, wire_name

HEADER = 12
STREAM = 65_535
"""The most that the length in front of a message over TCP can say."""
RESPONSE, AUTHORITATIVE, TRUNCATED, KEPT = 0x80, 0x04, 0x02, 0x79
"""Bits of the header's third byte; KEPT: opcode and RD, which a response repeats."""
POINTER, POINTER_MAX = 0xC000, 0x3FFF
_FIELDS = struct.Struct("!HHLH")
_OPTION = struct.Struct("!BHHLH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What surrounds an answer. `query`: the header asked with; `payload`: what we would take ourselves, said to those
    who speak EDNS; `room`: bytes for all of it."""

    query: bytes
    question: Question | None
    edns: bool
    payload: int
    room: int


def bare(query: bytes, rcode: int) -> bytes:
    """A header alone: of a packet that cannot be read nothing else is certain."""
    return query[:2] + bytes((RESPONSE | query[2] & KEPT, rcode)) + bytes(HEADER - 4)


def packed(frame: Frame, answer: Answer, ttl_s: int) -> bytes:
    """The response, TC set when answers had to be left out. What is additional is left out without a word (RFC 2181,
    9): it can be asked for."""
    packet = _Packet(frame.room - (_OPTION.size if frame.edns else 0), ttl_s)
    packet.ask(frame.question)
    whole = packet.add(answer.answer, 1) and packet.add(answer.authority, 2)
    if whole:
        packet.add(answer.additional, 3)
    if frame.edns:
        packet.option(frame.payload, answer.rcode)
    flags = RESPONSE | frame.query[2] & KEPT | AUTHORITATIVE * answer.authoritative | TRUNCATED * (not whole)
    return frame.query[:2] + bytes((flags, answer.rcode & 0xF)) + packet.body()


class _Packet:
    def __init__(self, room: int, ttl_s: int) -> None:
        self._room, self._ttl_s = room, ttl_s
        self._bytes = bytearray(HEADER)
        self._counts = [0, 0, 0, 0]
        self._known: dict[bytes, bytes] = {}
        """Names that are already in the packet, in lower case, to the pointers that stand for them."""

    def ask(self, question: Question | None) -> None:
        """Repeat the question as it was asked, upper case and all: some compare it to the byte (0x20)."""
        name = None if question is None else wire_name(question.labels)
        if question is None or name is None:
            return
        start = 0
        while name[start]:
            self._learn(name[start:], HEADER + start)
            start += 1 + name[start]
        self._bytes += name + struct.pack("!HH", question.rdtype, question.rdclass)
        self._counts[0] = 1

    def add(self, section: Sequence[Record], number: int) -> bool:
        """As many as fit; False when that is not all."""
        for record in section:
            owner = self._known.get(record.owner.lower(), record.owner)
            after = len(self._bytes) + len(owner) + _FIELDS.size + len(record.rdata)
            if after > self._room:
                return False
            self._bytes += owner + _FIELDS.pack(record.rdtype, IN, self._ttl_s, len(record.rdata)) + record.rdata
            if record.target:
                self._learn(record.target, after - len(record.target))
            self._counts[number] += 1
        return True

    def _learn(self, name: bytes, at: int) -> None:
        if at <= POINTER_MAX:
            self._known.setdefault(name.lower(), (POINTER | at).to_bytes(2, "big"))

    def option(self, payload: int, rcode: int) -> None:
        """OPT (RFC 6891): version 0, and the upper bits of the response code."""
        self._bytes += _OPTION.pack(0, OPT, payload, rcode >> 4 << 24, 0)
        self._counts[3] += 1

    def body(self) -> bytes:
        """All but the first four bytes."""
        struct.pack_into("!4H", self._bytes, 4, *self._counts)
        return bytes(self._bytes[4:])
