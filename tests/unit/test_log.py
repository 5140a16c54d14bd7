"""Logs: one JSON object a line, with the request's context, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gapless.core.events import StageEnded
from gapless.observe import log


@pytest.fixture
def written() -> Iterator[Callable[..., tuple[logging.Logger, Callable[[], list[str]]]]]:
    """Set up logging into a pipe: the logger, and how to read its lines."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    ends: list[int] = []

    def start(json: bool = True) -> tuple[logging.Logger, Callable[[], list[str]]]:
        reading, writing = os.pipe()
        ends.extend([reading, writing])
        handler = log.setup("orders", "1.4.0", "", json, writing)

        def lines() -> list[str]:
            handler.close()
            os.close(writing)
            ends.remove(writing)
            with os.fdopen(reading) as file:
                ends.remove(reading)
                return file.read().splitlines()

        return logging.getLogger("shop"), lines

    yield start
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    for end in ends:
        os.close(end)


def test_a_line_is_one_object(written: Any) -> None:
    shop, lines = written()
    token = log.request_id.set("r-7")
    shop.info("paid %d\nin full", 3, extra={"order": 12, "odd": {1, 2}.__class__})
    log.request_id.reset(token)
    try:
        raise ValueError("no stock")
    except ValueError:
        shop.exception("failed")
    shop.debug("not shown")
    first, second = map(json.loads, lines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "shop",
        "message": "paid 3\nin full",
        "service": "orders",
        "release": "1.4.0",
        "request_id": "r-7",
        "order": 12,
        "odd": "<class 'set'>",
    }
    assert second["error"].splitlines()[-1] == "ValueError: no stock"
    assert "request_id" not in second


def test_people_get_a_readable_line(written: Any) -> None:
    shop, lines = written(json=False)
    token = log.request_id.set("r-7")
    shop.warning("low", extra={"stock": 3})
    log.request_id.reset(token)
    (line,) = lines()
    assert line[8:] == " WARNING low  stock=3  [r-7]"


def test_a_full_pipe_delays_nobody_and_the_loss_is_told(written: Any) -> None:
    reading, writing = os.pipe()
    handler = log.Unblocked(writing, most_waiting=5)
    handler.setFormatter(logging.Formatter("%(message)s"))
    record = logging.makeLogRecord({"msg": "x" * 100_000, "levelno": 20})
    for _ in range(50):
        handler.emit(record)  # nobody reads: this must return all the same
    assert handler.dropped >= 40
    read = bytearray()
    reader = threading.Thread(target=lambda: [read.extend(part) for part in iter(lambda: os.read(reading, 65536), b"")])
    reader.start()
    handler.close()
    os.close(writing)
    reader.join()
    os.close(reading)
    assert b"log lines were dropped because the output stood still" in read


def test_a_reader_that_left_does_not_hurt(written: Any) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    handler = log.Unblocked(writing)
    handler.emit(logging.makeLogRecord({"msg": "x"}))
    handler.close()
    os.close(writing)


def test_stages_are_logged_with_their_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log.log_stage(StageEnded(name="settings", took_s=0.0))
    log.log_stage(StageEnded(name="resources", took_s=0.25))
    log.log_stage(StageEnded(name="close", took_s=3, ok=False, detail="db: 100% stuck"))
    assert caplog.messages == ["stage resources ended after 250 ms", "stage close failed after 3000 ms: db: 100% stuck"]
