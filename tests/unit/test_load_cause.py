"""Every ending of a request has one cause."""

from __future__ import annotations

import errno
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.load.cause import Answer, Cause, Loss, ended, judge, unconnected
from gapless.load.reader import Reader
from gapless.load.spec import Expect


@given(status=st.integers(200, 599), body=st.binary(max_size=20))
def test_a_verdict_depends_on_status_first_then_body(status: int, body: bytes) -> None:
    loss = judge(Answer(status=status, body=body), Expect(body=re.compile("ok")))
    if status >= 500:
        assert loss is not None
        assert loss.cause is Cause.SERVER_ERROR
    elif status >= 400:
        assert loss is not None
        assert loss.cause is Cause.STATUS
    else:
        assert (loss is None) == (b"ok" in body)
        assert loss is None or loss.cause is Cause.WRONG


def test_an_expected_error_is_a_good_answer() -> None:
    assert judge(Answer(status=503), Expect.parse("503")) is None


def test_a_long_body_is_shortened_for_people() -> None:
    loss = judge(Answer(status=500, body=b"x \n" * 100), Expect())
    assert loss is not None
    assert len(loss.detail) < 100
    assert loss.detail.startswith("500 x x")


@pytest.mark.parametrize(
    ("error", "begun", "cause"),
    [
        (None, False, Cause.RESET),
        (None, True, Cause.TRUNCATED),
        (ConnectionResetError(errno.ECONNRESET, ""), False, Cause.RESET),
        (ConnectionResetError(errno.ECONNRESET, ""), True, Cause.RESET),
        (BrokenPipeError(errno.EPIPE, ""), False, Cause.RESET),
    ],
)
def test_endings(error: Exception | None, begun: bool, cause: Cause) -> None:
    assert ended(error, begun=begun).cause is cause


def test_connecting() -> None:
    assert unconnected(ConnectionRefusedError(errno.ECONNREFUSED, "")) == Loss(Cause.REFUSED, "ECONNREFUSED")
    assert unconnected(ConnectionResetError()).cause is Cause.RESET
    assert unconnected(OSError("Name or service not known")).cause is Cause.REFUSED


RELEASE = b"x-gapless-release: 1.0\r\n"
SIZED = RELEASE + b"content-length: 5\r\n\r\nhello"
CHUNKED = b"X-Gapless-Release: 1.0\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
RESPONSES = {
    b"HTTP/1.1 200 OK\r\n" + SIZED: True,
    b"HTTP/1.1 200 OK\r\n" + CHUNKED: True,
    b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\n" + SIZED: True,
    b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + SIZED: False,
    b"HTTP/1.0 200 OK\r\n" + SIZED: False,
}


@given(response=st.sampled_from(sorted(RESPONSES)), data=st.data())
def test_an_answer_is_the_same_however_it_is_cut(response: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(response) - 1))
    reader = Reader()
    assert reader.feed(response[:cut]) is None
    answer = reader.feed(response[cut:])
    assert answer == Answer(status=200, release="1.0", body=b"hello", keep_alive=RESPONSES[response])


@given(response=st.sampled_from(sorted(RESPONSES)), data=st.data())
def test_an_answer_that_ends_too_early_is_truncated(response: bytes, data: st.DataObject) -> None:
    reader = Reader()
    reader.feed(response[: data.draw(st.integers(1, len(response) - 1))])
    outcome = reader.end(None)
    assert isinstance(outcome, Loss)
    assert outcome.cause is Cause.TRUNCATED


def test_a_body_to_the_end_of_the_connection_is_whole_only_in_order() -> None:
    for error, good in ((None, True), (ConnectionResetError(), False)):
        reader = Reader()
        assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhello") is None
        assert isinstance(reader.end(error), Answer) is good


def test_answers_without_a_body() -> None:
    assert Reader(head_only=True).feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n") == Answer(status=200)
    assert Reader().feed(b"HTTP/1.1 304 Not Modified\r\n\r\n") == Answer(status=304)


def test_bytes_after_the_answer_spoil_the_connection_but_not_the_answer() -> None:
    for surplus in (b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"):
        answer = Reader().feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello" + surplus)
        assert answer == Answer(status=200, body=b"hello", keep_alive=False)


@pytest.mark.parametrize("data", [b"garbage", b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nabc"])
def test_what_is_no_http_is_a_wrong_answer(data: bytes) -> None:
    outcome = Reader().feed(data)
    assert isinstance(outcome, Loss)
    assert outcome.cause is Cause.WRONG


def test_of_a_body_that_nobody_matches_only_the_beginning_is_kept() -> None:
    response = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"
    for whole, least, most in ((True, 100_000, 100_000), (False, 512, 50_000)):
        reader = Reader(whole=whole)
        reader.feed(response)
        reader.feed(b"x" * 50_000)
        answer = reader.feed(b"x" * 50_000)
        assert isinstance(answer, Answer)
        assert least <= len(answer.body) <= most
