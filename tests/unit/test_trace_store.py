"""The traces of late, in bounded memory; and how they are collected, kept and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.cli.traces import drawn, row
from gapless.control.records import Records
from gapless.control.traces import FILE_BYTES, NAME, OLDER, Traces
from gapless.core.model import Address, Instance, Phase
from gapless.core.world import RealWorld
from gapless.observe.trace.spans import CHILD, Span
from gapless.observe.trace.store import SPANS_EACH, TraceStore, waterfall
from gapless.store import open_store
from gapless.testing import FakeWorld
from gapless.testing.fleet import FakeFleet
from gapless.testing.traffic import FakeTraffic

T = "ab" * 16
ROOT = Span(T, "a" * 16, "", "POST /orders", "server", "orders", "o-1", "1", began_at=100.0, took_s=0.4)
CALL = ROOT._replace(
    span_id="b" * 16, parent_id="a" * 16, name="POST payment", kind="client", began_at=100.1, took_s=0.2
)
CALLED = CALL._replace(span_id="c" * 16, parent_id="b" * 16, kind="server", service="payment", took_s=0.1)

spans = st.builds(
    ROOT._replace,
    trace_id=st.sampled_from([f"{n:032x}" for n in range(1, 9)]),
    span_id=st.sampled_from([f"{n:016x}" for n in range(1, 6)]),
    parent_id=st.sampled_from(["", *(f"{n:016x}" for n in range(1, 6))]),
    failed=st.booleans(),
    began_at=st.floats(0, 100),
    took_s=st.floats(0, 3),
)


def store(*given_: Span) -> TraceStore:
    made = TraceStore(1.0)
    for span in given_:
        made.add(span)
    return made


def test_a_trace_in_one_line() -> None:
    (found,) = store(CALLED, CALL, ROOT).find()
    assert (found.name, found.service, found.services, found.spans) == (
        "POST /orders",
        "orders",
        ("orders", "payment"),
        3,
    )
    assert found.took_s == pytest.approx(0.4)
    assert (found.failed, found.slow, found.late) == (False, False, False)
    assert row(found.plain())["services"] == "orders → payment"


def test_what_is_asked_for() -> None:
    kept = store(
        ROOT,
        CALLED,
        ROOT._replace(trace_id="1" * 32, failed=True, began_at=101.0),
        ROOT._replace(trace_id="2" * 32, took_s=2.0, began_at=102.0),
    )
    assert [one.trace_id[0] for one in kept.find()] == ["2", "1", "a"]
    assert [one.trace_id[0] for one in kept.find(only="failed")] == ["1"]
    assert [one.trace_id[0] for one in kept.find(only="slow")] == ["2"]
    assert [one.trace_id[0] for one in kept.find(service="payment")] == ["a"]
    assert [one.trace_id[0] for one in kept.find(limit=1)] == ["2"]
    assert kept.get("abab") == [ROOT, CALLED]
    assert kept.get("") == kept.get("9") == []


def test_a_flood_of_ordinary_ones_does_not_wash_away_the_failed() -> None:
    kept = TraceStore(1.0, recent=10, marked=5)
    for n in range(1, 200):
        kept.add(ROOT._replace(trace_id=f"{n:032x}", failed=n in (1, 2)))
    assert len(kept.find(only="failed", limit=1000)) == 2
    assert len(kept) == 12


def test_a_trace_without_end_is_cut() -> None:
    kept = store(*(ROOT._replace(span_id=f"{n:016x}") for n in range(1, SPANS_EACH + 100)))
    (found,) = kept.find()
    assert (found.spans, found.left_out) == (SPANS_EACH, 99)


@given(st.lists(spans, max_size=60))
def test_it_is_bounded_and_counts_right(given_: list[Span]) -> None:
    kept = TraceStore(1.0, recent=3, marked=2)
    for span in given_:
        kept.add(span)
    assert len(kept) <= 7
    assert len(kept.find(limit=100)) == len(kept) == sum(kept._counts.values())
    assert all(count >= 0 for count in kept._counts.values())


@given(st.lists(spans.map(lambda span: span._replace(trace_id=T)), max_size=8, unique_by=lambda span: span.span_id))
def test_each_span_that_hangs_together_is_drawn_once_within_the_whole(given_: list[Span]) -> None:
    rows = waterfall(given_)
    drawn_ids = [row.span.span_id for row in rows]
    assert len(set(drawn_ids)) == len(drawn_ids)
    assert all(0 <= row.offset <= 1 and row.offset + row.width <= 1 + 1e-9 for row in rows)


def test_callers_come_before_those_they_call() -> None:
    assert [(row.span.span_id[0], row.depth) for row in waterfall([CALLED, CALL, ROOT])] == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
    ]


def test_the_gateway_comes_before_what_it_led_to() -> None:
    gateway = ROOT._replace(
        name="POST", span_id="9" * 16, parent_id="f" * 16, service="gateway", attributes={CHILD: ROOT.span_id}
    )
    kept = store(ROOT._replace(parent_id="f" * 16), CALL, gateway)
    assert [(row.span.service, row.depth) for row in waterfall(kept.get(T))][:2] == [("gateway", 0), ("orders", 1)]
    assert (kept.find()[0].service, kept.find()[0].name) == ("gateway", "POST /orders")


def test_the_waterfall_on_a_terminal() -> None:
    failed = CALLED._replace(failed=True, late=True, attributes={"http.response.status_code": 503})
    lines = drawn([ROOT.plain(), CALL.plain(), failed.plain()])
    assert lines[0].startswith(f"trace {T}, ")
    assert lines[2].split() == ["orders", "POST", "/orders", "█" * 40, "400.0", "ms"]
    assert "    payment POST payment" in lines[4]
    assert lines[4].endswith("failed (503)")
    assert "not sampled" in lines[-1]


INSTANCE = Instance(
    id="orders-1", service="orders", release="1", address=Address(host="127.0.0.1", port=1), phase=Phase.READY, pid=7
)


async def test_they_are_collected_and_found_again(tmp_path: Path) -> None:
    records = Records(await open_store("memory:", RealWorld()), lambda: None)
    await records.write(INSTANCE)
    fleet = FakeFleet()
    traces = Traces(records, fleet, FakeTraffic(FakeWorld()), tmp_path / "traces", 1.0)
    fleet.traced["orders-1"] = {"last": 2, "spans": [ROOT.plain(), CALL.plain(), "nonsense", {"trace_id": "x"}]}
    await traces.step()
    await traces.step()
    assert traces.store.get(T) == [ROOT, CALL]
    with (tmp_path / "traces" / NAME).open("a") as file:
        file.write('{"trace_id": "cut')
    again = Traces(records, fleet, FakeTraffic(FakeWorld()), tmp_path / "traces", 1.0)
    await again.load()
    assert again.store.get(T) == [ROOT, CALL]


async def test_the_disk_holds_two_files_at_most(tmp_path: Path) -> None:
    records = Records(await open_store("memory:", RealWorld()), lambda: None)
    await records.write(INSTANCE)
    fleet = FakeFleet()
    traces = Traces(records, fleet, FakeTraffic(FakeWorld()), tmp_path, 1.0)
    (tmp_path / NAME).write_text(" " * FILE_BYTES)
    (tmp_path / OLDER).write_text("older")
    fleet.traced["orders-1"] = {"last": 1, "spans": [ROOT.plain()]}
    await traces.step()
    assert (tmp_path / OLDER).stat().st_size == FILE_BYTES
    assert json.loads((tmp_path / NAME).read_text())["name"] == "POST /orders"


async def test_a_disk_that_takes_nothing_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = Records(await open_store("memory:", RealWorld()), lambda: None)
    await records.write(INSTANCE)
    fleet = FakeFleet()
    (tmp_path / "file").write_text("")
    traces = Traces(records, fleet, FakeTraffic(FakeWorld()), tmp_path / "file" / "traces", 1.0)
    for n in (1, 2):
        fleet.traced["orders-1"] = {"last": n, "spans": [ROOT._replace(span_id=f"{n:016x}").plain()]}
        await traces.step()
    assert len(traces.store.get(T)) == 2
    assert caplog.text.count("traces cannot be written to") == 1
