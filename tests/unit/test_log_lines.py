"""What a log line carries, hides and leaves out, and what becomes of it when its output is slow, full or gone."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gapless.observe import log
from gapless.observe.redact import HIDDEN, Redactor, is_card
from gapless.observe.structlog import configure
from gapless.observe.threads import ContextThreads
from gapless.observe.trace.context import Trace, present
from gapless.resilience import pushback
from gapless.server.http.access import Access
from gapless.service.log_context import request_context

TRACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.setFormatter(log.JsonLines("orders", "2", "orders-1", request_context))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def kept() -> Iterator[Kept]:
    root = logging.getLogger()
    before, handler = (root.handlers[:], root.level), Kept()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    yield handler
    root.handlers[:] = before[0]
    root.setLevel(before[1])


class Asked:
    def __init__(self) -> None:
        self.headers = {b"x-user-id": b"ann"}
        self.scope = {"path": "/orders/7", "endpoint": object(), "path_params": {"id": 7}}


async def test_every_line_of_a_request_says_whose_it_is(kept: Kept) -> None:
    library = logging.getLogger("somebody.elses")
    tokens = [log.request_id.set("r-7"), present.set(TRACE), pushback.served.set(Asked())]  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    log.bind(cart=12)
    library.info("in the request")
    await asyncio.to_thread(library.info, "in a thread")
    with ContextThreads(1) as threads:
        await loop.run_in_executor(threads, library.info, "in an executor")

    async def later() -> None:
        library.info("in a task")

    await asyncio.create_task(later())
    for variable, token in zip((log.request_id, present, pushback.served), tokens, strict=True):
        variable.reset(token)  # type: ignore[arg-type]
    log.bound.set(None)
    library.info("outside")
    *inside, outside = kept.lines
    assert len(inside) == 4
    wanted = {"request_id": "r-7", "trace_id": TRACE.trace_id, "span_id": TRACE.span_id, "route": "/orders/{id}"}
    wanted |= {"user": "ann", "cart": 12, "service": "orders", "release": "2", "instance": "orders-1"}
    for line in inside:
        assert wanted.items() <= line.items(), line
    assert not {"request_id", "trace_id", "route", "user", "cart"} & outside.keys()


def test_structlog_goes_through_our_lines(kept: Kept) -> None:
    configure()
    token = log.request_id.set("r-8")
    structlog.contextvars.bind_contextvars(tenant="acme")
    try:
        structlog.get_logger("shop").warning("paid", amount=3, name="x", password="hunter2")
        try:
            raise ValueError("no stock")
        except ValueError:
            structlog.get_logger("shop").exception("failed")
        structlog.get_logger("shop").debug("not shown")
    finally:
        log.request_id.reset(token)
        structlog.contextvars.clear_contextvars()
        structlog.reset_defaults()
    first, second = kept.lines
    assert (first["message"], first["level"], first["amount"], first["tenant"]) == ("paid", "warning", 3, "acme")
    assert (first["name_"], first["password"], first["request_id"]) == ("x", HIDDEN, "r-8")
    assert "ValueError: no stock" in second["error"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2 and more", f"password={HIDDEN} and more"),
        ("user_password: 'x y'", f"user_password: '{HIDDEN} y'"),
        ('{"api_key": "abc", "n": 1}', f'{{"api_key": "{HIDDEN}", "n": 1}}'),
        ("Authorization: Basic dXNlcg==", f"Authorization: {HIDDEN}"),
        ("cookie: a=b; session=c", f"cookie: {HIDDEN}"),
        ("sent Bearer abcdefgh12345", f"sent Bearer {HIDDEN}"),
        ("card 4111 1111 1111 1111 refused", f"card {HIDDEN} refused"),
        ("GET /cards/4111111111111111 200", f"GET /cards/{HIDDEN} 200"),
        ("order 4111111111111112 paid", "order 4111111111111112 paid"),
        ("at 1700000000.123456: fine, key=7", "at 1700000000.123456: fine, key=7"),
        ("tokens: 12 left", "tokens: 12 left"),
    ],
)
def test_secrets_in_messages_are_hidden(text: str, shown: str) -> None:
    assert Redactor().text(text) == shown


def test_secrets_beside_messages_are_hidden_however_deep(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"headers": [{"Set-Cookie": "a"}, {"accept": "b"}], "db": {"DB_PASSWORD": "x", "host": "h"}}
    logging.getLogger("shop").info("asked", extra={"request": request, "token": "t", "note": "secret=1"})
    [line] = kept.lines
    assert line["request"] == {
        "headers": [{"Set-Cookie": HIDDEN}, {"accept": "b"}],
        "db": {"DB_PASSWORD": HIDDEN, "host": "h"},
    }
    assert (line["token"], line["note"]) == (HIDDEN, f"secret={HIDDEN}")
    monkeypatch.setenv("GAPLESS_LOG_REDACT", "iban, ssn")
    own = Redactor.from_env()
    assert own.fields({"IBAN": 1, "ssn": 2, "password": 3, "n": 4}) == {
        "IBAN": HIDDEN,
        "ssn": HIDDEN,
        "password": HIDDEN,
        "n": 4,
    }


@given(st.recursive(st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)))
def test_hiding_never_fails_and_never_shows_what_is_under_a_telltale_key(value: Any) -> None:
    assert "hunter2" not in json.dumps(Redactor().fields({"x": {"password": ["hunter2", value]}}))
    Redactor().fields({"x": value})


@given(st.lists(st.integers(0, 9), min_size=12, max_size=18))
def test_numbers_of_cards_are_told_by_their_last_digit(digits: list[int]) -> None:
    numbers = [is_card("".join(map(str, [*digits, last]))) for last in range(10)]
    assert sum(numbers) == (0 if set(digits) == {0} else 1)


def test_a_line_that_is_too_long_is_cut_with_a_mark(kept: Kept) -> None:
    shop = logging.getLogger("shop")
    shop.info("x" * 1_000_000, extra={"n": 1})
    shop.info("many", extra={f"k{n}": "y" * 3000 for n in range(100)})
    shop.info("deep", extra={"body": {"data": ["z" * 100_000]}})
    first, second, third = kept.lines
    assert first["message"].endswith("… (1000000 characters, cut)")
    assert (first["n"], first["cut_from"] > 1_000_000) == (1, True)
    assert (second["message"], second["cut_from"] > 300_000) == ("many", True)
    assert (third["message"], third["body"]) == ("deep", "… (100013 bytes, cut)")
    assert all(len(json.dumps(line)) <= log.LINE_LIMIT for line in kept.lines)


def record(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": logging.INFO, "levelname": "INFO"})


def test_a_slow_reader_gets_every_line_at_the_end() -> None:
    reading, writing = os.pipe()
    handler = log.Unblocked(writing)
    for n in range(300):
        handler.emit(record(f"{n:04d} " + "x" * 2000))
    read = bytearray()

    def slowly() -> None:
        while part := os.read(reading, 20_000):
            read.extend(part)
            time.sleep(0.01)

    reader = threading.Thread(target=slowly)
    reader.start()
    handler.close()
    os.close(writing)
    reader.join()
    os.close(reading)
    assert [int(line[:4]) for line in read.splitlines()] == list(range(300))


def test_what_waits_is_bounded_in_bytes() -> None:
    reading, writing = os.pipe()
    handler = log.Unblocked(writing, most_bytes=1_000_000)
    for _ in range(100):
        handler.emit(record("x" * 50_000))
    assert handler.dropped >= 70
    threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reading, 1 << 20), b"")]).start()
    handler.close()
    os.close(writing)


def test_a_full_disk_is_told_once_there_is_room_and_tears_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = bytearray()
    room = [25, 0, 0]

    def write(_: int, data: Any) -> int:
        left = room.pop(0) if room else 1 << 20
        if not left:
            raise OSError(28, "No space left on device")
        written.extend(data[:left])
        return min(len(data), left)

    monkeypatch.setattr(os, "write", write)
    handler = log.Unblocked(99)
    handler.setFormatter(log.JsonLines("orders", "", ""))
    handler.emit(record("line 0"))
    end = time.monotonic() + 30
    while not handler.dropped and time.monotonic() < end:
        time.sleep(0.001)
    room.clear()
    for n in range(1, 4):
        handler.emit(record(f"line {n}"))
    handler.close()
    _, *lines = written.decode().splitlines()
    told = [json.loads(line)["message"] for line in lines]
    assert told[1:] == ["line 1", "line 2", "line 3"]
    assert any("log lines were dropped" in text for text in told)
    assert len([text for text in told if "dropped" in text]) == 1


class Answered:
    def __init__(self, status: int, took_s: float) -> None:
        self.status, self.began, self.sent, self.request_id = status, 100.0 - took_s, 5, ""
        self.scope = {"client": None, "method": "GET", "path": "/", "raw_path": b"/", "query_string": b""}


def test_a_sample_of_the_requests_is_logged_and_all_that_failed_or_were_slow(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    access = Access(0.1)
    for _ in range(100):
        access.note(Answered(200, 0.01), 100.0)
    assert len(caplog.records) == pytest.approx(10, abs=1)
    caplog.clear()
    access.note(Answered(503, 0.01), 100.0)
    access.note(Answered(200, 2.0), 100.0)
    assert len(caplog.records) == 2


@pytest.fixture
def filtered() -> Iterator[Callable[[Callable[[logging.LogRecord], bool]], None]]:
    logger = logging.getLogger("gapless.access")
    before = logger.filters[:]
    yield logger.addFilter
    logger.filters[:] = before


def asked(path: str) -> Answered:
    answered = Answered(200, 0.5)
    answered.scope |= {"path": path, "raw_path": path.encode()}
    return answered


def test_a_request_s_line_is_a_record_as_all_others_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Access().note(asked("/orders"), 100.0)
    [record] = caplog.records
    own, beside = vars(record), vars(logging.getLogger("gapless.access").makeRecord("", 0, "", 0, "", (), None))
    # A plain formatter that another test has left on the root logger adds the time as text.
    added = {"client", "method", "path", "status", "bytes", "duration_ms", "message"}
    assert own.keys() - {"asctime"} == beside.keys() | added
    same = ("thread", "threadName", "process", "processName")
    assert [own[name] for name in same] == [beside[name] for name in same]
    assert (record.name, record.levelname, record.filename) == ("gapless.access", "INFO", "access.py")
    assert record.getMessage() == logging.Formatter("GET %(path)s %(status)d").format(record)
    assert (beside["relativeCreated"] - record.relativeCreated) / 1000 == pytest.approx(
        beside["created"] - record.created, abs=1e-3
    )
    assert log.extras(copy.deepcopy(record)) == log.extras(record) == log.extras(logging.makeLogRecord(own))


def test_filters_of_others_drop_requests_hide_and_add_details(kept: Kept, filtered: Any) -> None:
    def judge(record: Any) -> bool:
        record.client = "somebody"
        if record.path == "/orders":
            record.tenant = "acme"
        return bool(record.path != "/livez")

    filtered(judge)
    for path in ("/orders", "/livez", "/"):
        Access().note(asked(path), 100.0)
    first, second = kept.lines
    assert (first["path"], first["client"], first["tenant"]) == ("/orders", "somebody", "acme")
    assert (second["path"], second["client"], second["status"]) == ("/", "somebody", 200)
    assert "tenant" not in second
