"""Packets in, packets out: whatever comes, what goes out is well-formed and fits."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.api.dns.wire import HEADER, reply
from tests.unit.dns_rig import answers, catalog, summary, target, texts

MANY = catalog(*(target(number % 250, address=f"10.1.{number // 250}.{number % 250}") for number in range(1_600)))
FEW = catalog(target(1), target(2, address="::1"))
PAYLOAD = 1232


def udp(packet: bytes, payload: int = PAYLOAD) -> dns.message.Message:
    wire = reply(answers(MANY, payload=payload), packet, payload=payload)
    assert wire is not None
    return dns.message.from_wire(wire)


def query(name: str = "web.service.consul", rdtype: str = "A", **more: object) -> dns.message.Message:
    return dns.message.make_query(name, rdtype, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edns", "room"),
    [(None, 512), (100, 512), (512, 512), (1000, 1000), (4096, PAYLOAD)],
)
@pytest.mark.parametrize("rdtype", ["A", "SRV", "ANY"])
def test_an_answer_over_udp_is_cut_to_what_fits_and_says_so(edns: int | None, room: int, rdtype: str) -> None:
    asked = query(rdtype=rdtype) if edns is None else query(rdtype=rdtype, use_edns=0, payload=edns)
    wire = reply(answers(MANY, payload=PAYLOAD), asked.to_wire(), payload=PAYLOAD)
    assert wire is not None
    response = dns.message.from_wire(wire)
    assert response.flags & dns.flags.TC
    assert room - 70 < len(wire) <= room, "as many as fit"
    assert (response.edns, response.payload) == ((-1, 0) if edns is None else (0, PAYLOAD))


def test_addresses_of_targets_are_dropped_before_any_target_without_a_word() -> None:
    lookup = catalog(*(target(number) for number in range(10)))
    wire = reply(answers(lookup), query(rdtype="SRV").to_wire(), payload=PAYLOAD)
    assert wire is not None
    response = dns.message.from_wire(wire)
    assert len(texts(response.answer)) == 10
    assert not response.flags & dns.flags.TC
    assert 0 < len(texts(response.additional)) < 10


def test_over_tcp_there_is_room_for_all_that_a_message_holds() -> None:
    wire = reply(answers(MANY), query().to_wire(), payload=None)
    assert wire is not None
    response = dns.message.from_wire(wire)
    assert len(texts(response.answer)) == 1_600
    assert not response.flags & dns.flags.TC
    big = reply(answers(MANY), query(rdtype="SRV").to_wire(), payload=None)
    assert big is not None
    assert len(big) <= 65_535
    assert dns.message.from_wire(big).flags & dns.flags.TC


def test_case_is_kept_where_it_was_asked_and_ids_are_repeated() -> None:
    asked = query("wEb.SERVICE.cOnSuL", id=4711)
    response = udp(asked.to_wire())
    assert response.id == 4711
    assert str(response.question[0].name) == str(response.answer[0].name) == "wEb.SERVICE.cOnSuL."
    assert response.flags & dns.flags.RD
    assert not response.flags & dns.flags.RA, "nothing is looked up for others"


def test_what_is_asked_wrongly_is_refused() -> None:
    two = query()
    two.question += query("consul").question
    assert udp(two.to_wire()).rcode() == dns.rcode.FORMERR
    status = query()
    status.set_opcode(dns.opcode.STATUS)
    assert udp(status.to_wire()).rcode() == dns.rcode.NOTIMP
    assert udp(query(use_edns=1).to_wire()).rcode() == dns.rcode.BADVERS
    assert udp(query().to_wire()[:-3]).rcode() == dns.rcode.FORMERR
    chaos = dns.message.make_query("version.bind", "TXT", "CH")
    assert summary(udp(chaos.to_wire()))[0] == "REFUSED"


def test_responses_and_scraps_get_no_answer() -> None:
    response = dns.message.make_response(query())
    for packet in (response.to_wire(), b"", b"x" * (HEADER - 1)):
        assert reply(answers(FEW), packet, payload=PAYLOAD) is None


@given(st.binary(max_size=600), st.booleans())
def test_random_bytes_get_a_well_formed_answer_or_none(packet: bytes, plain_header: bool) -> None:
    packet = b"\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00" + packet if plain_header else packet
    check(packet)


@given(st.data())
def test_questions_with_flipped_bytes(data: st.DataObject) -> None:
    packet = bytearray(query(rdtype="SRV", use_edns=0, payload=900).to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(packet))


LABELS = st.binary(min_size=1, max_size=20)
ZONES = st.sampled_from([(b"service", b"consul"), (b"node", b"dc1", b"consul"), (b"addr", b"consul"), (b"consul",)])


@given(st.lists(LABELS, max_size=5), ZONES, st.integers(0, 65_535), st.integers(0, 65_535), st.integers(0, 65_535))
def test_any_question_gets_a_well_formed_answer_that_fits(
    labels: list[bytes], zone: tuple[bytes, ...], rdtype: int, rdclass: int, payload: int
) -> None:
    name = b"".join(bytes((len(it),)) + it for it in (*labels, *zone)) + b"\0"
    question = name + rdtype.to_bytes(2, "big") + rdclass.to_bytes(2, "big")
    option = b"\0\0\x29" + payload.to_bytes(2, "big") + bytes(6)
    check(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01" + question + option)


def check(packet: bytes) -> None:
    for payload in (PAYLOAD, None):
        wire = reply(answers(FEW), packet, payload=payload)
        if wire is None:
            assert len(packet) < HEADER or packet[2] & 0x80
            continue
        assert wire[:2] == packet[:2]
        assert len(wire) <= (payload or 65_535)
        response = dns.message.from_wire(wire)
        assert response.flags & dns.flags.QR
