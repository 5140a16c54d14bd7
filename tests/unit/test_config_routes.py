"""The keys of routes and of what a rollout is split by: their values, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapless.config import load
from gapless.core.errors import ConfigError
from gapless.core.model import (
    Condition,
    Exceptions,
    Group,
    Override,
    PathKind,
    Retries,
    Route,
    Service,
    SplitBy,
    ValueKind,
)
from gapless.core.model.routing import ANYWHERE


def service(directory: Path, keys: str) -> Service:
    (directory / "gapless.yaml").write_text(f"system: shop\nservices:\n  web:\n    command: [./web]\n    {keys}\n")
    return load(directory).services["web"]


def complaint(directory: Path, keys: str) -> str:
    with pytest.raises(ConfigError) as caught:
        service(directory, keys)
    return caught.value.what.partition("gapless.yaml:")[2]


EXACT = Condition(name="x-a", value="1")
ROUTES = {
    "/o": Route(path="/o"),
    "{exact: /o}": Route(path="/o", path_kind=PathKind.EXACT),
    "{regex: '/o[0-9]+'}": Route(path="/o[0-9]+", path_kind=PathKind.REGEX),
    "{host: '*.B.c'}": Route(host="*.b.c"),
    "{methods: get}": Route(methods=("GET",)),
    "{methods: [post, GET, get]}": Route(methods=("GET", "POST")),
    "{headers: {X-A: 1}}": Route(headers=(EXACT,)),
    "{headers: {x-b: {prefix: p}, x-a: {exact: 1}}}": Route(
        headers=(EXACT, Condition(name="x-b", kind=ValueKind.PREFIX, value="p"))
    ),
    "{headers: {a: {regex: 'b+', invert: true}}}": Route(
        headers=(Condition(name="a", kind=ValueKind.REGEX, value="b+", invert=True),)
    ),
    "{headers: {a: {present: true}}}": Route(headers=(Condition(name="a", kind=ValueKind.PRESENT),)),
    "{headers: {a: {present: false}}}": Route(headers=(Condition(name="a", kind=ValueKind.PRESENT, invert=True),)),
    "{headers: {a: {present: false, invert: true}}}": Route(headers=(Condition(name="a", kind=ValueKind.PRESENT),)),
    "{query: {v: 2}}": Route(query=(Condition(name="v", value="2"),)),
    "{timeout: 5s, try_timeout: 500ms}": Route(timeout_s=5.0, try_timeout_s=0.5),
    "{retries: {attempts: 0}}": Route(retries=Retries(attempts=0)),
    "{retries: {on: [502], methods: [get], keyed: false}}": Route(
        retries=Retries(on=(502,), methods=("GET",), keyed=False)
    ),
}


@pytest.mark.parametrize(("written", "route"), ROUTES.items(), ids=ROUTES)
def test_a_route_is_what_is_written(written: str, route: Route, tmp_path: Path) -> None:
    assert service(tmp_path, f"routes: [{written}]").routes == (route,)


WRONG = {
    "{exact: /o, path: /p}": "routes[0]: give one of path, exact and regex",
    "{regex: '(?=x)'}": 'routes[0].regex: "(?=x)": not an expression of RE2: invalid perl operator: (?=',
    "{regex: 'a{1000}{1000}'}": "not an expression of RE2",
    r"{regex: '\pL{90}'}": "10000 at most",
    "{host: 'a b'}": "routes[0].host: ",
    "{host: 'a:80'}": "without a port",
    "{methods: ['G T']}": "routes[0].methods[0]",
    "{headers: {host: a}}": "the host is matched by `host`",
    "{headers: {x-envoy-peer: a}}": "the gateway removes what clients send",
    "{headers: {'a b': c}}": "not a name of a header",
    "{headers: {a: {exact: 1, prefix: 2}}}": "routes[0].headers.a: give one of exact, prefix, regex and present",
    "{headers: {a: {invert: true}}}": "give one of exact, prefix, regex and present",
    "{headers: {a: {exct: 1}}}": 'unknown key; did you mean "exact"?',
    "{query: {a: {present: false}}}": "cannot be asked to be absent",
    "{query: {a: {exact: b, invert: true}}}": "routes[0].query.a.invert: unknown key",
    "{timeout: 1s, try_timeout: 2s}": "try_timeout is longer than timeout",
    "{retries: {attempts: 11}}": "routes[0].retries.attempts: 11 must be at most 10",
    "{retries: {on: [200]}}": "200 must be at least 400",
    "{retries: {methods: [POST]}}": "only GET, HEAD, OPTIONS, PUT, DELETE may be sent twice",
}


@pytest.mark.parametrize(("written", "found"), WRONG.items(), ids=WRONG)
def test_a_wrong_route_is_told_with_its_place(written: str, found: str, tmp_path: Path) -> None:
    said = complaint(tmp_path, f"routes: [{written}]")
    assert said.startswith("5: services.web.routes[0]")
    assert found in said


def test_two_services_that_want_the_same_requests_are_told_with_both_lines(tmp_path: Path) -> None:
    other = "\n  shop:\n    command: [./shop]\n    routes: [{path: /o, headers: {b: 1}}]"
    said = complaint(tmp_path, "routes: [{path: /o, headers: {a: 1}}]" + other)
    assert said.startswith("5: services.web.routes[0]: */o b=1 of shop (line 8) wants some of the same requests")


SPLITS = {
    "by: user": (SplitBy.USER, ""),
    "by: id": (SplitBy.ID, ""),
    "by: address": (SplitBy.ADDRESS, ""),
    "by: request": (SplitBy.REQUEST, ""),
    "by: {header: X-Tenant}": (SplitBy.HEADER, "x-tenant"),
    "by: {cookie: Session}": (SplitBy.COOKIE, "Session"),
}


@pytest.mark.parametrize(("written", "found"), SPLITS.items(), ids=SPLITS)
def test_users_are_split_by_what_is_written(written: str, found: tuple[SplitBy, str], tmp_path: Path) -> None:
    policy = service(tmp_path, f"rollout: {{{written}, steps: [25%, 100%]}}").rollout
    assert (policy.by, policy.by_name) == found
    assert policy.exceptions == Exceptions()


def test_exceptions_are_what_is_written(tmp_path: Path) -> None:
    written = (
        "rollout: {override: {header: off, cookie: try, allow: [10.0.0.0/8, '::1']}, always: [7, a], "
        "never: {addresses: [10.1.2.3]}}"
    )
    assert service(tmp_path, written).rollout.exceptions == Exceptions(
        override=Override(header="", cookie="try", allow=("10.0.0.0/8", "::1/128")),
        always=Group(users=("7", "a")),
        never=Group(addresses=("10.1.2.3/32",)),
    )
    for word, networks in (("anyone", ANYWHERE), ("nobody", ()), ("local", Override().allow)):
        found = service(tmp_path, f"rollout: {{override: {{allow: {word}}}}}").rollout.exceptions
        assert found.override.allow == networks


WRONG_SPLITS = {
    "by: session": 'rollout.by: "session": neither user nor id nor address nor request nor {header: NAME}',
    "by: cookie": "which cookie? Write {cookie: NAME}",
    "by: {user: x}": "`user` has no name",
    "by: {cookie: 'a b'}": "not a name of a header or a cookie",
    "by: id, steps: [0.5%, 100%]": "counts in whole percents",
    "override: {allow: everyone}": "neither anyone, local, nobody nor a list of networks",
    "override: {allow: [10.0.0.1/8]}": "not an address or a network",
    "override: {allow: ['fd00::/20']}": "networks of IPv6 end at a colon",
    "always: {users: ['']}": "rollout.always.users[0]",
    "never: {addresses: [home]}": "rollout.never.addresses[0]",
}


@pytest.mark.parametrize(("written", "found"), WRONG_SPLITS.items(), ids=WRONG_SPLITS)
def test_a_wrong_split_is_told_with_its_place(written: str, found: str, tmp_path: Path) -> None:
    said = complaint(tmp_path, f"rollout: {{{written}}}")
    assert said.startswith("5: services.web.rollout")
    assert found in said
