"""Which release of its service answers a request: what every data plane must do, as a list of rules.

The first rule whose test the request passes decides. A rule names one release, or shares and what draws from them. Data
planes write the rules down in their own terms; `choose` follows them, for the fake and for `gapless route explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from gapless.core.model import BUCKETS, Exceptions, Group, ServiceTable, Split, SplitBy, bucket_of
from gapless.core.model.routing import ANYWHERE, PERCENTS, USER_HEADER, is_number
from gapless.core.networks import within
from gapless.gateway.match import Request
from gapless.gateway.shares import Shares, answered_shares, reachable, standing_shares

USER_COOKIE = "gapless-user"
"""What a visitor of whom nothing was known is remembered by."""
REQUEST_HEADER = "x-request-id"


class Source(StrEnum):
    """Where the value that a rule looks at comes from."""

    HEADER = "header"
    COOKIE = "cookie"
    ADDRESS = "address"
    NUMBER = "number"
    """The user's id, where it is a number."""
    VISIT = "visit"
    """The id of this request, which the visitor keeps as a cookie."""
    DICE = "dice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """Passed when the source has one of the values (networks, of the address); (): any value but an empty one."""

    source: Source
    name: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A request that passes every test is answered by one of the shares; `draw` says by which."""

    what: str
    tests: tuple[Test, ...]
    shares: Shares
    draw: Test | None = None
    """The value whose bucket counts; None: there is one share."""
    salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A rule that was looked at. `range` are the buckets that lead to this release, `size` is how many there are."""

    what: str
    passed: bool
    why: str
    release: str = ""
    bucket: int | None = None
    range: tuple[int, int] | None = None
    size: int = BUCKETS


def rules(table: ServiceTable) -> tuple[Rule, ...]:
    """Those of a service, in order; the last one takes every request."""
    alive = reachable(table)
    return _rules(table.split, table.exceptions, alive, answered_shares(table.split, alive))


def standing_rules(table: ServiceTable) -> tuple[Rule, ...]:
    """Rules that say the same, in which a release that has nothing keeps its place beside those that have something: a
    step of a rollout, also the first, the last and the way back, changes only numbers."""
    alive = reachable(table)
    return _rules(table.split, table.exceptions, alive, standing_shares(table.split, alive))


def _rules(split: Split, exceptions: Exceptions, alive: frozenset[str], parts: Shares) -> tuple[Rule, ...]:
    return (*_overrides(exceptions, alive), *_groups(exceptions, split, alive), *_split(split, parts))


def _overrides(exceptions: Exceptions, alive: frozenset[str]) -> Iterator[Rule]:
    override = exceptions.override
    if len(alive) < 2 or not override.allow:
        return
    anywhere = set(ANYWHERE) <= set(override.allow)
    allowed = () if anywhere else (Test(source=Source.ADDRESS, values=override.allow),)
    for source, name in ((Source.HEADER, override.header), (Source.COOKIE, override.cookie)):
        for release in sorted(alive) if name else ():
            test = Test(source=source, name=name, values=(release,))
            yield Rule(what=f"{release} chosen by {source}", tests=(test, *allowed), shares=((release, BUCKETS),))


def _groups(exceptions: Exceptions, split: Split, alive: frozenset[str]) -> Iterator[Rule]:
    if not split.newcomer:
        return
    for what, group, release in (
        ("never", exceptions.never, split.stable),
        ("always", exceptions.always, split.newcomer),
    ):
        for test in _members(group) if release in alive else ():
            yield Rule(what=what, tests=(test,), shares=((release, BUCKETS),))


def _members(group: Group) -> Iterator[Test]:
    if group.users:
        yield Test(source=Source.HEADER, name=USER_HEADER, values=group.users)
    if group.addresses:
        yield Test(source=Source.ADDRESS, values=group.addresses)


def _split(split: Split, parts: Shares) -> Iterator[Rule]:
    if len(parts) == 1:
        yield Rule(what="split", tests=(), shares=parts)
        return
    for draw in _sources(split):
        tests = () if draw.source in (Source.VISIT, Source.DICE, Source.ADDRESS) else (draw,)
        drawn = percents(parts) if draw.source is Source.NUMBER else parts
        by = f"split by {split.by} {split.by_name}".strip()
        yield Rule(what=by, tests=tests, shares=drawn, draw=draw, salt=split.salt)


def _sources(split: Split) -> tuple[Test, ...]:
    """What is asked for the user's place, first to last. A visitor's own cookie goes before the application's: who came
    before having that one stays where the first request went."""
    user = Test(source=Source.HEADER, name=USER_HEADER)
    visitor = Test(source=Source.COOKIE, name=USER_COOKIE)
    visit = Test(source=Source.VISIT, name=USER_COOKIE)
    named = split.by_name
    return {
        SplitBy.USER: (user, visitor, visit),
        SplitBy.ID: (Test(source=Source.NUMBER, name=USER_HEADER), user, visitor, visit),
        SplitBy.HEADER: (Test(source=Source.HEADER, name=named), visitor, visit),
        SplitBy.COOKIE: (visitor, Test(source=Source.COOKIE, name=named), visit),
        SplitBy.ADDRESS: (Test(source=Source.ADDRESS),),
        SplitBy.REQUEST: (Test(source=Source.DICE),),
    }[split.by]


def _named(test: Test) -> str:
    """What a test looks at, for people."""
    if test.source is Source.NUMBER:
        return f"header {test.name} that is a number"
    if test.source is Source.VISIT:
        return f"header {REQUEST_HEADER}"
    return f"{test.source} {test.name}".strip()


def percents(parts: Shares) -> Shares:
    """The shares as whole percents, rounded up from the newcomer's side, so that raising one only adds users.
    Nobody loses the place, whatever is left of the share."""
    edge, edges = 0, [0]
    for _, weight in parts:
        edge += weight
        edges.append(-(-edge * PERCENTS // BUCKETS))
    return tuple((release, edges[i + 1] - edges[i]) for i, (release, _) in enumerate(parts))


def choose(table: ServiceTable, request: Request, die: float | None) -> tuple[str, list[Step]]:
    """The release that answers, and every rule up to the one that said so. `die` (uniform in [0, 1)) decides where
    chance does; None: it cannot be foretold, and the release is empty unless there is only one."""
    steps: list[Step] = []
    for rule in rules(table):
        why = next((why for test in rule.tests if (why := failed(test, request))), "")
        if why:
            steps.append(Step(what=rule.what, passed=False, why=why))
            continue
        steps.append(drawn(rule, request, die))
        break
    return steps[-1].release, steps


_CHANCE = {
    Source.DICE: "by chance, each time anew",
    Source.VISIT: f"a new visitor: by chance, then kept by the cookie {USER_COOKIE}",
}


def drawn(rule: Rule, request: Request, die: float | None) -> Step:
    """What a rule comes to for a request that passes it."""
    if rule.draw is None:
        why = ", ".join(filter(None, (_value(test, request) for test in rule.tests))) or "one release has all of it"
        return Step(what=rule.what, passed=True, why=why, release=rule.shares[0][0])
    size = sum(weight for _, weight in rule.shares)
    bucket = _bucket(rule, request, die, size)
    if bucket is None:
        return Step(what=rule.what, passed=True, why=_CHANCE[rule.draw.source], size=size)
    release, low, high = _at(rule.shares, bucket)
    why = _value(rule.draw, request) or "by chance"
    return Step(what=rule.what, passed=True, why=why, release=release, bucket=bucket, range=(low, high), size=size)


def _bucket(rule: Rule, request: Request, die: float | None, size: int) -> int | None:
    assert rule.draw is not None
    values = found(rule.draw, request)
    if not values:
        return None if die is None else int(die * size)
    value = values[-1]
    return int(value) % size if rule.draw.source is Source.NUMBER else bucket_of(value, rule.salt)


def _at(shares: Shares, bucket: int) -> tuple[str, int, int]:
    """(release, its first bucket, its last one)."""
    edge = 0
    for release, weight in shares:
        if bucket < edge + weight:
            return release, edge, edge + weight - 1
        edge += weight
    raise AssertionError("the shares do not have all buckets")


_FOUND: Mapping[Source, Callable[[Test, Request], list[str]]] = {
    Source.HEADER: lambda test, request: [request.headers.get(test.name, "")],
    Source.COOKIE: lambda test, request: request.cookies(test.name),
    Source.ADDRESS: lambda test, request: [request.address],
    Source.NUMBER: lambda test, request: [v for v in [request.headers.get(test.name, "")] if is_number(v)],
    Source.VISIT: lambda test, request: [request.headers.get(REQUEST_HEADER, "")],
    Source.DICE: lambda test, request: [],
}


def found(test: Test, request: Request) -> list[str]:
    """What a request has where a test looks; the last value counts for a draw."""
    return [value for value in _FOUND[test.source](test, request) if value]


def failed(test: Test, request: Request) -> str:
    """Why a request does not pass, in words; empty when it does."""
    values = found(test, request)
    if not values:
        return f"there is no {_named(test)}"
    if not test.values:
        return ""
    if test.source is Source.ADDRESS:
        passed = within(values[0], test.values)
    else:
        passed = any(value.rstrip() in test.values for value in values)
    return "" if passed else f"{_value(test, request)} is not {_wanted(test)}"


def _wanted(test: Test) -> str:
    shown = ", ".join(test.values[:3])
    more = len(test.values) - 3
    return f"{shown} or {more} more" if more > 0 else shown


def _value(test: Test, request: Request) -> str:
    values = found(test, request)
    named = f"header {test.name}" if test.source is Source.NUMBER else _named(test)
    return f"{named} {values[-1]}" if values else ""
