"""RFC 9113 and RFC 7541 case by case, as a server must treat them: what h2spec tries, and what smuggling tries."""

from __future__ import annotations

from typing import Any

import pytest
from hyperframe.frame import HeadersFrame, PingFrame, SettingsFrame

from gapless.server.http2.scan import PREFACE
from tests.unit.http2_kit import (
    GET,
    POST,
    Client,
    client,
    continuation,
    data,
    deaf,
    headers,
    hello,
    idle,
    ping,
    raw,
    rst,
    settings,
    window,
)

PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = (1, 3, 5, 6, 7, 9, 11)
MOST = 2**31 - 1


def block(fields: Any = GET) -> bytes:
    import hpack

    return hpack.Encoder().encode(fields)


HALF = len(block()) // 2

FRAMES: dict[str, tuple[list[bytes], str]] = {
    # §4 frames
    "4.1 a frame of unknown kind is ignored": ([raw(0xCC, 0, b"x" * 8), b"GET"], "200"),
    "4.1 undefined flags are ignored": ([raw(6, 0, b"x" * 8, 0xF6), b"GET"], "200"),
    "4.1 the reserved bit is ignored": ([raw(6, 1 << 31, b"x" * 8), b"GET"], "200"),
    "4.2 DATA of 2^14 bytes is taken": ([b"POST", data(1, b"x" * 16_384, "END_STREAM")], "200"),
    "4.2 DATA of more is not": ([b"POST", raw(0, 1, b"", length=16_385)], f"goaway {SIZE}"),
    "4.2 HEADERS of more is not": ([raw(1, 1, b"", length=16_385)], f"goaway {SIZE}"),
    "4.3 a block that HPACK cannot read": (
        [headers(1, b"\xff\xff\xff\xff\xff", "END_HEADERS")],
        f"goaway {COMPRESSION}",
    ),
    "4.3 PRIORITY inside a header block": (
        [headers(1, block()[:HALF], "END_STREAM"), raw(2, 1, bytes(5))],
        f"goaway {PROTOCOL}",
    ),
    "4.3 HEADERS of another stream inside a header block": (
        [headers(1, block()[:HALF]), headers(3, block(), "END_HEADERS")],
        f"goaway {PROTOCOL}",
    ),
    "5.5 a frame of unknown kind inside a header block": (
        [headers(1, block()[:HALF]), raw(0x16, 0, b"12345678")],
        f"goaway {PROTOCOL}",
    ),
    "6.8 GOAWAY inside a header block": ([headers(1, block()[:HALF]), raw(7, 0, bytes(8))], f"goaway {PROTOCOL}"),
    # §5.1 states of streams
    "5.1 idle: DATA": ([data(1, b"x", "END_STREAM")], f"goaway {PROTOCOL}"),
    "5.1 idle: RST_STREAM": ([rst(1)], f"goaway {PROTOCOL}"),
    "5.1 idle: WINDOW_UPDATE": ([window(1, 100)], f"goaway {PROTOCOL}"),
    "5.1 idle: CONTINUATION": ([continuation(1, block(), "END_HEADERS")], f"goaway {PROTOCOL}"),
    "5.1 idle: PRIORITY": ([raw(2, 3, bytes(4) + b"\x10"), b"GET"], "200"),
    "5.1 half-closed: DATA": ([b"GET", data(1, b"x", "END_STREAM")], f"rst {CLOSED}"),
    "5.1 half-closed: HEADERS": ([b"GET", b"AGAIN"], f"rst {CLOSED}"),
    "5.1 half-closed: CONTINUATION": ([b"GET", continuation(1, b"", "END_HEADERS")], f"goaway {PROTOCOL}"),
    "5.1 half-closed: WINDOW_UPDATE": ([b"GET", window(1, 5)], "open"),
    "5.1 reset: DATA": ([b"POST", rst(1), data(1, b"x", "END_STREAM")], f"rst {CLOSED}"),
    "5.1 reset: HEADERS": ([b"POST", rst(1), b"AGAIN"], f"rst {CLOSED}"),
    "5.1 reset: WINDOW_UPDATE": ([b"POST", rst(1), window(1, 5), ping()], "open"),
    "5.1.1 an even stream": ([headers(2, block(), "END_HEADERS", "END_STREAM")], f"goaway {PROTOCOL}"),
    "5.1.1 a lower stream": (
        [headers(5, block(), "END_HEADERS", "END_STREAM"), headers(3, block(), "END_HEADERS", "END_STREAM")],
        f"goaway {PROTOCOL}",
    ),
    "5.3.1 a stream that depends on itself": ([raw(2, 1, b"\x00\x00\x00\x01\x10")], f"goaway {PROTOCOL}"),
    # §6 kinds of frames
    "6.1 DATA on stream 0": ([raw(0, 0, b"x")], f"goaway {PROTOCOL}"),
    "6.1 DATA with more padding than content": ([b"POST", raw(0, 1, b"\x06test", 0x8)], f"goaway {PROTOCOL}"),
    "6.1 DATA with padding": ([b"POST", raw(0, 1, b"\x04test" + bytes(4), 0x9)], "200"),
    "6.2 HEADERS on stream 0": ([raw(1, 0, block(), 0x5)], f"goaway {PROTOCOL}"),
    "6.2 HEADERS with more padding than content": ([raw(1, 1, b"\xff" + block(), 0xD)], f"goaway {PROTOCOL}"),
    "6.2 HEADERS with padding and priority": ([raw(1, 1, b"\x02" + bytes(5) + block() + bytes(2), 0x2D)], "200"),
    "6.3 PRIORITY on stream 0": ([raw(2, 0, bytes(5))], f"goaway {PROTOCOL}"),
    "6.3 PRIORITY of 4 bytes": ([raw(2, 1, bytes(4))], f"goaway {SIZE}"),
    "6.4 RST_STREAM on stream 0": ([raw(3, 0, bytes(4))], f"goaway {PROTOCOL}"),
    "6.4 RST_STREAM of 3 bytes": ([b"POST", raw(3, 1, bytes(3))], f"goaway {SIZE}"),
    "6.5 SETTINGS ACK with content": ([raw(4, 0, bytes(6), 0x1)], f"goaway {SIZE}"),
    "6.5 SETTINGS on a stream": ([raw(4, 1, bytes(6))], f"goaway {PROTOCOL}"),
    "6.5 SETTINGS of 3 bytes": ([raw(4, 0, bytes(3))], f"goaway {SIZE}"),
    "6.5.2 ENABLE_PUSH of 2": ([settings({2: 2})], f"goaway {PROTOCOL}"),
    "6.5.2 INITIAL_WINDOW_SIZE above the limit": ([settings({4: 2**31})], f"goaway {FLOW}"),
    "6.5.2 MAX_FRAME_SIZE below the limit": ([settings({5: 16_383})], f"goaway {PROTOCOL}"),
    "6.5.2 MAX_FRAME_SIZE above the limit": ([settings({5: 2**24})], f"goaway {PROTOCOL}"),
    "6.5.2 an unknown setting": ([settings({0xFF: 1}), b"GET"], "200"),
    "6.5.2 hundreds of unknown settings": (
        [raw(4, 0, b"".join(n.to_bytes(2, "big") + bytes(4) for n in range(9, 999))), b"GET"],
        "200",
    ),
    "6.6 PUSH_PROMISE by a client": ([b"POST", raw(5, 1, b"\x00\x00\x00\x02" + block(), 0x4)], f"goaway {PROTOCOL}"),
    "6.7 PING on a stream": ([raw(6, 1, bytes(8))], f"goaway {PROTOCOL}"),
    "6.7 PING of 6 bytes": ([raw(6, 0, bytes(6))], f"goaway {SIZE}"),
    "6.7 PING ACK that nobody asked for": ([ping(b"invalid!", "ACK"), b"GET"], "200"),
    "6.8 GOAWAY on a stream": ([raw(7, 1, bytes(8))], f"goaway {PROTOCOL}"),
    "6.8 GOAWAY of 7 bytes": ([raw(7, 0, bytes(7))], f"goaway {SIZE}"),
    "6.9 WINDOW_UPDATE of 0": ([raw(8, 0, bytes(4))], f"goaway {PROTOCOL}"),
    "6.9 WINDOW_UPDATE of 0 on a stream": ([b"POST", raw(8, 1, bytes(4))], f"goaway {PROTOCOL}"),
    "6.9 WINDOW_UPDATE of 3 bytes": ([raw(8, 0, bytes(3))], f"goaway {SIZE}"),
    "6.9.1 the connection's window overflows": ([window(0, MOST)], f"goaway {FLOW}"),
    "6.9.1 a stream's window overflows": ([b"POST", window(1, MOST)], f"rst {FLOW}"),
    "6.9.2 windows overflow by SETTINGS": (
        [b"POST", window(1, MOST - 65_535), settings({4: 65_536})],
        f"goaway {FLOW}",
    ),
    "6.9.1 DATA beyond the window": ([b"POST", *[data(1, bytes(16_384))] * 9], f"goaway {FLOW}"),
    "6.10 many CONTINUATIONs": (
        [headers(1, block()[:1], "END_STREAM")]
        + [continuation(1, block()[n : n + 1]) for n in range(1, len(block()))]
        + [continuation(1, b"", "END_HEADERS")],
        "200",
    ),
    "6.10 CONTINUATION on stream 0": (
        [headers(1, block()[:HALF]), raw(9, 0, block()[HALF:], 0x4)],
        f"goaway {PROTOCOL}",
    ),
    "6.10 CONTINUATION of another stream": (
        [headers(1, block()[:HALF]), continuation(3, block()[HALF:], "END_HEADERS")],
        f"goaway {PROTOCOL}",
    ),
    "6.10 CONTINUATION after END_HEADERS": ([b"POST", continuation(1, b"", "END_HEADERS")], f"goaway {PROTOCOL}"),
    "6.10 CONTINUATION after DATA": (
        [b"POST", data(1, b"x"), continuation(1, b"", "END_HEADERS")],
        f"goaway {PROTOCOL}",
    ),
    # §8.1 messages
    "8.1 trailers": ([b"POST", data(1, b"x"), b"TRAILERS"], "200"),
    "8.1 trailers that do not end the stream": ([b"POST", data(1, b"x"), b"OPEN TRAILERS"], f"goaway {PROTOCOL}"),
    "8.1 trailers with a pseudo-header": ([b"POST", data(1, b"x"), b"AGAIN"], f"rst {PROTOCOL}"),
    "8.1.1 less than content-length": ([b"LENGTH 5", data(1, b"test", "END_STREAM")], f"goaway {PROTOCOL}"),
    "8.1.1 more than content-length": ([b"LENGTH 5", data(1, b"tests!", "END_STREAM")], f"goaway {PROTOCOL}"),
    "8.1.1 more, in several frames": (
        [b"LENGTH 5", data(1, b"tes"), data(1, b"ts!", "END_STREAM")],
        f"goaway {PROTOCOL}",
    ),
    "8.1.1 exactly content-length": ([b"LENGTH 4", data(1, b"te"), data(1, b"st", "END_STREAM")], "200"),
    # RFC 7541
    "HPACK 2.3.3 index 0": ([headers(1, b"\x80", "END_HEADERS", "END_STREAM")], f"goaway {COMPRESSION}"),
    "HPACK 2.3.3 an index beyond the table": (
        [headers(1, b"\xc6", "END_HEADERS", "END_STREAM")],
        f"goaway {COMPRESSION}",
    ),
    "HPACK 4.2 a table size update at the end": (
        [headers(1, block() + b"\x20", "END_HEADERS")],
        f"goaway {COMPRESSION}",
    ),
    "HPACK 6.3 a table greater than allowed": ([headers(1, b"\x3f\xe2\x1f", "END_HEADERS")], f"goaway {COMPRESSION}"),
    "HPACK 5.2 padding of more than 7 bits": (
        [headers(1, block() + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff", "END_HEADERS")],
        f"goaway {COMPRESSION}",
    ),
    "HPACK 5.2 a string with EOS": (
        [headers(1, block() + b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x90\xa9\xff\xff\xff\xff\xff", "END_HEADERS")],
        f"goaway {COMPRESSION}",
    ),
}


def piece(one: Client, name: bytes) -> bytes:
    """Those frames that need the connection's own compression."""
    length = [(b"content-length", name[7:])] if name.startswith(b"LENGTH ") else []
    known = {
        b"GET": lambda: one.get(1),
        b"POST": lambda: one.headers(1, POST),
        b"AGAIN": lambda: one.get(1),
        b"TRAILERS": lambda: one.get(1, [(b"x-sum", b"1")]),
        b"OPEN TRAILERS": lambda: one.headers(1, [(b"x-sum", b"1")]),
    }
    if length:
        return one.headers(1, [*POST, *length])
    return known[name]() if name in known else name


async def outcome_of_frames(name: str) -> str:
    pieces, expected = FRAMES[name]
    app = idle if "window" in name else deaf if expected == "open" or "half-closed" in name else hello
    async with client(app) as one:
        for number in pieces:
            await one.say(piece(one, number))
        assert not expected.startswith("goaway") or one.pipe.ended
        return one.outcome()


async def test_frames() -> None:
    assert {name: await outcome_of_frames(name) for name in FRAMES} == {name: FRAMES[name][1] for name in FRAMES}


FIELDS: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "as it should be": (GET, "200"),
    "8.2.1 an upper-case name": ([*GET, (b"X-Test", b"ok")], "rst 1"),
    "8.2.1 a name with a space": ([*GET, (b"x test", b"ok")], "rst 1"),
    "8.2.1 a name with a colon": ([*GET, (b"x:y", b"ok")], "rst 1"),
    "8.2.1 an empty name": ([*GET, (b"", b"ok")], "rst 1"),
    "8.2.1 a line end in a value": ([*GET, (b"x", b"a\r\ntransfer-encoding: chunked")], "rst 1"),
    "8.2.1 NUL in a value": ([*GET, (b"x", b"a\0b")], "rst 1"),
    "8.2.1 a space before a value": ([*GET, (b"x", b" a")], "rst 1"),
    "8.2.1 a tab after a value": ([*GET, (b"x", b"a\t")], "rst 1"),
    "8.2.1 a space inside a value": ([*GET, (b"x", b"a b")], "200"),
    "8.2.1 an empty value": ([*GET, (b"x", b"")], "200"),
    "8.2.1 a newline in a name": ([*GET, (b"x\r\nhost: y\r\n", b"a")], "rst 1"),
    "8.2.2 connection": ([*GET, (b"connection", b"keep-alive")], "rst 1"),
    "8.2.2 transfer-encoding": ([*POST, (b"transfer-encoding", b"chunked")], "rst 1"),
    "8.2.2 upgrade": ([*GET, (b"upgrade", b"h2c")], "rst 1"),
    "8.2.2 keep-alive": ([*GET, (b"keep-alive", b"timeout=5")], "rst 1"),
    "8.2.2 proxy-connection": ([*GET, (b"proxy-connection", b"close")], "rst 1"),
    "8.2.2 te": ([*GET, (b"te", b"trailers, deflate")], "rst 1"),
    "8.2.2 te: trailers": ([*GET, (b"te", b"trailers")], "200"),
    "8.3 an unknown pseudo-header": ([*GET, (b":test", b"ok")], "rst 1"),
    "8.3 a response's pseudo-header": ([*GET, (b":status", b"200")], "rst 1"),
    "8.3 a pseudo-header after a field": ([*GET[:3], (b"x", b"y"), GET[3]], "rst 1"),
    "8.3.1 no method": (GET[1:], "rst 1"),
    "8.3.1 no scheme": ([GET[0], *GET[2:]], "rst 1"),
    "8.3.1 no path": (GET[:3], "rst 1"),
    "8.3.1 an empty path": ([*GET[:3], (b":path", b"")], "rst 1"),
    "8.3.1 a path that does not begin with a slash": ([*GET[:3], (b":path", b"x")], "rst 1"),
    "8.3.1 an absolute path": ([*GET[:3], (b":path", b"http://y/")], "rst 1"),
    "8.3.1 a path with a space": ([*GET[:3], (b":path", b"/ HTTP/1.1")], "rst 1"),
    "8.3.1 a path with a line end": ([*GET[:3], (b":path", b"/\r\nx: y")], "rst 1"),
    "8.3.1 a path with a fragment": ([*GET[:3], (b":path", b"/a#b")], "rst 1"),
    "8.3.1 a path beyond ASCII": ([*GET[:3], (b":path", b"/\xc3\xa4")], "rst 1"),
    "8.3.1 two methods": ([GET[0], *GET], "rst 1"),
    "8.3.1 two schemes": ([GET[1], *GET], "rst 1"),
    "8.3.1 two paths": ([*GET, GET[3]], "rst 1"),
    "8.3.1 a method with a space": ([(b":method", b"GET /x HTTP/1.1"), *GET[1:]], "rst 1"),
    "8.3.1 a method of its own": ([(b":method", b"BREW"), *GET[1:]], "200"),
    "8.3.1 another scheme": ([GET[0], (b":scheme", b"ftp"), *GET[2:]], "rst 1"),
    "8.3.1 OPTIONS *": ([(b":method", b"OPTIONS"), *GET[1:3], (b":path", b"*")], "200"),
    "8.3.1 GET *": ([*GET[:3], (b":path", b"*")], "rst 1"),
    "8.3.1 host in the place of :authority": ([*GET[:2], GET[3], (b"host", b"x")], "200"),
    "8.3.1 neither": ([*GET[:2], GET[3]], "rst 1"),
    "8.3.1 both, the same": ([*GET, (b"host", b"x")], "200"),
    "8.3.1 both, different": ([*GET, (b"host", b"y")], "rst 1"),
    "8.3.1 two hosts": ([*GET, (b"host", b"x"), (b"host", b"x")], "rst 1"),
    "8.3.1 an authority with a user": ([*GET[:2], (b":authority", b"u@x"), GET[3]], "rst 1"),
    "8.3.1 an authority with a path": ([*GET[:2], (b":authority", b"x/y"), GET[3]], "rst 1"),
    "8.3.1 an empty authority": ([*GET[:2], (b":authority", b""), GET[3]], "rst 1"),
    "8.1.1 a length without a body": ([*GET, (b"content-length", b"5")], "rst 1"),
    "8.1.1 two lengths": ([*GET, (b"content-length", b"0"), (b"content-length", b"0")], "rst 1"),
    "8.1.1 two lengths that differ": ([*GET, (b"content-length", b"0"), (b"content-length", b"1")], "goaway 1"),
    "8.1.1 a length that is no number": ([*GET, (b"content-length", b"+1")], "goaway 1"),
    "8.1.1 a list of lengths": ([*GET, (b"content-length", b"1, 1")], "goaway 1"),
    "8.5 CONNECT": ([(b":method", b"CONNECT"), (b":authority", b"x:443")], "501"),
    "RFC 8441 CONNECT for WebSockets": (
        [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]],
        "rst 1",
    ),
    "more than allowed": ([*GET, *[(b"x", b"y" * 1000)] * 70], "431"),
    "much more than allowed": ([*GET, *[(b"x", b"y" * 1000)] * 140], f"goaway {CALM}"),
}


async def outcome_of_fields(name: str) -> str:
    async with client(hello) as one:
        whole = one.encoder.encode(FIELDS[name][0])
        parts = [whole[at : at + 16_000] for at in range(0, len(whole), 16_000)]
        flags = [["END_HEADERS"] if n == len(parts) - 1 else [] for n in range(len(parts))]
        frames = [continuation(1, part, *flag) for part, flag in zip(parts[1:], flags[1:], strict=True)]
        await one.say(headers(1, parts[0], *flags[0], "END_STREAM"), *frames)
        outcome = one.outcome()
        if not outcome.startswith("goaway"):
            await one.say(one.get(3))
            assert one.outcome(3) == "200", "the other streams live on"
        return outcome


async def test_fields() -> None:
    assert {name: await outcome_of_fields(name) for name in FIELDS} == {name: FIELDS[name][1] for name in FIELDS}


async def test_the_preface_must_be_right() -> None:
    async with client(hello, greet=False) as one:
        await one.say(b"INVALID CONNECTION PREFACE\r\n\r\n")
        assert one.outcome() == "goaway 1"
        assert one.pipe.ended


@pytest.mark.parametrize("first", [ping(), raw(4, 0, b"", 0x1), window(0, 1)])
async def test_the_first_frame_must_be_settings(first: bytes) -> None:
    async with client(hello, greet=False) as one:
        await one.say(PREFACE, first)
        assert one.outcome() == "goaway 1"


async def test_settings_and_pings_are_acknowledged() -> None:
    async with client(hello) as one:
        await one.say(settings({4: 100}), ping(b"abcdefgh"))
        assert sum("ACK" in frame.flags for frame in one.of(SettingsFrame)) == 2
        assert [frame.opaque_data for frame in one.of(PingFrame)] == [b"abcdefgh"]


async def test_streams_beyond_the_limit_are_refused() -> None:
    async with client(deaf, streams=3) as one:
        await one.say(*[one.get(number) for number in (1, 3, 5, 7)])
        assert [one.outcome(number) for number in (1, 5, 7)] == ["open", "open", f"rst {REFUSED}"]


async def test_windows_of_one_byte() -> None:
    async with client(hello) as one:
        await one.say(settings({4: 1}), one.get(1))
        assert one.body(1) == b"G"
        await one.say(settings({4: 2}))
        assert one.body(1) == b"GE"
        await one.say(settings({4: 0}), window(1, 1))
        assert one.body(1) == b"GE", "the window was negative"
        await one.say(window(1, 3))
        assert (one.body(1), one.ended(1)) == (b"GET ", True)


async def test_a_response_is_not_begun_twice() -> None:
    async with client(hello) as one:
        await one.say(one.get(1))
        assert len(one.of(HeadersFrame, 1)) == 1
