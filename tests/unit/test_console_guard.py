"""Who may use the console."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.console import guard
from gapless.console.guard import Access
from gapless.core.model import Address

ALONE = Access(listen=Address(host="127.0.0.1", port=8070), key=b"k" * 32)
OPEN = Access(listen=Address(host="0.0.0.0", port=8070), key=b"", token="a token", hosts=("console.example.com",))


@pytest.mark.parametrize("host", ["127.0.0.1:8070", "localhost:8070", "LOCALHOST", "[::1]:8070", "127.0.0.2:8070"])
def test_loopback_is_answered_under_its_names(host: str) -> None:
    assert guard.host_allowed(host, ALONE)


@pytest.mark.parametrize("host", ["", "evil.example:8070", "127.0.0.1.evil.example", "10.0.0.7:8070", "[::2]"])
def test_other_names_are_refused_on_loopback(host: str) -> None:
    assert not guard.host_allowed(host, ALONE)


@pytest.mark.parametrize("host", ["10.0.0.7:8070", "console.example.com", "console.example.com:443", "[fd00::1]:8070"])
def test_with_a_token_addresses_and_named_hosts_are_answered(host: str) -> None:
    assert guard.host_allowed(host, OPEN)


def test_a_name_that_nobody_named_is_refused_even_with_a_token() -> None:
    assert not guard.host_allowed("evil.example", OPEN)


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        ("http://127.0.0.1:8070", True),
        ("https://127.0.0.1:8070", True),
        ("http://127.0.0.1:8071", False),
        ("http://evil.example", False),
        ("null", False),
        ("", False),
        ("ftp://127.0.0.1:8070", False),
    ],
)
def test_acts_come_from_our_own_pages(origin: str, good: bool) -> None:
    assert guard.origin_allowed(origin, "127.0.0.1:8070") is good


@given(name=st.text(max_size=100))
def test_a_session_tells_who_it_is_until_it_is_over(name: str) -> None:
    cookie = guard.session(OPEN, name, 1000.0)
    assert guard.who_is(cookie, OPEN, 1000.0 + guard.SESSION_S - 1) == name.strip()[: guard.NAME_LIMIT]
    assert guard.who_is(cookie, OPEN, 1000.0 + guard.SESSION_S + 1) is None


@given(cookie=st.text(max_size=80))
def test_no_made_up_session_is_believed(cookie: str) -> None:
    assert guard.who_is(cookie, OPEN, 0.0) is None


@given(place=st.integers(min_value=0, max_value=60), sign=st.characters(codec="ascii"))
def test_a_changed_session_is_not_believed(place: int, sign: str) -> None:
    cookie = guard.session(OPEN, "ada", 1000.0)
    changed = cookie[:place] + sign + cookie[place + 1 :]
    assert (guard.who_is(changed, OPEN, 1000.0) is not None) is (changed == cookie)


def test_a_session_outlives_the_control_plane_and_not_its_token() -> None:
    cookie = guard.session(OPEN, "ada", 1000.0)
    assert guard.who_is(cookie, replace(OPEN), 1000.0) == "ada"
    assert guard.who_is(cookie, replace(OPEN, token="another"), 1000.0) is None


def test_only_the_token_logs_in() -> None:
    assert guard.token_matches("a token", OPEN)
    assert not guard.token_matches("another", OPEN)
    assert not guard.token_matches("", ALONE)


def test_acts_need_what_only_the_page_knows() -> None:
    token = guard.act_token(ALONE, "cookie")
    assert guard.act_allowed(token, ALONE, "cookie")
    assert not guard.act_allowed(token, ALONE, "another cookie")
    assert not guard.act_allowed(token, replace(ALONE, key=b"x" * 32), "cookie")
    assert not guard.act_allowed("", ALONE, "cookie")
