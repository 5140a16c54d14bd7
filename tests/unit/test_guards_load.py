"""Guards from documents: whole or not at all, with state kept, and said why not."""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.config.complaints import known_keys
from gapless.config.settings import FileSettings
from gapless.core.errors import ConfigError
from gapless.core.watched import POLL_S
from gapless.resilience.breaker import Last, breaker
from gapless.resilience.budget import ratio
from gapless.resilience.cache import cache
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import RateLimited
from gapless.resilience.events import GuardEvent
from gapless.resilience.fallback import fallback
from gapless.resilience.guards import Guards, GuardsChanged, GuardsRefused, differences, merged
from gapless.resilience.hedge import hedge
from gapless.resilience.limit import Codel, adaptive, limit
from gapless.resilience.order import check_order
from gapless.resilience.parse import kinds, parse
from gapless.resilience.rate import rate, top
from gapless.resilience.retry_layer import retry
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld

SKETCH = """
payments:
  deadline: 2s
  breaker: {rate: 25%, slow: 1s, window: 100, probes: 3}
  rate: {limit: 100/s, key: "{user}", hot: 1000}
  limit: {max: 200, adaptive: true}
stock: {limit: 5}
"""


def refused(guards: Guards, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        guards.take(text, "guards.yaml")
    return caught.value.what.splitlines()


def test_a_document_becomes_policies() -> None:
    guards = Guards(FakeWorld())
    assert guards.take(SKETCH, "guards.yaml") == ("payments", "stock")
    assert guards.get("payments").policies == (
        deadline(2.0),
        breaker(rate=0.25, slow=1.0, window=100, probes=3),
        rate("100/s", key="{user}", hot=top(1000)),
        limit(adaptive(200)),
    )
    assert guards.get("stock").policies == (limit(5),)
    assert guards.take(SKETCH, "guards.yaml") == ()


def test_json_is_a_document_too_and_a_list_takes_a_kind_twice() -> None:
    guards = Guards(FakeWorld())
    document = {"payments": [{"rate": "100/s"}, {"rate": {"limit": "5/s", "by": "user"}}, {"limit": 3}]}
    guards.take(json.dumps(document), "guards.json")
    assert guards.get("payments").policies == (rate("100/s"), rate("5/s", key="{user}"), limit(3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pay: {brake: 3}", 'g:1: pay.brake: unknown policy; did you mean "breaker"?'),
        ("pay:\n  rate: {limt: 3}", 'g:2: pay.rate.limt: unknown key; did you mean "limit"?'),
        ("pay:\n  rate: {burst: 3}", "g:2: pay.rate.limit: this key is missing"),
        ("pay:\n\n  rate: fast", "g:3: pay.rate: 'fast' is no rate"),
        ("pay: {deadline: 0}", 'g:1: pay.deadline: "0": not a time above 0'),
        ("pay: {breaker: 50}", "write it with the sign"),
        ("pay: {breaker: {window: 3, minimum: 4}}", "never reached"),
        ("pay: {limit: {max: many}}", 'g:1: pay.limit.max: "many": not a whole number'),
        ("pay: {limit: {max: 3, adaptive: perhaps}}", "neither true nor false"),
        ("pay: {limit: {max: 3, min: 2}}", "only an adaptive one has a min"),
        ("pay: {rate: {limit: 3/s, by: me}}", "none of all, user, address"),
        ("pay: {rate: {limit: 3/s, by: user, key: x}}", "by and key say the same"),
        ("pay: {rate: {limit: [3]}}", "g:1: pay.rate.limit: not plain text"),
        ("pay: 3", "g:1: pay: not a mapping"),
        ("[pay]", "g:1: not a mapping"),
        ("pay: {rate: 1/s, rate: 2/s}", "already there in line 1"),
        ("pay: {", "g:1: this is not YAML"),
        ("", "g:1: there is nothing here; write {}"),
        ("# soon", "there is nothing here"),
        ("ok: {limit: 3}\npay: {limit: 3, deadline: 2s}", "g:2: pay: guard 'pay' has limit outside deadline"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_nothing_changes(text: str, said: str) -> None:
    guards = Guards(FakeWorld())
    guards.take("pay: {limit: 7}", "g")
    with pytest.raises(ConfigError) as caught:
        guards.take(text, "g")
    assert said in caught.value.what
    assert guards.get("pay").policies == (limit(7),)
    assert "ok" not in guards


def test_everything_wrong_is_told_at_once() -> None:
    assert len(refused(Guards(FakeWorld()), "a: {limit: x}\nb: {rate: y}\nc: {z: 1}")) == 3


def test_code_is_where_a_guard_begins_and_what_it_falls_back_to() -> None:
    guards = Guards(FakeWorld())
    substitute = fallback("cached")
    code = (deadline(2.0), substitute, breaker(), limit(9))
    payments = guards.define("payments", *code)
    guards.take("payments: {limit: 3, rate: 5/s, deadline: 1s}", "g")
    assert payments.policies == (deadline(1.0), substitute, breaker(), rate("5/s"), limit(3))
    guards.take("payments: {breaker: 10%}", "g")
    assert payments.policies == (deadline(2.0), substitute, breaker(rate=0.1), limit(9))
    for _ in range(3):
        guards.take("{}", "g")
        assert payments.policies == code
    later = (deadline(4.0), limit(1))
    guards.define("payments", *later)
    guards.take("payments: {limit: 2}", "g")
    assert payments.policies == (deadline(4.0), limit(2))
    guards.take("other: {limit: 2}", "g")
    assert payments.policies == later


async def test_windows_and_tokens_are_kept() -> None:
    guards = Guards(FakeWorld())
    guards.take("pay: {rate: 3/h}", "g")
    pay = guards.get("pay")

    @pay
    async def call() -> str:
        return "done"

    for _ in range(3):
        await call()
    guards.take("pay: {rate: {limit: 3/h, burst: 3}, limit: 5}", "g")
    with pytest.raises(RateLimited):
        await call()
    assert pay.statistics()["calls"] == 4


def test_changes_are_told_with_what_is_different() -> None:
    guards, told = Guards(FakeWorld()), list[GuardEvent]()
    stop = guards.subscribe(told.append)
    guards.take("pay: {breaker: 50%, limit: 3}", "g")
    guards.take("pay: {breaker: 30%, rate: 1/s}", "g")
    stop()
    guards.take("{}", "g")
    first, second = told
    assert isinstance(second, GuardsChanged)
    assert isinstance(first, GuardsChanged)
    assert [line.partition(" ")[0] for line in first.changes["pay"]] == ["added", "added"]
    lines = second.changes["pay"]
    assert lines[0] == "breaker.rate: 0.5 → 0.3"
    assert [line.partition(" ")[0] for line in lines[1:]] == ["removed", "added"]


def test_differences_tell_another_order() -> None:
    one, other = breaker(), deadline(1)
    assert differences((one, other), (other, one)) == ["order: breaker, deadline → deadline, breaker"]
    assert differences((limit(3),), (limit(3, codel=Codel(0.1)),))[0].startswith("limit.codel: ")


pool: list[Any] = [deadline(1), fallback("x"), retry(idempotent=True), breaker(), rate("1/s"), rate("2/s"), limit(1)]
chosen = st.lists(st.sampled_from(pool), unique_by=lambda p: p.kind).map(
    lambda found: tuple(sorted(found, key=pool.index))
)


@given(chosen, chosen)
def test_a_merge_of_safe_guards_is_safe_and_has_all_kinds(code: Any, document: Any) -> None:
    whole = merged(code, document)
    check_order("any", [policy.kind for policy in whole])
    assert {policy.kind for policy in whole} == {policy.kind for policy in (*code, *document)}
    assert set(document) <= set(whole)


# Watching.


class Told(list[GuardEvent]):
    @property
    def last(self) -> Any:
        return self[-1]


@pytest.fixture
async def world() -> FakeWorld:
    return FakeWorld()


def write(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


async def test_a_file_is_watched(tmp_path: Path, world: FakeWorld) -> None:
    path, guards, told = tmp_path / "guards.yaml", Guards(world), Told()
    guards.subscribe(told.append)
    write(path, "pay: {limit: 3}")
    await guards.load(path, watch=True)
    assert guards.get("pay").policies == (limit(3),)
    write(path, "pay: {limit: 4}")
    await world.advance(POLL_S * 1.5)
    assert guards.get("pay").policies == (limit(4),)
    write(path, "pay: {limit: none}")
    await world.advance(POLL_S * 3)
    assert isinstance(told.last, GuardsRefused)
    assert f"{path}:1: pay.limit: " in told.last.what
    path.unlink()
    await world.advance(POLL_S * 3)
    assert "No such file" in told.last.what
    count = len(told)
    await world.advance(POLL_S * 10)
    assert len(told) == count
    assert guards.get("pay").policies == (limit(4),)
    write(path, "pay: {limit: 5}")
    await world.advance(POLL_S * 1.5)
    assert guards.get("pay").policies == (limit(5),)
    guards.close()
    await asyncio.sleep(0)
    assert world.pending == 0


async def test_a_file_that_is_wrong_at_first_is_an_error(tmp_path: Path, world: FakeWorld) -> None:
    guards = Guards(world)
    with pytest.raises(ConfigError, match="No such file"):
        await guards.load(tmp_path / "none.yaml", watch=True)
    (tmp_path / "g.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        guards.read(tmp_path / "g.yaml")
    (tmp_path / "g.yaml").write_text("pay: {limit: 2}")
    assert guards.read(tmp_path / "g.yaml") == ("pay",)
    await guards.load(str(tmp_path / "g.yaml"))
    assert world.pending == 0


async def test_a_store_is_watched(world: FakeWorld) -> None:
    store, guards, told = MemoryStore(world), Guards(world), Told()
    guards.subscribe(told.append)
    await guards.load(store, watch=True)
    await store.put("guards", b"pay: {limit: 3}")
    await store.put("guards/other", b"pay: {limit: 9}")
    await world.advance(0.1)
    assert guards.get("pay").policies == (limit(3),)
    await store.put("guards", b"pay: {limit: \xff}")
    await world.advance(0.1)
    assert isinstance(told.last, GuardsRefused)
    assert guards.get("pay").policies == (limit(3),)
    await store.delete("guards")
    await world.advance(0.1)
    assert guards.get("pay").policies == ()
    guards.close()
    await store.close()


async def test_a_watch_that_breaks_is_told(world: FakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryStore):
        def watch(self, prefix: str, *, after: int) -> Any:
            raise RuntimeError("the store is broken")

    guards = Guards(world)
    await guards.load(Broken(world), watch=True)
    await world.advance(1)
    assert "guards of guards (store) are watched no longer" in caplog.text
    assert "the store is broken" in caplog.text


def test_the_vocabulary_is_that_of_gapless_yaml() -> None:
    """But for what only the gateway has."""
    for kind in ("rate", "limit", "breaker"):
        file = set(known_keys(("services", "NAME", "protect", kind), FileSettings)) - {"max_requests"}
        assert file <= set(kinds()[kind].keys), kind
    assert set(known_keys(("services", "NAME", "protect"), FileSettings)) <= set(kinds())


@given(st.text(alphabet="ab: {}[],-\n&*!|>%'\"", max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    parse(text)


def test_retries_hedges_and_caches() -> None:
    text = """
pay:
  deadline: 2s
  cache: {ttl: 1m, key: "{user}", stale: 5s}
  retry: {attempts: 3, budget: 20%, idempotent: true}
  hedge: {after: p95, idempotent: yes, share: 3%}
"""
    guards = Guards(FakeWorld())
    guards.take(text, "g")
    assert guards.get("pay").policies == (
        deadline(2.0),
        cache(ttl=60.0, key="{user}", stale=5.0),
        retry(attempts=3, budget=ratio(0.2), idempotent=True),
        hedge(after="p95", idempotent=True, share=0.03),
    )


def test_windows_are_calls_or_times() -> None:
    draft = parse("a: {breaker: {window: 10s}}\nb: {breaker: {window: 50, open_for: 3s}}")
    windows = [policies[0].window for policies in draft.guards.values()]  # type: ignore[attr-defined]
    assert windows == [Last(seconds=10.0), Last(calls=50)]


async def test_under_load_no_call_fails_and_none_is_forgotten() -> None:
    guards = Guards()
    pay = guards.define("pay", limit(50, queue=100))
    documents = ["pay: {limit: {max: 40, queue: 100}, breaker: 50%}", "{}", "pay: {deadline: 5s, rate: 1000000/s}"]

    @pay
    async def call() -> int:
        await asyncio.sleep(0)
        return 1

    async def many() -> int:
        return sum([await call() for _ in range(100)])

    async def change() -> None:
        for number in range(60):
            guards.take(documents[number % 3], "g")
            await asyncio.sleep(0)

    *made, _ = await asyncio.gather(*(many() for _ in range(20)), change())
    assert made == [100] * 20
    seen = pay.statistics()
    assert (seen["calls"], seen["failed"], seen["rejected"]) == (2000, 0, 0)
    assert seen["policies"]["limit"]["busy"] == 0


def test_threads_call_on_while_policies_change() -> None:
    guards = Guards()
    pay = guards.define("pay", limit(50))
    documents = ["pay: {limit: 40, breaker: 50%}", "{}", "pay: {rate: 1000000/s}"]

    @pay
    def call(number: int) -> int:
        return number

    with ThreadPoolExecutor(8) as pool:
        made = pool.map(call, range(2000))
        for number in range(30):
            guards.take(documents[number % 3], "g")
        assert list(made) == list(range(2000))
    assert pay.statistics()["failed"] == pay.statistics()["rejected"] == 0
    assert pay.statistics()["policies"]["limit"]["busy"] == 0
