"""ASGI on HTTP/2's streams, flow control, the end of connections."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, WindowUpdateFrame

from gapless.server.http.access import Access
from gapless.server.http.client_limits import BODY_RATE, ClientLimits
from gapless.server.http.preface import PREFACE
from gapless.server.http2 import stream as http2_stream
from gapless.server.http2.protocol import RETIRE_PING
from gapless.server.http2.wire import ANY_STREAM, STREAM_WINDOW
from tests.unit.http2_kit import (
    GET,
    POST,
    Fields,
    answer,
    client,
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


async def test_a_scope() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send, b"")

    fields: Fields = [*GET[:3], (b":path", b"/a%20b?c=d%20"), (b"cookie", b"e=f"), (b"x", b"y"), (b"cookie", b"g=h")]
    async with client(app) as one:
        await one.say(one.get(1, fields))
        assert one.outcome() == "200"
    scope = seen[0]
    assert (scope["type"], scope["http_version"], scope["method"], scope["scheme"]) == ("http", "2", "GET", "http")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d%20")
    assert scope["headers"] == [(b"host", b"x"), (b"x", b"y"), (b"cookie", b"e=f; g=h")]
    assert all(type(field) is tuple for field in scope["headers"])


async def test_a_body_comes_as_it_is_read() -> None:
    pieces: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pieces.extend([await receive(), await receive(), await receive()])
        await answer(send, b"")

    async with client(app) as one:
        await one.say(one.headers(1, POST))
        for piece in (data(1, b"a"), data(1, b"b"), data(1, b"", "END_STREAM")):
            await one.say(piece)
        assert one.outcome() == "200"
    assert [(piece["body"], piece["more_body"]) for piece in pieces] == [(b"a", True), (b"b", True), (b"", False)]


async def test_the_window_opens_only_as_the_app_reads() -> None:
    reads = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reads.wait()
        await hello(scope, receive, send)

    async with client(app) as one:
        await one.say(one.headers(1, POST), *[data(1, bytes(16_384))] * 7)
        assert not one.of(WindowUpdateFrame, 1)
        reads.set()
        await one.settle()
        assert [frame.window_increment for frame in one.of(WindowUpdateFrame, 1)] == [7 * 16_384]


async def test_a_stream_that_is_not_read_holds_up_no_other() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (idle if scope["path"] == "/idle" else hello)(scope, receive, send)

    async with client(app, streams=10) as one:
        for number in range(1, 19, 2):
            await one.say(one.headers(number, [*POST[:3], (b":path", b"/idle")]), *[data(number, bytes(16_384))] * 8)
        await one.say(one.headers(19, POST), *[data(19, bytes(16_384))] * 7, data(19, b"end", "END_STREAM"))
        assert one.outcome(19) == "open", "its answer is as long as the window"
        await one.say(window(0, 10**6), window(19, 10**6))
        assert one.outcome(19) == "200"


async def test_what_was_not_read_is_given_back_when_the_stream_ends() -> None:
    async with client(idle) as one:
        for number in range(1, 120, 2):
            await one.say(one.headers(number, POST), *[data(number, bytes(16_384))] * 8, rst(number))
        opened = sum(frame.window_increment for frame in one.of(WindowUpdateFrame, 0))
        assert opened >= 60 * STREAM_WINDOW


async def test_early_answers_stop_the_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"no", 403)

    async with client(app) as one:
        await one.say(one.headers(1, POST), data(1, b"some"))
        assert (one.outcome(), one.status(1)) == ("403", "403")
        assert [frame.error_code for frame in one.of(RstStreamFrame, 1)] == [0]


async def test_100_continue_is_said_when_the_app_reads() -> None:
    async with client(hello) as one:
        await one.say(one.headers(1, [*POST, (b"expect", b"100-continue")]))
        assert [frame.fields for frame in one.of(HeadersFrame, 1)] == [[(b":status", b"100")]]
        await one.say(data(1, b"x", "END_STREAM"))
        assert one.outcome() == "200"


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_responses_without_a_body(method: bytes, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        await send({"type": "http.response.body", "body": b" body"})

    async with client(app) as one:
        await one.say(one.get(1, [(b":method", method), *GET[1:]]))
        assert (one.outcome(), one.body(1)) == (str(status), b"")
        assert dict(one.of(HeadersFrame, 1)[0].fields)[b"content-length"] == b"9"


async def test_trailers() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "http.response.trailers" in scope["extensions"]
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": [(b"X-Sum", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"x-more", b"2")]})

    async with client(app) as one:
        await one.say(one.get(1))
        first, last = one.of(HeadersFrame, 1)
        assert last.fields == [(b"x-sum", b"1"), (b"x-more", b"2")]
        assert "END_STREAM" in last.flags
        assert "END_STREAM" not in first.flags


async def test_headers_that_only_http_1_has_are_dropped_and_the_date_is_added() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        extra = [(b"Connection", b"close"), (b"Transfer-Encoding", b"chunked"), (b"X-A", b" b ")]
        await answer(send, b"", extra=extra)

    async with client(app) as one:
        await one.say(one.get(1))
        fields = dict(one.of(HeadersFrame, 1)[0].fields)
        assert set(fields) == {b":status", b"content-length", b"x-a", b"date"}
        assert fields[b"x-a"] == b"b"


@pytest.mark.parametrize(
    ("fields", "bodies"),
    [
        ([(b"content-length", b"3")], [b"four"]),
        ([(b"content-length", b"5")], [b"four"]),
        ([(b"x", b"a\r\nb: c")], [b""]),
        ([(b"x y", b"a")], [b""]),
        ([(b"content-length", b"x")], [b""]),
    ],
)
async def test_wrong_responses_are_answered_with_500(
    fields: Fields, bodies: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        for body in bodies:
            await send({"type": "http.response.body", "body": body})

    async with client(app) as one:
        await one.say(one.get(1))
        assert one.outcome() == "500"
    assert "the app failed at GET /" in caplog.text


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_an_app_that_fails_takes_no_other_stream_with_it(sent: int, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/":
            await answer(send, b"")
            return
        if sent > 0:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if sent > 1:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ValueError("as it happens")

    async with client(app) as one:
        await one.say(one.get(1, [*GET[:3], (b":path", b"/fail")]), one.get(3))
        assert [one.outcome(1), one.outcome(3)] == ["rst 2" if sent == 2 else "500", "200"]
    assert "as it happens" in caplog.text


async def test_an_app_that_returns_too_early(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    async with client(app) as one:
        await one.say(one.get(1))
        assert one.outcome() == "500"
    assert "without http.response.start" in caplog.text


async def test_a_reset_is_a_disconnect_and_what_is_sent_then_is_dropped() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])
        await answer(send, b"too late")

    async with client(app) as one:
        await one.say(one.get(1))
        await one.say(rst(1))
        assert heard[-1] == "http.disconnect"
        assert not one.of(HeadersFrame, 1)
        assert not one.protocol.busy
        await one.say(ping())
        assert one.of(PingFrame)


async def test_a_lost_connection_is_a_disconnect() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])

    async with client(app) as one:
        await one.say(one.get(1))
        one.pipe.close()
        await one.settle()
    assert heard == ["http.request", "http.disconnect"]


async def test_bodies_over_the_limit() -> None:
    async with client(hello, ClientLimits(body_bytes=10)) as one:
        await one.say(one.headers(1, [*POST, (b"content-length", b"11")]))
        await one.say(one.headers(3, POST), data(3, b"12345"), data(3, b"678901"))
        await one.say(one.headers(5, POST), data(5, b"1234567890", "END_STREAM"))
        assert [one.status(number) for number in (1, 3, 5)] == ["413", "413", "200"]
        assert {frame.stream_id for frame in one.of(RstStreamFrame)} == {1, 3}


async def test_a_great_response_leaves_room_for_others() -> None:
    """Who was served goes behind those that wait."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, bytes(200_000))

    async with client(app) as one:
        await one.say(one.get(1), one.get(3), one.get(5))
        for _ in range(40):
            await one.say(window(1, 16_384), window(3, 16_384), window(5, 16_384), window(0, 16_384))
        assert [one.outcome(number) for number in (1, 3, 5)] == ["200"] * 3
        order = [frame.stream_id for frame in one.of(DataFrame) if len(frame.data) == 16_384]
        assert {1, 3, 5} <= set(order[4:10])


async def test_a_client_that_does_not_read_is_not_written_to() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, bytes(10_000_000))

    async with client(app) as one:
        one.protocol.pause_writing()
        await one.say(settings({4: ANY_STREAM}), window(0, ANY_STREAM - 65_535), one.get(1))
        assert not one.of(DataFrame)
        one.protocol.resume_writing()
        await one.settle()
        assert one.of(DataFrame)
        for _ in range(1_000):  # of a body so large only a part goes out in each turn
            await one.settle()
        assert one.outcome() == "200"


async def test_a_slow_client_stands_still_only_when_it_takes_less_than_the_pace() -> None:
    async with client(hello) as one:
        sender, pipe, loop = one.protocol._sender, one.pipe, asyncio.get_running_loop()
        real, ahead_s = loop.time, 0.0
        loop.time = lambda: real() + ahead_s  # type: ignore[method-assign]
        assert sender.standing_at(60.0) == 0.0
        pipe.unsent = 1_000_000
        one.protocol.pause_writing()
        began = sender.standing_at(60.0)
        for _ in range(5):
            ahead_s += 60.1
            pipe.unsent -= 60 * BODY_RATE
            assert sender.standing_at(60.0) > began, "it keeps up"
            began = sender.standing_at(60.0)
        ahead_s += 60.1
        pipe.unsent -= 100
        assert sender.standing_at(60.0) == began
        one.protocol.resume_writing()
        assert sender.standing_at(60.0) == 0.0


async def test_a_client_that_pings_and_does_not_read_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async with client(hello) as one:
        one.pipe.unsent = 2**21
        await one.say(ping())
        assert one.pipe.aborted
    assert "does not read" in caplog.text


# The end.


def goaways(one: Any) -> list[tuple[int, int]]:
    return [(frame.last_stream_id, frame.error_code) for frame in one.of(GoAwayFrame)]


async def test_it_ends_in_two_phases() -> None:
    finish = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await finish.wait()
        await answer(send, b"done")

    async with client(app) as one:
        await one.say(one.get(1))
        one.protocol.retire()
        one.protocol.retire()
        await one.say(one.get(3))  # it has crossed the first GOAWAY
        assert goaways(one) == [(ANY_STREAM, 0)]
        assert [frame.opaque_data for frame in one.of(PingFrame)] == [RETIRE_PING]
        await one.say(ping(RETIRE_PING, "ACK"), one.get(5))
        assert goaways(one) == [(ANY_STREAM, 0), (3, 0)]
        assert one.outcome(5) == "rst 7", "refused: it may be sent again elsewhere"
        assert not one.pipe.ended
        finish.set()
        await one.settle()
        assert [one.body(1), one.body(3)] == [b"done", b"done"]
        assert one.pipe.ended
        assert not one.pipe.closing, "the client gets the time to read"
        one.protocol.eof_received()


async def test_an_idle_connection_ends_after_the_round_trip() -> None:
    async with client(hello) as one:
        await one.say(one.get(1))
        one.protocol.retire()
        await one.settle()
        assert not one.pipe.ended
        await one.say(ping(RETIRE_PING, "ACK"))
        assert goaways(one) == [(ANY_STREAM, 0), (1, 0)]
        assert one.pipe.ended


async def test_a_connection_made_while_leaving_is_told_at_once() -> None:
    async with client(hello, greet=False) as one:
        one.connections.tell(1.0)
        await one.say(PREFACE, settings({}), one.get(1))
        assert goaways(one) == [(ANY_STREAM, 0)]
        assert one.outcome() == "200"


async def test_a_silent_client_is_closed_without_a_round_trip() -> None:
    async with client(hello) as one:
        one.protocol.retire()
        one.protocol.close_silent()
        await one.settle()
        assert goaways(one) == [(ANY_STREAM, 0), (0, 0)]
        assert one.pipe.ended


async def test_a_busy_connection_is_not_silent() -> None:
    async with client(deaf) as one:
        await one.say(one.get(1))
        one.protocol.close_silent()
        await one.settle()
        assert not one.pipe.ended


async def test_a_client_that_says_goaway_gets_its_responses() -> None:
    finish = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await finish.wait()
        await answer(send, b"done")

    async with client(app) as one:
        await one.say(one.get(1), raw(7, 0, bytes(8)), ping())
        assert not one.pipe.ended
        finish.set()
        await one.settle()
        assert one.body(1) == b"done"
        assert one.pipe.ended


async def test_a_client_that_ends_its_half_gets_its_responses() -> None:
    async with client(hello) as one:
        one.protocol.data_received(one.get(1))
        assert one.protocol.eof_received()
        await one.settle()
        assert one.outcome() == "200"
        assert one.pipe.ended


async def test_what_came_before_a_wrong_frame_reaches_the_app() -> None:
    """Otherwise the client would be told that it was processed."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await deaf(scope, receive, send)

    async with client(app) as one:
        await one.say(one.get(1) + raw(6, 1, bytes(8)))
        assert goaways(one) == [(1, 1)]
    assert seen == ["/"]


async def test_rapid_resets_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gapless.server")
    began = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal began
        began += 1
        await deaf(scope, receive, send)

    async with client(app) as one:
        for number in range(1, 20_000, 20):
            if one.pipe.ended:
                break
            await one.say(*[frame for n in range(number, number + 20, 2) for frame in (one.get(n), rst(n))])
        assert goaways(one)[-1][1] == 11
        assert began < 10_000
        assert not one.connections.tasks
    assert "too many streams were reset" in caplog.text


async def test_apps_that_go_on_after_resets_are_bounded() -> None:
    async with client(idle, streams=5) as one:
        for number in range(1, 121, 2):
            await one.say(one.get(number), rst(number))
        assert len(one.connections.tasks) == 50
        await one.say(one.get(121))
        assert one.outcome(121) == "rst 7"


async def test_header_compression_does_not_take_the_memory_that_a_client_offers() -> None:
    async with client(hello) as one:
        await one.say(settings({1: 2**32 - 1}), one.get(1))
        assert one.protocol._wire.encoder.header_table_size == 4096
        assert one.outcome() == "200"


async def test_a_slow_header_block_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(hello) as one:
        await one.say(headers(1, b"\x82"))
        at, act = one.protocol._due()
        assert act.name == "TOO_SLOW"
        assert at - asyncio.get_running_loop().time() <= 20
        one.protocol._acts[act]()
        await one.settle()
        assert goaways(one) == [(0, 11)]


async def test_a_body_that_does_not_come_is_answered() -> None:
    async with client(hello, ClientLimits(body_s=0.05)) as one:
        await one.say(one.headers(1, POST), data(1, b"some"))
        await one.say(one.headers(3, POST), data(3, b"all", "END_STREAM"))
        await one.until(lambda: bool(one.of(RstStreamFrame)))
        assert (one.status(1), one.status(3)) == ("408", "200")
        assert [frame.stream_id for frame in one.of(RstStreamFrame)] == [1]


async def test_who_has_begun_to_answer_may_wait_for_more() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await hello_again(receive, send)

    async def hello_again(receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            continue
        await send({"type": "http.response.body", "body": b" and done"})

    async with client(app, ClientLimits(body_s=0.05)) as one:
        await one.say(one.headers(1, POST))
        await asyncio.sleep(0.15)
        await one.say(data(1, b"", "END_STREAM"))
        assert (one.outcome(), one.body(1)) == ("200", b"begun and done")


@pytest.mark.parametrize(
    ("limits", "fields", "status"),
    [
        (ClientLimits(line_bytes=10), [*GET[:3], (b":path", b"/12345678901")], "414"),
        (ClientLimits(header_count=3), [*GET, (b"a", b""), (b"b", b""), (b"c", b"")], "431"),
        (ClientLimits(header_bytes=300), [*GET, (b"a", b"x" * 200)], "431"),
        (ClientLimits(0, 0, 0, 0, 0, 0, 0), [*GET, *[(b"a", b"x" * 900)] * 200], "200"),
    ],
)
async def test_limits_of_heads(limits: ClientLimits, fields: Fields, status: str) -> None:
    async with client(hello, limits) as one:
        await one.say(one.get(1, fields))
        await one.say(one.get(3))
        assert (one.outcome(1), one.outcome(3)) == (status, "200")


async def test_connections_beyond_the_limit_get_503_but_for_probes() -> None:
    async with client(hello, ClientLimits(connections=1)) as one:
        one.protocol._surplus = True
        await one.say(one.get(1), one.get(3, [*GET[:3], (b":path", b"/readyz")]))
        assert [one.outcome(1), one.outcome(3)] == ["503", "200"]
        assert dict(one.of(HeadersFrame, 1)[0].fields)[b"retry-after"]


async def test_what_trusted_proxies_say_is_in_the_scope() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"], scope["scheme"]))
        await answer(send, b"")

    told: Fields = [*GET, (b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-proto", b"https")]
    async with client(app) as one:
        await one.say(one.get(1, told))
        one.protocol._trusted = False
        await one.say(one.get(3, told))
    assert seen == [(("192.0.2.7", 0), "https"), (None, "http")]


async def test_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gapless.access")
    async with client(hello, ClientLimits(body_bytes=1)) as one:
        one.protocol._site = one.protocol._site._replace(access=Access())
        await one.say(one.get(1, [*GET[:3], (b":path", b"/a?b")]), one.headers(3, POST), data(3, b"12"))
        assert [one.status(1), one.status(3)] == ["200", "413"]
    lines = {record.getMessage(): vars(record) for record in caplog.records}
    assert set(lines) == {"GET /a?b 200", "refused with 413: HTTP/2, stream 3"}
    assert lines["GET /a?b 200"]["bytes"] == 4


async def test_event_streams_are_told_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_stream, "LAST_WORD_S", 0.2)  # in which a busy machine hears it
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await receive()
        heard.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"data: bye\n\n", "more_body": True})
        await asyncio.Event().wait()

    async with client(app) as one:
        await one.say(one.get(1))
        assert one.protocol.streaming
        one.protocol.retire()
        one.protocol.end_stream()
        assert not one.protocol.streaming
        await one.say(ping(RETIRE_PING, "ACK"))
        await one.until(lambda: one.pipe.ended and not one.connections.tasks)
        assert heard == ["http.disconnect"]
        assert (one.outcome(), one.body(1)) == ("200", b"data: 1\n\ndata: bye\n\n")
        assert one.pipe.ended
        assert not one.connections.tasks


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.parametrize("begun", [True, False])
async def test_event_streams_end_though_they_are_silent(
    returns: bool, begun: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a first event, by an app that listens and returns, and by one that does not."""
    monkeypatch.setattr(http2_stream, "LAST_WORD_S", 0.02)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        if begun:
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        while not returns or (await receive())["type"] != "http.disconnect":
            await asyncio.sleep(0 if returns else 60)

    async with client(app) as one:
        await one.say(one.get(1))
        assert one.protocol.streaming
        one.protocol.retire()
        one.protocol.end_stream()
        await one.say(ping(RETIRE_PING, "ACK"))
        await one.until(lambda: one.pipe.ended and not one.connections.tasks)
        assert (one.outcome(), one.body(1)) == ("200", b"data: 1\n\n" * begun)
        assert not one.of(RstStreamFrame)
        assert one.pipe.ended
        assert not one.connections.tasks
    assert "ERROR" not in caplog.text
