"""The order in which Envoy is told, played against a pretended Envoy that takes messages in any order."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from gapless.gateway.envoy.delta import Asked, Connection, Item, Refusal, Snapshot, Told, follow
from gapless.gateway.envoy.resources import CLUSTER, LISTENER, LOAD, ORDER, ROUTES, RUNTIME
from gapless.gateway.envoy.weights import LAYER as WEIGHTS
from gapless.gateway.envoy.words import UNSAID, logged, plain


def truth(clusters: Mapping[str, str], routes: str = "r1", listener: str = "l1") -> Snapshot:
    """`clusters`: name → version of its load assignment."""
    return Snapshot(
        {
            CLUSTER: {name: Item(f"c-{name}", b"") for name in clusters},
            LOAD: {name: Item(version, b"") for name, version in clusters.items()},
            LISTENER: {"gapless": Item(listener, b"")},
            ROUTES: {"gapless": Item(routes, b"")},
        }
    )


class PretendedEnvoy:
    """As Envoy: acknowledges a cluster only once it has its load assignment; asks for the listener, then routes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.has: dict[str, dict[str, str]] = {t: {} for t in ORDER}
        self.log: list[Told] = []
        self._warming: list[Told] = []
        self._subscribed: set[str] = set()

    def connect(self, *, with_versions: bool = False) -> None:
        """A new stream; on a reconnect with what it has."""
        self.connection = Connection()
        for type_url in ORDER:
            have = self.has[type_url] if with_versions else {}
            names = () if type_url in (CLUSTER, LISTENER) else tuple(have)
            if type_url == CLUSTER or have:
                self._ask(Asked(type_url=type_url, subscribe=names, initial=dict(have)))

    def run(self, now: Snapshot, limit: int = 200) -> None:
        """Until nothing is due any more."""
        for _ in range(limit):
            told = self.connection.next(now)
            if told is None:
                return
            self.take(told)
        raise AssertionError("it never comes to rest")

    def take(self, told: Told) -> None:
        self.log.append(told)
        self._check(told)
        mine = self.has[told.type_url]
        mine.update({name: item.version for name, item in told.items.items()})
        for name in told.removed:
            mine.pop(name, None)
        if told.type_url == CLUSTER:
            self._take_clusters(told)
        else:
            self._ask(Asked(type_url=told.type_url, nonce=told.nonce))
        self._follow()

    def _take_clusters(self, told: Told) -> None:
        fresh = tuple(n for n in told.items if n not in self.has[LOAD])
        if told.removed:
            for name in told.removed:
                self.has[LOAD].pop(name, None)
            self._ask(Asked(type_url=LOAD, unsubscribe=told.removed))
        if fresh:
            self._ask(Asked(type_url=LOAD, subscribe=fresh))
        self._warming.append(told)

    def _follow(self) -> None:
        ready = [t for t in self._warming if all(n in self.has[LOAD] for n in t.items if n in self.has[CLUSTER])]
        for told in ready:
            self._warming.remove(told)
            self._ask(Asked(type_url=CLUSTER, nonce=told.nonce))
        for first, then, names in ((CLUSTER, LISTENER, ()), (LISTENER, ROUTES, ("gapless",))):
            subscribed = self.connection.subscriptions
            if first in subscribed and subscribed[first].answered and then not in subscribed:
                self._ask(Asked(type_url=then, subscribe=names))

    def _check(self, told: Told) -> None:
        if told.type_url == ROUTES and told.items:
            assert self.has[CLUSTER].keys() <= self.has[LOAD].keys(), "routes to a cluster that is still warming"

    def _ask(self, request: Asked) -> None:
        self.connection.asked(request)

    def holds(self, now: Snapshot) -> bool:
        return all(self.has[t] == {n: i.version for n, i in now[t].items()} for t in ORDER)


def fresh(now: Snapshot) -> PretendedEnvoy:
    envoy = PretendedEnvoy(Connection())
    envoy.connect()
    envoy.run(now)
    return envoy


def test_a_new_envoy_gets_everything_in_order() -> None:
    now = truth({"a": "1", "b": "1"})
    envoy = fresh(now)
    assert envoy.holds(now)
    assert envoy.connection.settled(now)
    assert [told.type_url for told in envoy.log] == [CLUSTER, LOAD, LISTENER, ROUTES]


def test_an_envoy_without_clusters_is_not_left_waiting() -> None:
    envoy = fresh(truth({}))
    assert [told.type_url for told in envoy.log] == [CLUSTER, LISTENER, ROUTES]
    assert envoy.connection.settled(truth({}))


def test_nothing_is_said_before_the_truth_is_known() -> None:
    connection = Connection()
    connection.asked(Asked(type_url=CLUSTER))
    assert connection.next(None) is None


def test_one_changed_thing_is_one_message() -> None:
    envoy = fresh(truth({"a": "1", "b": "1"}))
    envoy.log.clear()
    envoy.run(truth({"a": "2", "b": "1"}))
    assert [(told.type_url, tuple(told.items)) for told in envoy.log] == [(LOAD, ("a",))]


def test_a_reconnect_resends_nothing() -> None:
    now = truth({"a": "1", "b": "1"})
    envoy = fresh(now)
    envoy.log.clear()
    envoy.connect(with_versions=True)
    envoy.run(now)
    assert envoy.log == []
    assert envoy.connection.settled(now)


def test_an_envoy_that_has_only_asked_for_its_runtime_has_not_settled() -> None:
    """It asks for that first, also when it connects again: nothing else that it has is known then."""
    now = replace_runtime(truth({"a": "1"}))
    connection = Connection()
    connection.asked(Asked(type_url=RUNTIME, subscribe=("faults",), initial={"faults": "f1"}))
    assert connection.next(now) is None
    assert not connection.settled(now)
    connection.asked(Asked(type_url=CLUSTER, initial={"c": "1"}))
    told = connection.next(now)
    assert told is not None
    assert told.type_url == CLUSTER


def replace_runtime(now: Snapshot) -> Snapshot:
    return Snapshot({**now.by_type, RUNTIME: {"faults": Item("f1", b"")}})


def weighing(routes: str, weights: str, layers: tuple[str, ...] = (WEIGHTS,)) -> tuple[Snapshot, PretendedEnvoy]:
    """A truth with weights, and an Envoy that has it, with these layers in its runtime."""
    now = with_weights(routes, weights)
    envoy = PretendedEnvoy(Connection())
    envoy.connection.asked(Asked(type_url=RUNTIME, subscribe=layers))
    told = envoy.connection.next(now)
    if told is not None:
        assert told.type_url == RUNTIME, "it waits for that before it asks for anything else"
        envoy.take(told)
    envoy.connection.asked(Asked(type_url=CLUSTER))
    envoy.run(now)
    envoy.log.clear()
    return now, envoy


def with_weights(routes: str, weights: str) -> Snapshot:
    by_type = truth({"a": "1"}).by_type
    item = Item(f"{routes}-{weights}", b"", frame=f"{routes}-")
    return Snapshot({**by_type, ROUTES: {"gapless": item}, RUNTIME: {WEIGHTS: Item(weights, b"")}})


def types(envoy: PretendedEnvoy) -> list[str]:
    return [told.type_url for told in envoy.log]


def test_weights_alone_are_a_matter_of_the_runtime() -> None:
    _, envoy = weighing("r", "1")
    envoy.run(now := with_weights("r", "2"))
    assert types(envoy) == [RUNTIME]
    assert envoy.connection.settled(now)
    envoy.run(now := with_weights("r2", "3"))
    assert types(envoy) == [RUNTIME, ROUTES, RUNTIME], "other routes come with their weights, before the runtime"
    assert envoy.connection.settled(now)


def test_who_has_no_layer_of_weights_is_sent_the_routes() -> None:
    """An Envoy that an earlier version has started, or gRPC's own client."""
    _, envoy = weighing("r", "1", layers=())
    envoy.run(now := with_weights("r", "2"))
    assert types(envoy) == [ROUTES]
    assert envoy.connection.settled(now)


def test_who_comes_back_keeps_its_weights_until_it_has_the_new_routes() -> None:
    _, envoy = weighing("r", "1")
    now = with_weights("r2", "3")
    envoy.connect(with_versions=True)
    envoy.connection.asked(Asked(type_url=RUNTIME, subscribe=(WEIGHTS,), initial={WEIGHTS: "1"}))
    envoy.run(now)
    assert types(envoy) == [ROUTES, RUNTIME]
    assert envoy.holds(now)


def test_who_comes_back_after_a_step_is_told_the_step() -> None:
    _, envoy = weighing("r", "1")
    envoy.connect(with_versions=True)
    envoy.run(now := with_weights("r", "2"))
    assert types(envoy) == [RUNTIME]
    assert envoy.connection.settled(now)


def test_a_reconnect_makes_up_for_what_changed() -> None:
    envoy = fresh(truth({"a": "1", "gone": "1"}))
    now = truth({"a": "2", "new": "1"}, routes="r2")
    envoy.connect(with_versions=True)
    envoy.run(now)
    assert envoy.holds(now)
    assert envoy.connection.settled(now)


def test_what_is_removed_goes_after_what_led_to_it() -> None:
    envoy = fresh(truth({"a": "1", "b": "1"}))
    envoy.log.clear()
    envoy.run(truth({"a": "1"}, routes="r2"))
    assert [(told.type_url, told.removed) for told in envoy.log] == [(ROUTES, ()), (CLUSTER, ("b",))]


def test_a_changed_cluster_gets_its_load_assignment_again() -> None:
    envoy = fresh(truth({"a": "1"}))
    envoy.log.clear()
    changed = Snapshot({**truth({"a": "1"}).by_type, CLUSTER: {"a": Item("c-other", b"")}})
    envoy.run(changed)
    assert [told.type_url for told in envoy.log] == [CLUSTER, LOAD]


def test_a_refusal_is_heard_not_repeated_and_taken_back() -> None:
    before, bad = truth({"a": "1"}), truth({"a": "1"}, routes="bad")
    envoy = fresh(before)
    told = envoy.connection.next(bad)
    assert told is not None
    refusal = envoy.connection.asked(Asked(type_url=ROUTES, nonce=told.nonce, error="no such thing"))
    assert refusal == Refusal("no such thing", bad)
    assert envoy.connection.next(bad) is None
    assert not envoy.connection.settled(bad)
    envoy.run(before)
    assert envoy.connection.settled(before)
    assert envoy.holds(before)


def test_a_refused_cluster_is_removed_again() -> None:
    """Envoy takes the good part of a response that it refuses."""
    before, bad = truth({"a": "1"}), truth({"a": "1", "b": "1"})
    envoy = fresh(before)
    told = envoy.connection.next(bad)
    assert told is not None
    envoy.connection.asked(Asked(type_url=CLUSTER, nonce=told.nonce, error="no"))
    back = envoy.connection.next(before)
    assert back is not None
    assert (back.type_url, back.removed) == (CLUSTER, ("b",))


def test_an_old_nonce_means_nothing() -> None:
    now = truth({"a": "1"})
    envoy = fresh(now)
    assert envoy.connection.asked(Asked(type_url=ROUTES, nonce="1", error="late")) is None
    assert envoy.connection.settled(now)


def test_asking_again_sends_again() -> None:
    now = truth({"a": "1"})
    envoy = fresh(now)
    envoy.connection.asked(Asked(type_url=LOAD, subscribe=("a",)))
    told = envoy.connection.next(now)
    assert told is not None
    assert tuple(told.items) == ("a",)


def test_a_client_that_names_what_it_wants_gets_that_alone() -> None:
    """gRPC's own: listener, routes, cluster, load assignment, each by name."""
    now, connection = truth({"a": "1", "b": "1"}), Connection()
    for type_url, name in ((LISTENER, "gapless"), (ROUTES, "gapless"), (CLUSTER, "a"), (LOAD, "a")):
        connection.asked(Asked(type_url=type_url, subscribe=(name,)))
        told = connection.next(now)
        assert told is not None
        assert tuple(told.items) == (name,)
        connection.asked(Asked(type_url=type_url, nonce=told.nonce))
    assert connection.settled(now)


def test_a_name_that_does_not_exist_is_said_to_be_absent_once() -> None:
    now, connection = truth({}), Connection()
    connection.asked(Asked(type_url=LOAD, subscribe=("ghost",)))
    told = connection.next(now)
    assert told is not None
    assert told.removed == ("ghost",)
    connection.asked(Asked(type_url=LOAD, nonce=told.nonce))
    assert connection.next(now) is None


def test_a_late_refusal_is_of_the_truth_that_it_was_sent_for() -> None:
    bad, good = truth({"a": "1"}, routes="bad"), truth({"a": "1"}, routes="good")
    envoy = fresh(truth({"a": "1"}))
    told = envoy.connection.next(bad)
    assert told is not None
    assert envoy.connection.next(good) is None, "one at a time"
    refusal = envoy.connection.asked(Asked(type_url=ROUTES, nonce=told.nonce, error="no"))
    assert refusal == Refusal("no", bad)
    envoy.run(good)
    assert envoy.connection.settled(good)


worlds = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4)


@given(st.lists(st.tuples(worlds, st.sampled_from("xyz"), st.booleans()), min_size=1, max_size=6))
def test_whatever_changes_envoy_ends_with_the_truth(steps: list[tuple[dict[str, str], str, bool]]) -> None:
    first, routes, _ = steps[0]
    now = follow(None, truth(first, routes), 1)
    envoy = fresh(now)
    assert envoy.connection.settled(now)
    for number, (clusters, routes, reconnects) in enumerate(steps[1:], start=2):
        now = follow(now, truth(clusters, routes), number)
        if reconnects:
            envoy.connect(with_versions=True)
        envoy.run(now)
        assert envoy.holds(now)
        assert envoy.connection.settled(now)


def test_envoys_words_come_without_what_it_refused() -> None:
    assert plain("unknown cluster 'x'") == "unknown cluster 'x'"
    refused = 'goo.gle/debugstr name: "a"\n: Proto constraint validation failed (x)\n'
    assert plain(refused) == "Proto constraint validation failed (x)"
    assert plain("Invalid duration: goo.gle/debugstr   \nseconds: -1\n") == "Invalid duration"
    assert plain('goo.gle/debugproto name: "a" ...(truncated)') == UNSAID
    assert plain("") == "no reason given"
    assert logged(f"{refused}\n[warning] more") == "Proto constraint validation failed (x)"
    assert logged("[warning] something else") == ""
