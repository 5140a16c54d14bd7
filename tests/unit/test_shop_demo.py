"""The demonstration's arithmetic: attribution, verdict, books, pictures."""

from __future__ import annotations

import io
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gapless.load import Cause, Record

SHOP = Path(__file__).parents[2] / "examples" / "shop"
sys.path.insert(0, str(SHOP))

from showcase import ledger, releases  # noqa: E402
from showcase.ledger import Books, audit  # noqa: E402
from showcase.story import listeners  # noqa: E402
from showcase.summary import Decision, Story, tell  # noqa: E402
from showcase.timeline import STEADY, Event, attribute, before, during, latency  # noqa: E402
from showcase.verdict import judge  # noqa: E402
from showcase.view import View  # noqa: E402

BAD = frozenset({"1.2.0-bad"})
EVENTS = [Event("one", 10.0, 20.0), Event("two", 30.0, 40.0)]


def purchase(due_at: float = 0.0, latency_s: float = 0.1, **more: object) -> Record:
    return Record(n=0, due_at=due_at, latency_s=latency_s, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("due_at", "latency_s", "event"),
    [(5, 1, STEADY), (9.9, 0.5, "one"), (15, 1, "one"), (19.9, 11, "two"), (20.1, 1, STEADY), (39, 99, "two")],
)
def test_a_request_belongs_to_the_latest_event_that_it_met(due_at: float, latency_s: float, event: str) -> None:
    assert attribute(purchase(due_at, latency_s), EVENTS) == event


def test_before_and_during() -> None:
    records = [purchase(at, 0.01) for at in (7.9, 8.0, 9.9, 10.0, 20.0, 20.1)]
    assert [record.due_at for record in before(EVENTS[0], records)] == [8.0, 9.9]
    assert [record.due_at for record in during(EVENTS[0], records, EVENTS)] == [10.0, 20.0]


def test_latencies_are_those_of_good_answers() -> None:
    found = latency([*(purchase(latency_s=n / 100) for n in range(1, 101)), purchase(latency_s=9, cause="timeout")])
    assert (found.requests, found.p50_s, found.p99_s) == (100, 0.5, 0.99)
    assert latency([]).p99_s == 0


records = st.builds(
    Record,
    n=st.just(0),
    due_at=st.floats(0, 50),
    latency_s=st.floats(0, 5),
    cause=st.sampled_from(["", "", *Cause]),
    release=st.sampled_from(["", "1.1.0", *BAD]),
    user=st.sampled_from(["1", "2"]),
)


@given(st.lists(records, max_size=30))
def test_every_purchase_is_answered_spoilt_or_lost(found: list[Record]) -> None:
    verdict = judge(found, EVENTS, BAD)
    assert verdict.answered + verdict.met_bad + verdict.lost_total == verdict.requests == len(found)
    assert verdict.answered == sum(not record.cause for record in found)
    assert verdict.users_met_bad <= min(2, verdict.met_bad)


def test_only_the_bad_release_is_forgiven_and_only_its_own_errors() -> None:
    spoilt = purchase(cause=Cause.SERVER_ERROR, release="1.2.0-bad", user="7")
    for record, lost in (
        (spoilt, 0),
        (replace(spoilt, release=""), 1),
        (replace(spoilt, release="1.1.0"), 1),
        (replace(spoilt, cause=Cause.RESET), 1),
        (replace(spoilt, cause=Cause.WRONG), 1),
    ):
        assert judge([record], EVENTS, BAD).lost_total == lost
    served = purchase(release="1.2.0-bad", user="8")
    assert judge([spoilt, served], EVENTS, BAD).users_met_bad == 1
    assert judge([spoilt, served], EVENTS, BAD).users_of_bad == 2


GOOD_BOOKS = Books(
    orders=(("o1", "k1", "lamp", 2, 7980, "confirmed"), ("o2", "k2", "lamp", 1, 3990, "rejected")),
    entries=(("o1", 7980),),
    stock={"lamp": (10, 8), "book": (10, 10)},
    tried_again=1,
)


def test_books_that_agree() -> None:
    found = audit(GOOD_BOOKS, {"k1"})
    assert (found.confirmed, found.paid, found.amount, found.tried_again, found.wrong) == (1, 1, 7980, 1, ())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"entries": ()}, "never paid"),
        ({"entries": (("o1", 7980), ("o1", 7980))}, "more than once"),
        ({"entries": (("o1", 7980), ("o2", 3990))}, "paid, but not confirmed"),
        ({"entries": (("o1", 7980), ("o9", 3990))}, "paid, but not confirmed"),
        ({"entries": (("o1", 1),)}, "another amount"),
        ({"stock": {"lamp": (10, 7)}}, "3 left the shelf, but 2 were sold"),
        ({"orders": (*GOOD_BOOKS.orders, ("o3", "k3", "book", 1, 1, "reserved"))}, "half-way"),
        ({"orders": (*GOOD_BOOKS.orders, ("o3", "k1", "book", 1, 1, "rejected"))}, "twice with one key"),
    ],
)
def test_books_that_disagree_say_how(change: dict[str, object], what: str) -> None:
    (wrong,) = audit(replace(GOOD_BOOKS, **change), {"k1"}).wrong  # type: ignore[arg-type]
    assert what in wrong


def test_what_customers_were_told_must_be_true() -> None:
    (wrong,) = audit(GOOD_BOOKS, {"k1", "k2", "k3", "k4", "k5"}).wrong
    assert wrong == "4 the customer was told of it, but it is not confirmed: k2, k3, k4 and 1 more"


def test_the_books_are_read_from_the_services_databases(tmp_path: Path) -> None:
    from shop import book, inventory, payment

    for name, statements in (("orders", book.SCHEMA), ("inventory", inventory.SCHEMA), ("payment", payment.SCHEMA)):
        connection = sqlite3.connect(tmp_path / f"{name}.db")
        connection.row_factory = sqlite3.Row
        with connection:
            for statement in statements:
                connection.execute(statement)
            if name == "orders":
                book.begin(connection, key="k", user="u", item="lamp", quantity=1, amount=3990)
            if name == "inventory":
                inventory.reserve(connection, key="g", item="lamp", quantity=1)
            if name == "payment":
                payment.begin(connection, key="m", order="o", amount=3990)
                payment.settle(connection, key="m")
        connection.close()
    books = ledger.read(tmp_path)
    assert ledger.unfinished(tmp_path) == 1
    assert [order[1:] for order in books.orders] == [("k", "lamp", 1, 3990, "created")]
    assert (books.entries, books.stock["lamp"]) == ((("o", 3990),), (1_000_000, 999_999))
    with pytest.raises(FileNotFoundError, match="did the shop ever open"):
        ledger.read(tmp_path / "elsewhere")


@pytest.mark.parametrize("made", [releases.GOOD, releases.BETTER, releases.BAD, releases.NEVER_READY, releases.CRASH])
def test_releases_are_the_shop_with_one_file_changed(made: releases.Made, tmp_path: Path) -> None:
    place = releases.build(made, tmp_path)
    changed = [
        path.name
        for path in sorted((SHOP / "shop").glob("*.py"))
        if (place / "shop" / path.name).read_bytes() != path.read_bytes()
    ]
    assert changed in (["receipt.py"], ["schema.py"])
    assert sorted(path.name for path in place.iterdir()) == ["shop"]


def told(story: Story) -> str:
    console = Console(file=io.StringIO(), width=160)
    tell(story, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_of_a_good_day_and_of_a_bad_one() -> None:
    day = [purchase(float(n)) for n in range(50)]
    story = Story(
        records=day,
        events=EVENTS,
        verdict=judge(day, EVENTS, BAD),
        audit=audit(GOOD_BOOKS, {"k1"}),
        decision=Decision(3.25, "errors", 2),
        surprises=[],
    )
    assert story.good
    text = told(story)
    assert "nothing was lost" in text
    assert "3.2 s to the decision" in text
    assert "each order is paid once, and the stock is consistent" in text
    lost = [*day, purchase(31.0, cause=Cause.RESET, detail="ECONNRESET")]
    for worse in (
        replace(story, verdict=judge(lost, EVENTS, BAD), records=lost),
        replace(story, audit=audit(GOOD_BOOKS, {"k2"})),
        replace(story, audit=None),
        replace(story, surprises=["the good release was not promoted"]),
    ):
        assert not worse.good
        assert "FAILED" in told(worse)
    assert "lost 1 x reset (two)" in told(replace(story, verdict=judge(lost, EVENTS, BAD)))


def test_the_view_counts_and_names_what_is_lost() -> None:
    out = io.StringIO()
    view = View(Console(file=out, width=120), BAD)
    view.event("4  a bad release")
    view.move("orders 1.1.0 → 1.2.0-bad: 10% of users")
    for record in (
        purchase(4e9, release="1.1.0"),
        purchase(4e9, release="1.2.0-bad", cause=Cause.SERVER_ERROR),
        purchase(4e9, cause=Cause.RESET, detail="ECONNRESET"),
    ):
        view.record(record)
    assert dict(view.totals) == {"requests": 3, "lost": 1, "met bad": 1}
    view.console.print(view.panel())
    text = out.getvalue()
    assert "LOST: reset, ECONNRESET" in text
    assert "1.2.0-bad: 10% of users" in text
    assert "1.1.0 50%" in text
    assert "1 lost, 1 met a bad release" in text


def test_what_listens_where() -> None:
    one = {"address": "127.0.0.1:1", "release": "1", "pid": 9}
    said = {"listen": "127.0.0.1:8080", "status": {"services": {"orders": {"instances": [one]}}}}
    assert list(listeners(said)) == [
        "gateway    http://127.0.0.1:8080",
        "orders     http://127.0.0.1:1  release 1, pid 9",
    ]
