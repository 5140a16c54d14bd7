"""A packet in, a packet out (pure): what is no question, what cannot be answered, and the answers to the rest."""

from __future__ import annotations

import dns.exception
import dns.message
from dns.opcode import QUERY
from dns.rcode import BADVERS, FORMERR, NOERROR, NOTAUTH, NOTIMP

from gapless.api.dns.answer import Answer, Answers, Question
from gapless.api.dns.packet import HEADER, RESPONSE, STREAM, Frame, bare, packed

PLAIN = 512
"""Bytes of an answer over UDP to those who do not say that they take more (RFC 1035)."""


def reply(answers: Answers, packet: bytes, *, payload: int | None) -> bytes | None:
    """The answer to a packet. `payload`: the most bytes over UDP, the client permitting; None over TCP, where there is
    room for all that a message can hold. None is returned for what is no query: answering that would start loops."""
    if len(packet) < HEADER or packet[2] & RESPONSE:
        return None
    try:
        query = dns.message.from_wire(packet)
    except dns.message.UnknownTSIGKey:
        return bare(packet, NOTAUTH)
    except dns.exception.DNSException:
        return bare(packet, FORMERR)
    return _replied(answers, packet, query, STREAM if payload is None else _room(query, payload))


def _room(query: dns.message.Message, payload: int) -> int:
    return PLAIN if query.edns < 0 else max(PLAIN, min(query.payload, payload))


def _replied(answers: Answers, packet: bytes, query: dns.message.Message, room: int) -> bytes:
    question = _question(query)
    trouble = _trouble(query)
    answer = (
        Answer(rcode=trouble, authoritative=False) if trouble or question is None else answers.answer(question, room)
    )
    zone = answers.zone
    frame = Frame(query=packet[:HEADER], question=question, edns=query.edns >= 0, payload=zone.payload, room=room)
    return packed(frame, answer, zone.ttl_s)


def _question(query: dns.message.Message) -> Question | None:
    """None when there is not exactly one."""
    if len(query.question) != 1 or query.opcode() != QUERY:
        return None
    asked = query.question[0]
    return Question(asked.name.labels[:-1], asked.rdtype, asked.rdclass)


def _trouble(query: dns.message.Message) -> int:
    """The code for what is no question that can be answered; NOERROR when nothing is wrong."""
    if query.opcode() != QUERY:
        return NOTIMP
    if query.edns > 0:
        return BADVERS
    return NOERROR if len(query.question) == 1 else FORMERR
