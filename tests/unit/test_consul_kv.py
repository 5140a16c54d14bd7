"""Keys, locks, sessions and transactions by Consul's API, over a store in memory."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.api.consul.agent_self import Agent
from gapless.api.consul.compose import consul_api
from gapless.api.consul.kv import Bodies
from gapless.core.codec import encode
from gapless.core.ports import Entry, Listing, Update
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Check, Node
from gapless.discovery.kv.rows import StoredValue, value_key
from gapless.discovery.kv.state import PREFIXES, State
from tests.unit.consul_kit import Client, registry, settled


async def row(client: Client, key: str) -> dict[str, Any] | None:
    response = await client.get(f"/v1/kv/{quote(key)}")
    return response.json[0] if response.status == 200 else None


async def session(client: Client, **given: Any) -> str:
    response = await client.put("/v1/session/create", given)
    assert response.status == 200, response.text
    return str(response.json["ID"])


# Keys.


@pytest.mark.parametrize("key", ["a", "a/b/c", "ç", "a b", "%", "a%2Fb", "-", "a/", "\0", "😀"])
async def test_any_key(key: str) -> None:
    async with registry() as (client, _):
        assert (await client.put(f"/v1/kv/{quote(key, safe='')}?flags=7", b"v")).text == "true"
        found = await row(client, key)
        assert found is not None
        index = found["ModifyIndex"]
        assert found == {
            "LockIndex": 0,
            "Key": key,
            "Flags": 7,
            "Value": "dg==",
            "CreateIndex": index,
            "ModifyIndex": index,
        }
        assert (await client.get("/v1/kv/?keys")).json == [key]
        assert (await client.delete(f"/v1/kv/{quote(key)}")).text == "true"
        assert await row(client, key) is None


async def test_an_empty_value_is_null_and_raw_is_the_value() -> None:
    async with registry() as (client, _):
        await client.put("/v1/kv/a", b"")
        assert (await row(client, "a") or {})["Value"] is None
        await client.put("/v1/kv/a", b"\0<b>")
        raw = await client.get("/v1/kv/a?raw")
        assert raw.body == b"\0<b>"
        assert raw.headers["x-content-type-options"] == "nosniff"


async def test_a_missing_key_has_an_index_and_no_body() -> None:
    async with registry() as (client, _):
        for target in ("/v1/kv/a", "/v1/kv/a?recurse", "/v1/kv/a?keys=1", "/v1/kv/a?raw="):
            response = await client.get(target)
            assert (response.status, response.body) == (404, b"")
            assert response.index >= 1


@pytest.mark.parametrize(
    ("method", "target", "status", "text"),
    [
        ("GET", "/v1/kv/", 400, "Missing key name"),
        ("PUT", "/v1/kv/", 400, "Missing key name"),
        ("DELETE", "/v1/kv/", 400, "Missing key name"),
        ("PUT", "/v1/kv/a?cas=x", 400, "Invalid cas"),
        ("PUT", "/v1/kv/a?flags=-1", 400, "Invalid flags"),
        ("PUT", "/v1/kv/a?cas=0&acquire=s", 400, "Conflicting flags: cas, acquire"),
        ("DELETE", "/v1/kv/a?recurse&cas=1", 400, "Conflicting flags: recurse, cas"),
        ("PUT", "/v1/kv/a?acquire=s", 500, 'invalid session "s"'),
        ("PUT", "/v1/kv/a?dc=dc2", 500, "No path to datacenter"),
        ("POST", "/v1/kv/a", 405, "method POST not allowed"),
    ],
)
async def test_refusals(method: str, target: str, status: int, text: str) -> None:
    async with registry() as (client, _):
        response = await client.ask(method, target)
        assert (response.status, response.text) == (status, text)


async def test_check_and_set() -> None:
    async with registry() as (client, _):
        assert (await client.put("/v1/kv/a?cas=50", b"1")).text == "false"
        assert (await client.put("/v1/kv/a?cas=0", b"1")).text == "true"
        index = (await client.get("/v1/kv/a")).index
        assert (await client.put("/v1/kv/a?cas=0", b"2")).text == "false"
        assert (await client.put(f"/v1/kv/a?cas={index - 1}", b"2")).text == "false"
        assert (await client.put(f"/v1/kv/a?cas={index}", b"2")).text == "true"
        assert (await client.delete(f"/v1/kv/a?cas={index}")).text == "false"
        assert (await client.delete(f"/v1/kv/a?cas={(await client.get('/v1/kv/a')).index}")).text == "true"
        assert (await client.delete("/v1/kv/a?cas=7")).text == "true"


@pytest.mark.parametrize("query", ["", "?recurse", "?cas=7"])
async def test_deleting_what_is_not_there_waits_for_nothing(query: str) -> None:
    async with registry() as (client, _):
        await client.put("/v1/agent/service/register", {"Name": "the newest revision is no key's"})
        assert (await asyncio.wait_for(client.delete(f"/v1/kv/a{query}"), 10)).text == "true"


async def test_of_many_who_delete_at_once_all_are_answered() -> None:
    async with registry() as (client, _):
        for _ in range(5):
            await client.put("/v1/kv/a", b"1")
            register = client.put("/v1/agent/service/register", {"Name": "between them"})
            deletions = [client.delete("/v1/kv/a") for _ in range(10)]
            answers = await asyncio.wait_for(asyncio.gather(*deletions[:5], register, *deletions[5:]), 10)
            assert {answer.status for answer in answers} == {200}
            assert await row(client, "a") is None


async def test_of_many_who_check_and_set_at_once_one_wins() -> None:
    async with registry() as (client, _):
        answers = await asyncio.gather(*(client.put("/v1/kv/a?cas=0", b"%d" % n) for n in range(50)))
        assert sorted(answer.text for answer in answers) == ["false"] * 49 + ["true"]


async def test_counting_by_check_and_set_loses_none() -> None:
    async with registry() as (client, _):
        await client.put("/v1/kv/n", b"0")

        async def count() -> None:
            while True:
                found = await row(client, "n")
                assert found is not None
                number = int(b64decode(found["Value"]))
                put = await client.put(f"/v1/kv/n?cas={found['ModifyIndex']}", b"%d" % (number + 1))
                if put.text == "true":
                    return

        await asyncio.gather(*(count() for _ in range(20)))
        assert b64decode((await row(client, "n") or {})["Value"]) == b"20"


async def test_prefixes() -> None:
    async with registry() as (client, _):
        for key in ("bar", "base/foo", "base/base/foo", "base/base/bar", "basement"):
            await client.put(f"/v1/kv/{key}", b"1")
        assert (await client.get("/v1/kv/base/?keys&separator=/")).json == ["base/base/", "base/foo"]
        assert (await client.get("/v1/kv/base?keys&separator=")).json == [
            "base/base/bar",
            "base/base/foo",
            "base/foo",
            "basement",
        ]
        assert [one["Key"] for one in (await client.get("/v1/kv/base/base?recurse")).json] == [
            "base/base/bar",
            "base/base/foo",
        ]
        await client.delete("/v1/kv/base/?recurse")
        assert (await client.get("/v1/kv/?keys")).json == ["bar", "basement"]
        await client.delete("/v1/kv/?recurse")
        assert (await client.get("/v1/kv/?keys")).status == 404


# Watches and their indexes.


@pytest.mark.parametrize("target", ["/v1/kv/a/b?", "/v1/kv/a/?recurse&", "/v1/kv/?keys&", "/v1/kv/a/b?raw&"])
async def test_a_watch_of_what_is_not_there_wakes_when_it_comes_and_when_it_goes(target: str) -> None:
    async with registry() as (client, _):
        index = (await client.get(target)).index
        watch = asyncio.create_task(client.get(f"{target}index={index}"))
        await settled()
        await client.put("/v1/kv/other", b"1") if "keys" not in target else None
        await settled()
        assert not watch.done()
        await client.put("/v1/kv/a/b", b"1")
        came = await watch
        assert (came.status, came.index > index) == (200, True)
        watch = asyncio.create_task(client.get(f"{target}index={came.index}"))
        await settled()
        assert not watch.done()
        await client.delete("/v1/kv/a/b")
        assert (await watch).index > came.index


def test_answers_are_kept_by_their_index_and_within_their_room() -> None:
    bodies = Bodies(most_bytes=100)
    bodies.put("a", 1, b"x" * 20)
    assert bodies.get("a", 1) == b"x" * 20
    assert bodies.get("a", 2) is None
    bodies.put("a", 2, b"y" * 25)
    bodies.put("huge", 1, b"z" * 26)
    for name in "bcd":
        bodies.put(name, 1, b"x" * 25)
    assert [bodies.get("a", 2), bodies.get("huge", 1)] == [b"y" * 25, None]
    bodies.put("e", 1, b"x")
    assert [bodies.get(name, 1) is None for name in "abcde"] == [True, False, False, False, False]


async def test_more_prefixes_than_are_remembered() -> None:
    async with registry() as (client, _):
        await client.put("/v1/kv/p1/x", b"1")
        first = (await client.get("/v1/kv/p1/?recurse")).index
        for number in range(2, PREFIXES + 10):
            assert (await client.get(f"/v1/kv/p{number}/?keys")).status == 404
        assert (await client.get("/v1/kv/p1/?recurse")).index == first
        await client.put("/v1/kv/p1/y", b"1")
        assert (await client.get("/v1/kv/p1/?recurse")).index > first


async def test_two_registries_on_one_store_lose_nothing() -> None:
    async with registry() as (client, rig), AsyncExitStack() as stack:
        other = Client(await stack.enter_async_context(consul_api(rig.store, rig.world, Agent(node="n1"))))
        await client.put("/v1/kv/n", b"0")

        async def count(one: Client) -> None:
            while True:
                found = await row(one, "n")
                if found is None:
                    await asyncio.sleep(0)
                    continue
                number = int(b64decode(found["Value"]))
                if (await one.put(f"/v1/kv/n?cas={found['ModifyIndex']}", b"%d" % (number + 1))).text == "true":
                    return

        await asyncio.gather(*(count(one) for one in (client, other) for _ in range(10)))
        assert b64decode((await row(client, "n") or {})["Value"]) == b"20"
        sessions = [await session(client), await session(other)]
        await settled()
        taken = await asyncio.gather(
            client.put(f"/v1/kv/lock?acquire={sessions[0]}", b""), other.put(f"/v1/kv/lock?acquire={sessions[1]}", b"")
        )
        assert sorted(answer.text for answer in taken) == ["false", "true"]


async def test_writing_what_is_there_already_wakes_nobody() -> None:
    async with registry() as (client, _):
        await client.put("/v1/kv/a", b"1")
        index = (await client.get("/v1/kv/a")).index
        watch = asyncio.create_task(client.get(f"/v1/kv/a?index={index}"))
        await settled()
        await client.put("/v1/kv/a", b"1")
        await settled()
        assert not watch.done()
        await client.put("/v1/kv/a?flags=1", b"1")
        assert (await watch).index > index


async def test_no_index_goes_back_over_deletions_and_restarts() -> None:
    async with registry() as (client, rig):
        last: dict[str, int] = {}

        async def look() -> None:
            for target in ("/v1/kv/a", "/v1/kv/?recurse", "/v1/kv/a?keys", "/v1/kv/b", "/v1/session/list"):
                index = (await client.get(target)).index
                assert index >= last.get(target, 1), target
                last[target] = index

        for step in range(4):
            await client.put(f"/v1/kv/a{step}", b"x")
            await client.put("/v1/kv/a", b"%d" % step)
            held = await session(client)
            await look()
            await client.delete("/v1/kv/a")
            await client.put(f"/v1/session/destroy/{held}")
            await look()
            client = await rig.restart()
            await look()
        assert (await client.get("/v1/kv/?keys")).json == ["a0", "a1", "a2", "a3"]


KEYS = st.sampled_from(["", "a", "a/", "a/b", "a/c", "b"])


@given(st.lists(st.tuples(KEYS.filter(bool), st.booleans()), max_size=30), st.integers(0, 30))
def test_indexes_rise_exactly_when_something_below_changes(writes: list[tuple[str, bool]], relisted: int) -> None:
    state = State()
    state.reset(Listing(entries=(), revision=1))
    prefixes = ["", "a", "a/", "a/b", "b", "c"]
    entries: dict[str, Entry] = {}
    for revision, (key, put) in enumerate(writes, 2):
        before = {prefix: state.index_below(prefix) for prefix in prefixes}
        there = key in state.rows
        value = encode(StoredValue(b"x")) if put else None
        state.apply((Update(key=value_key(key), value=value, revision=revision),))
        for prefix in prefixes:
            changed = key.startswith(prefix) and (put or there)
            assert state.index_below(prefix) == (revision if changed else before[prefix])
        if value is None:
            entries.pop(key, None)
        else:
            entries[key] = Entry(key=value_key(key), value=value, revision=revision, created=revision)
        if revision == relisted:
            state.reset(Listing(entries=tuple(entries.values()), revision=revision))
        assert list(state.keys("")) == sorted(entries)


# Locks and sessions.


async def test_acquire_and_release() -> None:
    async with registry() as (client, _):
        one, two = await session(client), await session(client)
        for target, expected in [
            (f"acquire={one}", "true"),
            (f"acquire={two}", "false"),
            (f"acquire={one}", "true"),
            ("release=foo", "false"),
            (f"release={two}", "false"),
            (f"release={one}", "true"),
            (f"release={one}", "false"),
            (f"acquire={two}", "true"),
        ]:
            assert (await client.put(f"/v1/kv/lock?{target}", target.encode())).text == expected, target
        found = await row(client, "lock")
        assert found is not None
        assert (found["Session"], found["LockIndex"]) == (two, 2)
        await client.put("/v1/kv/lock", b"plain writes leave the lock")
        after = await row(client, "lock")
        assert after is not None
        assert (after["Session"], after["LockIndex"]) == (two, 2)


async def test_of_many_who_acquire_at_once_one_wins() -> None:
    async with registry() as (client, _):
        sessions = [await session(client) for _ in range(10)]
        answers = await asyncio.gather(*(client.put(f"/v1/kv/lock?acquire={one}", b"") for one in sessions))
        winners = [one for one, answer in zip(sessions, answers, strict=True) if answer.text == "true"]
        assert len(winners) == 1
        assert (await row(client, "lock") or {})["Session"] == winners[0]


async def test_the_end_of_a_session_releases_or_deletes_and_then_nobody_takes_the_lock_for_a_while() -> None:
    async with registry() as (client, rig):
        for behavior in ("release", "delete"):
            mine = await session(client, Behavior=behavior, LockDelay="5s")
            other = await session(client)
            await client.put(f"/v1/kv/{behavior}?acquire={mine}", b"x")
            watch = asyncio.create_task(
                client.get(f"/v1/kv/{behavior}?index={(await client.get(f'/v1/kv/{behavior}')).index}")
            )
            await settled()
            assert (await client.put(f"/v1/session/destroy/{mine}")).text == "true"
            assert (await watch).status == (200 if behavior == "release" else 404)
            found = await row(client, behavior)
            assert (found is None) == (behavior == "delete")
            assert "Session" not in (found or {})
            assert (await client.put(f"/v1/kv/{behavior}?acquire={other}", b"")).text == "false"
            await rig.world.advance(5.1)
            assert (await client.put(f"/v1/kv/{behavior}?acquire={other}", b"")).text == "true"


async def test_a_session_ends_when_twice_its_time_has_passed_unless_renewed() -> None:
    async with registry() as (client, rig):
        mine = await session(client, TTL="10s", Behavior="delete")
        await client.put(f"/v1/kv/lock?acquire={mine}", b"")
        for _ in range(3):
            await rig.world.advance(15)
            renewed = await client.put(f"/v1/session/renew/{mine}")
            assert (renewed.json[0]["ID"], renewed.json[0]["TTL"]) == (mine, "10s")
        await rig.world.advance(20.5)
        await settled()
        assert (await client.get(f"/v1/session/info/{mine}")).json == []
        assert await row(client, "lock") is None
        refused = await client.put(f"/v1/session/renew/{mine}")
        assert (refused.status, refused.text) == (404, f"Session id '{mine}' not found")


async def test_locks_of_a_session_that_ended_while_no_registry_ran_are_released() -> None:
    async with registry() as (client, rig):
        mine = await session(client, TTL="10s")
        await client.put(f"/v1/kv/lock?acquire={mine}", b"")
        await rig.stack.aclose()
        await rig.world.advance(25)
        await settled()
        client = await rig._open()
        await settled()
        assert "Session" not in (await row(client, "lock") or {"Session": ""})


async def test_a_session_lives_over_a_restart() -> None:
    async with registry() as (client, rig):
        mine = await session(client, Name="n", TTL="10s")
        await client.put(f"/v1/kv/lock?acquire={mine}", b"")
        client = await rig.restart()
        assert (await client.get(f"/v1/session/info/{mine}")).json[0]["Name"] == "n"
        assert (await row(client, "lock") or {})["Session"] == mine
        assert (await client.put(f"/v1/session/renew/{mine}")).status == 200


async def test_a_session_ends_with_its_check_and_its_node() -> None:
    async with registry() as (client, rig):
        catalog = Catalog(rig.store, rig.world, name="n0")  # as another registry has it
        await catalog.start()
        await catalog.put(Node(name="n1", address="10.0.0.1"), None, [Check(node="n1", id="c1", status="passing")])
        bound = await session(client, Node="n1", NodeChecks=["c1"])
        free = await session(client, Node="n1", Checks=[])
        await catalog.update_check("c1", "critical", "gone", "n1")
        await rig.world.advance(0.1)
        await settled()
        assert [one["ID"] for one in (await client.get("/v1/session/node/n1")).json] == [free]
        refused = await client.put("/v1/session/create", {"Node": "n1", "NodeChecks": ["c1"]})
        assert (refused.status, refused.text) == (500, "Check 'c1' is in critical state")
        await catalog.remove("n1")
        await rig.world.advance(0.1)
        await settled()
        assert (await client.get("/v1/session/list")).json == []
        assert bound != free
        await catalog.aclose()


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"Node": "n9"}, 500, "Missing node registration"),
        ({"NodeChecks": ["no"]}, 500, "Missing check 'no' registration"),
        ({"TTL": "9s"}, 500, "Invalid Session TTL '9s', must be between [10s=24h0m0s]"),
        ({"TTL": "25h"}, 500, "Invalid Session TTL '25h0m0s', must be between [10s=24h0m0s]"),
        ({"TTL": "soon"}, 400, 'Request TTL decode failed: time: invalid duration "soon"'),
        ({"Behavior": "explode"}, 500, "Invalid Behavior setting 'explode'"),
        ({"LockDelay": "x"}, 400, 'Request decode failed: time: invalid duration "x"'),
    ],
)
async def test_sessions_that_cannot_be(body: dict[str, Any], status: int, text: str) -> None:
    async with registry() as (client, _):
        response = await client.put("/v1/session/create", body)
        assert (response.status, response.text) == (status, text)


@pytest.mark.parametrize(
    ("given", "nanos"), [("15s", 15e9), (3, 3e9), (2_000_000_000, 2e9), ("5m", 60e9), ("0s", 0), ("", 15e9)]
)
async def test_lock_delays(given: Any, nanos: float) -> None:
    async with registry() as (client, _):
        mine = await session(client, lockdelay=given)
        assert (await client.get(f"/v1/session/info/{mine}")).json[0]["LockDelay"] == nanos


async def test_watching_sessions() -> None:
    async with registry() as (client, _):
        index = (await client.get("/v1/session/list")).index
        watch = asyncio.create_task(client.get(f"/v1/session/list?index={index}"))
        await settled()
        mine = await session(client)
        came = await watch
        assert [one["ID"] for one in came.json] == [mine]
        watches = [
            asyncio.create_task(client.get(f"{target}?index={came.index}"))
            for target in ("/v1/session/list", f"/v1/session/info/{mine}", "/v1/session/node/n0")
        ]
        await settled()
        await client.put(f"/v1/session/destroy/{mine}")
        for watch in watches:
            assert (await watch).json == []


# Transactions.


def kv(verb: str, key: str = "", value: bytes | None = None, **more: Any) -> dict[str, Any]:
    fields = {"Verb": verb, "Key": key, **more}
    return {"KV": fields if value is None else {**fields, "Value": b64encode(value).decode()}}


async def test_a_transaction_sees_its_own_changes_and_is_true_at_one_index() -> None:
    async with registry() as (client, _):
        mine = await session(client)
        await client.put("/v1/kv/old", b"o")
        ops = [
            kv("set", "a", b"1", Flags=3),
            kv("get", "a"),
            kv("cas", "b", b"2", Index=0),
            kv("lock", "c", b"3", Session=mine),
            kv("check-session", "c", Session=mine),
            kv("delete", "old"),
            kv("check-not-exists", "old"),
            kv("get-or-empty", "old"),
            kv("get-tree", ""),
        ]
        response = await client.put("/v1/txn", ops)
        assert response.status == 200, response.text
        rows = [one["KV"] for one in response.json["Results"]]
        assert response.json["Errors"] is None
        assert [(one["Key"], one["Value"]) for one in rows] == [
            ("a", None),
            ("a", "MQ=="),
            ("b", None),
            ("c", None),
            ("c", None),
            ("old", None),
            ("a", "MQ=="),
            ("b", "Mg=="),
            ("c", "Mw=="),
        ]
        index = (await client.get("/v1/kv/a")).index
        assert {one["ModifyIndex"] for one in rows if one["Key"] != "old"} == {index}
        assert [(await client.get(f"/v1/kv/{key}")).index for key in "bc"] == [index, index]


async def test_a_transaction_is_all_or_nothing() -> None:
    async with registry() as (client, _):
        await client.put("/v1/kv/a", b"1")
        ops = [
            kv("set", "b", b"2"),
            kv("cas", "a", b"3", Index=1),
            kv("get", "none"),
            kv("lock", "c", b"", Session="s"),
            kv("explode", "a"),
        ]
        response = await client.put("/v1/txn", ops)
        assert response.status == 409
        assert response.json == {
            "Results": None,
            "Errors": [
                {"OpIndex": 1, "What": 'failed to set key "a", index is stale'},
                {"OpIndex": 2, "What": 'key "none" doesn\'t exist'},
                {"OpIndex": 3, "What": 'invalid session "s"'},
                {"OpIndex": 4, "What": 'unknown KV verb "explode"'},
            ],
        }
        assert (await client.get("/v1/kv/?keys")).json == ["a"]


async def test_transactions_that_cannot_be() -> None:
    async with registry() as (client, _):
        many = await client.put("/v1/txn", [kv("get", "a")] * 65)
        assert (many.status, many.text) == (413, "Transaction contains too many operations (65 > 64)")
        assert (await client.put("/v1/txn", b"{")).text.startswith("Failed to parse body")
        other = await client.put("/v1/txn", [{"Node": {"Verb": "set", "Node": {"Node": "n"}}}])
        assert other.status == 400


VERBS = ["set", "cas", "delete", "delete-cas", "lock", "unlock", "delete-tree", "get-tree", "get"]
OPS = st.tuples(st.sampled_from(VERBS), st.sampled_from(["a", "b", "a/b"]), st.integers(0, 2), st.integers(0, 1))


class Model:
    """What Consul means by its verbs, in the plainest way."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[bytes, str, int]] = {}
        """Value, session, lock index."""

    def do(self, verb: str, key: str, value: bytes, session: str, fresh: bool) -> bool:
        """`fresh`: the index given is that of the key."""
        if verb == "lock":
            return self.lock(key, value, session)
        if verb == "unlock":
            return self.unlock(key, value, session)
        if verb in ("set", "cas"):
            return (verb == "set" or fresh) and self.set(key, value)
        if verb in ("delete", "delete-cas"):
            return (verb == "delete" or fresh or key not in self.rows) and self.delete(key)
        if verb == "delete-tree":
            self.rows = {name: one for name, one in self.rows.items() if not name.startswith(key)}
        return verb != "get" or key in self.rows

    def set(self, key: str, value: bytes) -> bool:
        _, session, count = self.rows.get(key, (b"", "", 0))
        self.rows[key] = (value, session, count)
        return True

    def delete(self, key: str) -> bool:
        self.rows.pop(key, None)
        return True

    def lock(self, key: str, value: bytes, session: str) -> bool:
        _, holder, count = self.rows.get(key, (b"", "", 0))
        if holder not in ("", session):
            return False
        self.rows[key] = (value, session, count + (holder == ""))
        return True

    def unlock(self, key: str, value: bytes, session: str) -> bool:
        if key not in self.rows or self.rows[key][1] != session:
            return False
        self.rows[key] = (value, "", self.rows[key][2])
        return True


@given(st.lists(st.tuples(OPS, st.booleans(), st.booleans()), max_size=12))
def test_verbs_mean_what_they_mean_in_transactions_and_alone(ops: list[Any]) -> None:
    asyncio.run(_compare(ops))


async def _compare(ops: list[Any]) -> None:
    async with registry() as (client, rig):
        sessions = [await session(client), await session(client)]
        model = Model()
        for (verb, key, value, holder), fresh, restart in ops:
            found = await row(client, key)
            index = (found["ModifyIndex"] if found else 0) + (0 if fresh else 7)
            data = b"%d" % value if value else b""
            op = kv(verb, key, data, Index=index, Session=sessions[holder])
            done = model.do(verb, key, data, sessions[holder], fresh)
            assert (await client.put("/v1/txn", [op])).status == (200 if done else 409), op
            if restart:
                client = await rig.restart()
            told = await client.get("/v1/kv/?recurse")
            rows = told.json if told.status == 200 else []
            assert {
                one["Key"]: (b64decode(one["Value"] or ""), one.get("Session", ""), one["LockIndex"]) for one in rows
            } == model.rows


# Events.


async def test_events() -> None:
    async with registry() as (client, rig):
        empty = await client.get("/v1/event/list")
        assert (empty.json, empty.index) == ([], 1)
        watch = asyncio.create_task(client.get("/v1/event/list?name=deploy&index=1"))
        await settled()
        await client.put("/v1/event/fire/other", b"x")
        await client.put("/v1/event/fire/deploy?node=nobody", b"x")
        await settled()
        assert not watch.done()
        fired = (await client.put("/v1/event/fire/deploy?node=^n0$&tag=t", b"1.2")).json
        heard = await watch
        assert heard.json == [fired]
        assert (fired["Payload"], fired["TagFilter"], fired["NodeFilter"]) == ("MS4y", "t", "^n0$")
        assert heard.index == fired["LTime"]
        for number in range(300):
            await client.put("/v1/event/fire/many", b"%d" % number)
        assert len((await client.get("/v1/event/list")).json) == 256
        await rig.world.advance(1)
        client = await rig.restart()
        await client.put("/v1/event/fire/deploy")
        assert (await client.get("/v1/event/list?name=deploy")).index >= heard.index


async def test_events_that_cannot_be() -> None:
    async with registry() as (client, _):
        assert (await client.put("/v1/event/fire/", b"")).text == "Missing name"
        assert (await client.put("/v1/event/fire/x?node=(", b"")).text == "Invalid node filter: missing ): ("
        assert (await client.put("/v1/event/fire/x", b"x" * 10_000)).status == 500


async def test_what_is_not_here_says_so() -> None:
    async with registry() as (client, _):
        acl = await client.put("/v1/acl/token", {})
        assert (acl.status, acl.text) == (401, "ACL support disabled")
        for target in ("/v1/connect/ca/roots", "/v1/query", "/v1/config/service-defaults/x", "/v1/snapshot"):
            assert (await client.get(target)).status == 400
