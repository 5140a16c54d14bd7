"""What one Envoy has and what it is sent next: delta xDS as a pure state machine.

What is added goes clusters → load assignments → listener → routes → runtime; what is removed goes the other way. So
nothing ever leads to what is not there. One response of each type is under way at a time. Listener, routes and runtime
wait until all before them is acknowledged; load assignments do not, because Envoy acknowledges a cluster only when it
has the cluster's.

Routes in which only the weights are other than before need not be sent to an Envoy that takes those by its runtime
(`weights`). Whenever routes are sent, they have the weights of now in them, and the runtime that they need comes behind
them; what the routes before needed stays until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from gapless.gateway.envoy.resources import CLUSTER, LISTENER, LOAD, ORDER, ROUTES, RUNTIME, SECRETS
from gapless.gateway.envoy.weights import LAYER as WEIGHTS

_REMOVALS = (ROUTES, LISTENER, SECRETS, CLUSTER, LOAD)
"""A load assignment goes with its cluster; what is said about it afterwards only answers who still asks."""

_ABSENT = ""
"""Known version of a name that Envoy was told does not exist."""
_UNSURE = "?"
"""Known version of a name in a refused response: Envoy may have taken it all the same."""


@dataclass(frozen=True, slots=True)
class Item:
    """A resource: the version is a hash of the content, so that it means the same to every control plane."""

    version: str
    data: bytes | Callable[[], bytes] = field(compare=False)
    """Or what makes them, where they are seldom sent."""
    until_at: float = 0.0
    """When Envoy shall forget it; 0: never."""
    frame: str = ""
    """What the version begins with, whatever the weights are that the runtime has as well; empty: there are none."""

    def content(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data()

    def same(self, version: str | None, weighs: bool) -> bool:
        """Whether it need not be sent to who has this version; `weighs`: it takes weights by the runtime."""
        return version == self.version or bool(weighs and self.frame and version and version.startswith(self.frame))


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The truth at one moment: type URL → name → resource."""

    by_type: Mapping[str, Mapping[str, Item]]
    before: int = 0
    """The number of the truth that `changed` compares with; 0: with none."""
    number: int = 0
    changed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Type URL → names that are new, other than before, or gone."""

    def __getitem__(self, type_url: str) -> Mapping[str, Item]:
        return self.by_type.get(type_url, {})


def follow(before: Snapshot | None, after: Snapshot, number: int) -> Snapshot:
    """The truth after another one, with what has changed. Items that are the very same are not looked into."""
    if before is None:
        return replace(after, number=number)
    changed = {type_url: _changed(before[type_url], named) for type_url, named in after.by_type.items()}
    return replace(after, number=number, before=before.number, changed=changed)


def _changed(before: Mapping[str, Item], after: Mapping[str, Item]) -> frozenset[str]:
    if before is after:
        return frozenset()
    found = {name for name, item in after.items() if before.get(name) is not item and before.get(name) != item}
    return frozenset(found | (before.keys() - after.keys()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A DeltaDiscoveryRequest. `error` is Envoy's own words when it refuses the response `nonce`."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A DeltaDiscoveryResponse, and the truth that it is part of."""

    truth: Snapshot
    type_url: str
    nonce: str
    items: Mapping[str, Item]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Envoy's own words, and the truth that it refused (which may be an earlier one by now)."""

    text: str
    truth: Snapshot


@dataclass(slots=True)
class Subscription:
    """What a connection wants and has of one type."""

    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    known: dict[str, str] = field(default_factory=dict)
    """name → version that Envoy has acknowledged."""
    answered: bool = False
    refused: Snapshot | None = None
    """Nothing of this type is sent again until the truth changes: it would be refused again."""


@dataclass(slots=True)
class Connection:
    """One stream. `asked` and `acknowledged` take in events; `next` decides."""

    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    under_way: dict[str, Told] = field(default_factory=dict)
    """Type URL → the response that Envoy has not yet answered."""
    count: int = 0
    level: int = 0
    """The number of the truth that Envoy is known to have, all of it and nothing else; 0: not known. Whoever has the
    one before needs only be looked at for what has changed: of a thousand services that is one."""

    def asked(self, request: Asked) -> Refusal | None:
        """Take in a request; tells when Envoy refused what was under way."""
        subscription = self.subscriptions.get(request.type_url)
        if subscription is None:
            implied = not request.subscribe and request.type_url in (CLUSTER, LISTENER)
            subscription = self.subscriptions[request.type_url] = Subscription(wildcard=implied)
        if request.subscribe or request.unsubscribe or request.initial or request.error:
            self.level = 0
        self._subscribe(subscription, request)
        told = self.under_way.get(request.type_url)
        if told is None or told.nonce != request.nonce:
            return None
        del self.under_way[request.type_url]
        _conclude(subscription, told, request.error)
        if not request.error:
            return None
        subscription.refused = told.truth
        return Refusal(request.error, told.truth)

    def next(self, truth: Snapshot | None) -> Told | None:
        """The response that is due now, which is then under way."""
        if truth is None:
            return None
        for type_url, items, removed in self._due(truth):
            if not self._busy(type_url):
                self.count += 1
                told = Told(truth=truth, type_url=type_url, nonce=str(self.count), items=items, removed=removed)
                return self._tell(told)
        return None

    def settled(self, truth: Snapshot) -> bool:
        """Whether Envoy has acknowledged all of it and has nothing else."""
        if truth.number and self.level == truth.number:
            return True
        found = not self.under_way and all(self._has(t, truth) for t in ORDER) and not any(self._due(truth))
        if found:
            self.level = truth.number
        return found

    def _names(self, type_url: str, truth: Snapshot) -> Iterable[str]:
        """Those that may be other than what Envoy has."""
        if self.level and self.level == truth.before:
            return truth.changed.get(type_url, ())
        return truth[type_url]

    @property
    def whole(self) -> bool:
        """Whether it wants everything, as Envoy does; gRPC's own client asks for each resource by name. Envoy asks for
        its runtime first."""
        clusters = self.subscriptions.get(CLUSTER)
        return clusters.wildcard if clusters else RUNTIME in self.subscriptions

    @property
    def weighs(self) -> bool:
        """Whether it takes weights by its runtime."""
        runtime = self.subscriptions.get(RUNTIME)
        return runtime is not None and WEIGHTS in runtime.names

    def _order(self) -> tuple[str, ...]:
        """A new Envoy waits for its runtime before it asks for anything else."""
        runtime = self.subscriptions.get(RUNTIME)
        if runtime is None or ROUTES in self.subscriptions or runtime.names <= runtime.known.keys():
            return ORDER
        return RUNTIME, *(type_url for type_url in ORDER if type_url != RUNTIME)

    def _subscribe(self, subscription: Subscription, request: Asked) -> None:
        for name in request.subscribe:
            if name == "*":
                subscription.wildcard = True
                continue
            subscription.names.add(name)
            subscription.known.pop(name, None)  # asking again means: send it again
        for name in request.unsubscribe:
            if name == "*":
                subscription.wildcard = False
            subscription.names.discard(name)
            subscription.known.pop(name, None)
        subscription.known.update(request.initial)

    def _busy(self, type_url: str) -> bool:
        # a load assignment that crosses a change of its cluster would count as sent, but the cluster waits for another
        return type_url in self.under_way or (type_url == CLUSTER and LOAD in self.under_way)

    def _tell(self, told: Told) -> Told:
        loads = self.subscriptions.get(LOAD)
        if told.type_url == CLUSTER or told.removed:
            self.level = 0  # what depends on them has changed as well
        if told.type_url == CLUSTER and loads is not None:
            for name in told.items:  # a changed cluster waits for its load assignment to be sent again
                loads.known.pop(name, None)
        self.under_way[told.type_url] = told
        return told

    def _due(self, truth: Snapshot) -> Iterator[tuple[str, dict[str, Item], tuple[str, ...]]]:
        order = self._order()
        for place, type_url in enumerate(order):
            items = self._additions(type_url, truth)
            if items is not None:
                yield type_url, items, ()
            if type_url != CLUSTER and self.whole and not all(self._has(t, truth) for t in order[: place + 1]):
                return
        for type_url in _REMOVALS:
            removed = self._removals(type_url, truth)
            if removed:
                yield type_url, {}, removed

    def _additions(self, type_url: str, truth: Snapshot) -> dict[str, Item] | None:
        subscription = self.subscriptions.get(type_url)
        if subscription is None or subscription.refused is truth:
            return None
        known, present, weighs = subscription.known, truth[type_url], self.weighs
        items = {
            name: present[name]
            for name in self._names(type_url, truth)
            if name in present
            and (subscription.wildcard or name in subscription.names)
            and not present[name].same(known.get(name), weighs)
        }
        first_and_empty = subscription.wildcard and not subscription.answered and not subscription.known
        return items if items or first_and_empty else None

    def _removals(self, type_url: str, truth: Snapshot) -> tuple[str, ...]:
        subscription = self.subscriptions.get(type_url)
        if subscription is None or subscription.refused is truth:
            return ()
        if self.level and self.level == truth.before:
            asked = self._names(type_url, truth)
            gone = {n for n in asked if n in subscription.known or n in subscription.names} - truth[type_url].keys()
        else:
            gone = {n for n in (*subscription.known, *subscription.names) if n not in truth[type_url]}
        if type_url == LOAD and self.whole:
            clusters = self.subscriptions.get(CLUSTER)
            gone -= clusters.known.keys() if clusters else set()  # Envoy forgets it with the cluster
        return tuple(sorted(n for n in gone if subscription.known.get(n) != _ABSENT))

    def _has(self, type_url: str, truth: Snapshot) -> bool:
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            return type_url == RUNTIME or not (self.whole and truth[type_url])  # an older Envoy does not ask for it
        known, present, weighs = subscription.known, truth[type_url], self.weighs
        every = self.whole and type_url != RUNTIME  # an older Envoy has other layers
        wanted = (n for n in self._names(type_url, truth) if n in present and (every or n in subscription.names))
        return all(present[name].same(known.get(name), weighs) for name in wanted)


def _conclude(subscription: Subscription, told: Told, error: str) -> None:
    subscription.answered = True
    for name, item in told.items.items():
        subscription.known[name] = _UNSURE if error else item.version
    for name in told.removed:
        if error:
            subscription.known[name] = _UNSURE
        elif name in subscription.names:
            subscription.known[name] = _ABSENT
        else:
            subscription.known.pop(name, None)
