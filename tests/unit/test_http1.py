"""One connection: what an app may do and what comes of it, limits and their statuses, and time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from gapless.server.http.client_limits import BODY_RATE, ClientLimits
from gapless.server.http1.protocol import Http1
from gapless.server.http1.response import BadResponse
from gapless.service.asgi import FIELDS
from tests.unit.http1_cases import OK, chunked, get, post
from tests.unit.http1_kit import Echo, Talk, Wire, connect, say, site, turns

Headers = list[tuple[bytes, bytes]]


class Says:
    """An app that sends what it is given, and remembers how that ended."""

    def __init__(self, *messages: Any, status: int = 200, headers: Headers | None = None) -> None:
        start = {"type": "http.response.start", "status": status, "headers": headers or []}
        self.messages = [start, *messages]
        self.raised: list[BaseException] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            for message in self.messages:
                await send(message)
        except Exception as error:
            self.raised.append(error)
            raise


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Clock:
    """Lets the loop believe that time has passed."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ahead_s = 0.0
        real = self.loop.time
        self.loop.time = lambda: real() + self.ahead_s  # type: ignore[method-assign]

    async def passes(self, seconds: float) -> None:
        self.ahead_s += seconds
        await turns()


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """Waits for its whole request, and for the client's end."""
    while (await receive())["type"] != "http.disconnect":
        continue


# Framing.


async def test_head_and_body_leave_in_one_write() -> None:
    talk = await say([OK], Says(body(b"hello")))
    assert talk.wire.writes == 1
    assert talk.wire.out.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: ")
    assert talk.wire.out.endswith(b"\r\nkeep-alive: timeout=75\r\n\r\nhello")


async def test_a_body_in_pieces_is_chunked_and_ends_with_the_last_piece() -> None:
    talk = await say([OK], Says(body(b"a" * 17, more=True), body(b"", more=True), body(b"b")))
    assert talk.wire.out.endswith(b"\r\n\r\n11\r\n" + b"a" * 17 + b"\r\n1\r\nb\r\n0\r\n\r\n")
    assert talk.answers[0].headers["transfer-encoding"] == "chunked"


async def test_a_length_given_by_the_app_frames_pieces() -> None:
    talk = await say([OK * 2], Says(body(b"ab", more=True), body(b"c"), headers=[(b"Content-Length", b"3")]))
    assert [answer.body for answer in talk.answers] == [b"abc", b"abc"]
    assert b"chunked" not in talk.wire.out


async def test_large_bodies_leave_as_they_are() -> None:
    talk = await say([OK], Says(body(b"x" * 100_000)))
    assert talk.answers[0].body == b"x" * 100_000


@pytest.mark.parametrize(("status", "method"), [(204, b"GET"), (304, b"GET"), (200, b"HEAD"), (404, b"HEAD")])
async def test_answers_that_have_no_body(status: int, method: bytes) -> None:
    app = Says(body(b"not sent"), status=status, headers=[(b"etag", b"x")])
    talk = await say([OK.replace(b"GET", method) * 2], app)
    assert talk.wire.out.count(b"HTTP/1.1 ") == 2
    assert b"not sent" not in talk.wire.out
    assert b"transfer-encoding" not in talk.wire.out
    assert b"content-length" not in talk.wire.out


async def test_head_tells_the_length_that_get_would_have() -> None:
    talk = await say([OK.replace(b"GET", b"HEAD")], Says(body(b""), headers=[(b"content-length", b"17")]))
    assert b"content-length: 17\r\n" in talk.wire.out
    assert talk.wire.out.endswith(b"\r\n\r\n")


async def test_no_length_with_204() -> None:
    talk = await say([OK], Says(body(b""), status=204, headers=[(b"content-length", b"0")]))
    assert b"content-length" not in talk.wire.out


async def test_http_1_0_gets_a_length_or_the_end_of_the_connection_but_no_chunks() -> None:
    old = b"GET / HTTP/1.0\r\n\r\n"
    talk = await say([old], Says(body(b"a", more=True), body(b"b")))
    assert talk.wire.out.endswith(b"connection: close\r\n\r\nab")
    kept = await say([old.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")], Says(body(b"ab")))
    assert kept.answers[0].headers["connection"] == "keep-alive"
    assert kept.answers[0].headers["keep-alive"] == "timeout=75"


async def test_the_apps_own_words_about_the_connection() -> None:
    app = Says(body(b"x"), headers=[(b"Connection", b"close"), (b"Date", b"now"), (b"Transfer-Encoding", b"chunked")])
    talk = await say([OK * 2], app)
    (answer,) = talk.answers
    assert answer.headers["connection"] == "close"
    assert answer.headers["date"] == "now"
    assert talk.wire.out.lower().count(b"connection:") == talk.wire.out.lower().count(b"date:") == 1


# The scope.


async def test_the_scope() -> None:
    talk = await say([b"GET /a%20b/%C3%A9?q=%20 HTTP/1.1\r\nHost: Ex.org\r\nX-Two: 1 \r\nX-Two: 2\r\n\r\n"])
    (scope,) = talk.app.scopes
    assert {key: scope[key] for key in scope if key not in ("headers", "asgi", FIELDS)} == {
        "type": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50_000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/a b/é",
        "raw_path": b"/a%20b/%C3%A9",
        "query_string": b"q=%20",
        "state": {},
        "extensions": {},
    }
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert scope["headers"] == [(b"host", b"Ex.org"), (b"x-two", b"1"), (b"x-two", b"2")]


async def test_the_target_names_the_host_in_absolute_form() -> None:
    talk = await say([b"GET http://real.org:81/a?b HTTP/1.1\r\nHost: other\r\nX: y\r\n\r\n"])
    (scope,) = talk.app.scopes
    assert scope["headers"] == [(b"host", b"real.org:81"), (b"x", b"y")]
    assert (scope["path"], scope["query_string"]) == ("/a", b"b")


async def test_trailers_are_not_headers_of_this_or_the_next_request() -> None:
    talk = await say([chunked(b"1\r\na\r\n0\r\nX-Evil: 1\r\n\r\n") + OK])
    assert [one.body for one in talk.app.seen] == [b"a", b""]
    assert all(name != b"x-evil" for one in talk.app.seen for name, _ in one.headers)


async def test_a_unix_socket_has_no_client() -> None:
    talk = await say([OK], peer="")
    assert talk.app.scopes[0]["client"] is None


# Bodies.


async def test_continue_is_said_when_the_app_asks_for_the_body() -> None:
    ask = post(b"Expect: 100-continue", b"Content-Length: 3")
    talk = connect(Echo())
    talk.protocol.data_received(ask)
    await turns()
    assert talk.wire.out == b"HTTP/1.1 100 Continue\r\n\r\n"
    talk.protocol.data_received(b"abc")
    await turns()
    assert [answer.status for answer in talk.answers] == [100, 200]
    assert talk.app.seen[0].body == b"abc"
    assert not talk.ended


async def test_an_app_that_does_not_want_the_body_answers_without_continue_and_the_connection_ends() -> None:
    talk = await say([post(b"Expect: 100-continue", b"Content-Length: 3")], Says(body(b"no"), status=403))
    assert talk.statuses == [403]
    assert talk.answers[0].headers["connection"] == "close"


async def test_a_body_that_came_at_once_needs_no_invitation() -> None:
    talk = await say([post(b"Expect: 100-continue", b"Content-Length: 3", body=b"abc")])
    assert talk.statuses == [200]


async def test_reading_stops_while_a_large_body_waits_for_the_app() -> None:
    talk = connect(silent)
    talk.protocol.data_received(post(b"Content-Length: 1000000", body=b"x" * 100_000))
    assert talk.wire.paused
    await turns()
    assert not talk.wire.paused


async def test_reading_stops_while_pipelined_requests_wait() -> None:
    talk = connect(Echo())
    talk.protocol.data_received(OK * 3)
    assert talk.wire.paused
    await turns(20)
    assert talk.statuses == [200] * 3
    assert not talk.wire.paused


async def test_the_rest_of_a_body_that_was_answered_early_is_skipped() -> None:
    talk = connect(Says(body(b"early")))
    talk.protocol.data_received(post(b"Content-Length: 100", body=b"x" * 50))
    await turns()
    assert talk.protocol.detach() is None
    talk.protocol.data_received(b"x" * 50 + OK)
    await turns()
    assert talk.statuses == [200, 200]
    assert not talk.ended


async def test_nobody_reads_an_endless_body_that_was_answered_early() -> None:
    talk = connect(Says(body(b"early")))
    talk.protocol.data_received(post(b"Content-Length: 99999999"))
    await turns()
    for _ in range(40):
        talk.protocol.data_received(b"x" * 10_000)
    await turns()
    assert talk.statuses == [200]
    assert talk.wire.eof


async def test_a_slow_client_holds_the_app_and_nobody_else() -> None:
    talk = connect(Says(body(b"a", more=True), body(b"b", more=True), body(b"c")))
    talk.protocol.pause_writing()
    talk.protocol.data_received(OK)
    await turns()
    assert talk.wire.out.endswith(b"1\r\na\r\n")
    talk.protocol.resume_writing()
    await turns()
    assert talk.wire.out.endswith(b"1\r\nc\r\n0\r\n\r\n")


# Apps that fail.


async def failing(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("broken")


async def absent(scope: Any, receive: Any, send: Any) -> None:
    return


@pytest.mark.parametrize("app", [failing, absent, Says()], ids=["raises", "returns", "begins only"])
async def test_an_app_without_an_answer_is_500_and_the_connection_goes_on(app: Any) -> None:
    talk = connect(app)
    talk.protocol.data_received(OK * 2)
    await turns(20)
    assert talk.statuses == [500, 500]
    assert "connection" not in talk.answers[0].headers
    assert not talk.ended


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [(b"a", b"b\r\nc: d")]),
        (200, [(b"a", b"b\x00")]),
        (200, [(b"a b", b"c")]),
        (200, [(b"a:", b"c")]),
        (200, [(b"", b"c")]),
        (200, [(b"content-length", b"-1")]),
        (200, [(b"content-length", b"1"), (b"content-length", b"2")]),
        (200, [(b"transfer-encoding", b"gzip")]),
        (101, []),
        (99, []),
        (1000, []),
    ],
)
async def test_what_is_no_response_is_500(status: int, headers: Headers) -> None:
    app = Says(body(b"x"), status=status, headers=headers)
    talk = await say([OK], app)
    assert talk.statuses == [500]
    assert isinstance(app.raised[0], BadResponse)


@pytest.mark.parametrize("size", [1, 3])
async def test_a_body_that_does_not_fit_its_length_is_500_while_that_can_be_said(size: int) -> None:
    talk = await say([OK], Says(body(b"x" * size), headers=[(b"content-length", b"2")]))
    assert talk.statuses == [500]


async def test_a_response_that_breaks_off_is_seen_to() -> None:
    talk = connect(Says(body(b"a", more=True)))
    talk.protocol.data_received(OK)
    await turns()
    assert talk.wire.closing
    assert not talk.wire.out.endswith(b"0\r\n\r\n")


async def test_to_http_1_0_a_broken_response_is_reset() -> None:
    talk = connect(Says(body(b"a", more=True)))
    talk.protocol.data_received(b"GET / HTTP/1.0\r\n\r\n")
    await turns()
    assert talk.wire.aborted


async def test_messages_out_of_order_are_the_apps_mistake() -> None:
    app = Says(body(b"a"), body(b"b"))
    talk = await say([OK], app)
    assert talk.statuses == [200]
    assert "complete" in str(app.raised[0])


async def test_a_client_that_goes_is_told_and_sending_to_it_raises(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200})

    talk = connect(app)
    talk.protocol.data_received(OK)
    await turns()
    with caplog.at_level(logging.INFO):
        talk.wire.close()
        await turns()
    assert seen == ["http.request", "http.disconnect"]
    assert not talk.protocol.site.connections.tasks
    assert not caplog.records, "the client's end is nobody's failure"


# ClientLimits.


@pytest.mark.parametrize(
    ("limits", "data", "status"),
    [
        (ClientLimits(line_bytes=100), get(line=b"GET /" + b"a" * 100 + b" HTTP/1.1"), 414),
        (ClientLimits(line_bytes=100), b"GET /" + b"a" * 30_000, 414),
        (ClientLimits(header_bytes=200, line_bytes=50), get(*[b"a: " + b"b" * 40] * 5), 431),
        (ClientLimits(header_bytes=200, line_bytes=50), get(b"a: " + b"b" * 300), 431),
        (ClientLimits(header_count=5), get(*[b"a: b"] * 5), 431),
        (ClientLimits(body_bytes=10), post(b"Content-Length: 11", body=b"x" * 11), 413),
        (ClientLimits(body_bytes=10), post(b"Content-Length: 11"), 413),
        (ClientLimits(body_bytes=10), chunked(b"6\r\nabcdef\r\n" * 2 + b"0\r\n\r\n"), 413),
        (ClientLimits(), chunked(b"1;" + b"a" * 200_000), 400),
    ],
)
@pytest.mark.parametrize("step", [10_000_000, 64])
async def test_each_limit_has_its_status(limits: ClientLimits, data: bytes, status: int, step: int) -> None:
    talk = await say([data[at : at + step] for at in range(0, len(data), step)], limits=limits)
    if step == 64 or status != 400:
        assert talk.statuses == [status]
        assert talk.answers[0].headers["connection"] == "close"
        assert talk.wire.eof
    assert not [one for one in talk.app.seen if one.complete]


async def test_what_is_within_the_limits_passes() -> None:
    limits = ClientLimits(line_bytes=5, header_bytes=len("host: x") + 2, header_count=1, body_bytes=3)
    talk = await say([post(b"X: y")], limits=limits)
    assert talk.statuses == [431]
    within = OK.replace(b"/next", b"/1234")
    assert (await say([within], limits=limits)).statuses == [200]
    assert (await say([within], limits=ClientLimits(0, 0, 0, 0, 0, 0))).statuses == [200]


async def test_connections_above_the_limit_get_503_except_for_probes() -> None:
    first = connect(Echo(), limits=ClientLimits(connections=1), probes=frozenset({"/readyz"}))
    talks = [Talk(first.wire, first.protocol, first.app)]
    from gapless.server.http1.protocol import Http1
    from tests.unit.http1_kit import Wire

    for request in (OK, OK.replace(b"/next", b"/readyz")):
        wire, protocol = Wire(), Http1(first.protocol.site)
        wire.protocol = protocol
        protocol.connection_made(wire)
        protocol.data_received(request)
        talks.append(Talk(wire, protocol, first.app))
    first.protocol.data_received(OK)
    await turns()
    assert [talk.statuses for talk in talks] == [[200], [503], [200]]
    assert talks[1].answers[0].headers["retry-after"] == "1"


# Time.


async def test_a_head_that_does_not_end_is_408() -> None:
    clock, talk = Clock(), connect(Echo())
    talk.protocol.data_received(OK[:-2])
    await clock.passes(19)
    assert not talk.wire.out
    talk.protocol.data_received(b"A: b\r\n")
    await clock.passes(2)
    assert talk.statuses == [408]
    assert talk.wire.eof
    await clock.passes(3)
    assert talk.wire.closing


async def test_a_body_that_stops_is_408_and_the_app_is_told() -> None:
    clock, talk = Clock(), connect(Echo())
    talk.protocol.data_received(post(b"Content-Length: 100000", body=b"x" * 10 * BODY_RATE))
    await clock.passes(31)
    assert not talk.wire.out, "its pace has been good until here"
    await clock.passes(10)
    assert talk.statuses == [408]
    await turns()
    assert [one.complete for one in talk.app.seen] == [False]


async def test_a_body_at_a_fair_pace_may_take_its_time() -> None:
    clock, talk = Clock(), connect(Echo())
    talk.protocol.data_received(post(b"Content-Length: %d" % (BODY_RATE * 100)))
    for _ in range(100):
        await clock.passes(1)
        talk.protocol.data_received(b"x" * BODY_RATE)
    await turns()
    assert talk.statuses == [200]


async def test_the_app_may_let_a_body_wait_for_as_long_as_it_likes() -> None:
    go = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await Echo()(scope, receive, send)

    clock, talk = Clock(), connect(slow)
    talk.protocol.data_received(post(b"Content-Length: 200000", body=b"x" * 100_000))
    await clock.passes(1000)
    assert not talk.wire.out
    go.set()
    await turns()
    talk.protocol.data_received(b"x" * 100_000)
    await turns()
    assert talk.statuses == [200]


async def test_an_invited_body_is_not_late_before_its_invitation() -> None:
    clock, talk = Clock(), connect(lambda scope, receive, send: asyncio.sleep(10_000))
    talk.protocol.data_received(post(b"Expect: 100-continue", b"Content-Length: 3"))
    await clock.passes(500)
    assert not talk.wire.out
    talk.wire.close()
    for task in talk.protocol.site.connections.tasks:
        task.cancel()
    await turns()


def choke(talk: Talk, unsent: int) -> None:
    """The client has so much left to take."""
    talk.wire.unsent = unsent
    talk.protocol.pause_writing()


async def test_a_client_that_takes_nothing_of_its_response_is_cut() -> None:
    clock, talk = Clock(), connect(silent)
    talk.protocol.data_received(OK)
    await turns()
    choke(talk, 100_000)
    await clock.passes(59)
    assert not talk.ended
    await clock.passes(2)
    assert talk.wire.aborted


async def test_a_client_that_keeps_its_pace_is_never_cut() -> None:
    clock, talk = Clock(), connect(silent)
    talk.protocol.data_received(OK)
    await turns()
    choke(talk, 10_000_000)
    for _ in range(20):
        talk.wire.unsent -= 60 * BODY_RATE
        await clock.passes(60.1)
    assert not talk.ended
    await clock.passes(60.1)
    assert talk.wire.aborted


async def test_a_client_that_was_slow_for_a_while_is_forgiven() -> None:
    clock, talk = Clock(), connect(silent)
    talk.protocol.data_received(OK)
    await turns()
    for _ in range(3):
        choke(talk, 100_000)
        await clock.passes(50)
        talk.protocol.resume_writing()
        await clock.passes(20)
    await clock.passes(10_000)
    assert not talk.ended


async def test_without_a_limit_a_client_may_be_as_slow_as_it_likes() -> None:
    clock, talk = Clock(), connect(silent, limits=ClientLimits(send_s=0))
    talk.protocol.data_received(OK)
    await turns()
    choke(talk, 100_000)
    await clock.passes(10_000)
    assert not talk.ended


async def test_an_idle_connection_whose_last_response_is_not_taken_is_closed_and_then_cut() -> None:
    clock, talk = Clock(), connect(Echo())
    talk.protocol.data_received(OK)
    await turns()
    talk.wire.unsent = 1000  # too little to be choked
    await clock.passes(78)
    assert talk.wire.closing
    await clock.passes(30)
    assert not talk.wire.aborted
    await clock.passes(100)
    assert talk.wire.aborted


async def test_who_was_let_in_by_another_worker_is_not_one_too_many() -> None:
    full = site(Echo(), limits=ClientLimits(connections=1))
    talks = []
    for admitted in (False, False, True):
        wire, protocol = Wire(), Http1(full, admitted)
        wire.protocol = protocol
        protocol.connection_made(wire)
        protocol.data_received(OK)
        talks.append(Talk(wire, protocol, None))
    await turns()
    assert [talk.statuses for talk in talks] == [[200], [503], [200]]


async def test_an_idle_connection_is_closed_in_the_end_and_not_before() -> None:
    clock, talk = Clock(), connect(Echo())
    for _ in range(3):
        await clock.passes(70)
        talk.protocol.data_received(OK)
        await turns()
    assert talk.statuses == [200] * 3
    await clock.passes(76.5)
    assert not talk.ended
    await clock.passes(1)
    assert talk.wire.closing


async def test_a_request_that_takes_long_is_waited_for() -> None:
    clock, talk = Clock(), connect(silent)
    talk.protocol.data_received(OK)
    await turns()
    await clock.passes(10_000)
    assert not talk.ended
    talk.wire.close()
    await turns()
