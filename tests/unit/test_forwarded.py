"""Whom to believe about where a request comes from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.server.http.forwarded import Trust, checked, host_and_port, trust_of
from tests.unit.http1_kit import say

XFF, XFP, FWD = b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"


@pytest.mark.parametrize(
    ("fields", "client", "scheme"),
    [
        ({}, ("127.0.0.1", 5), "http"),
        ({XFF: b"192.0.2.7"}, ("192.0.2.7", 0), "http"),
        ({XFF: b"192.0.2.7", XFP: b"https"}, ("192.0.2.7", 0), "https"),
        ({XFF: b"198.51.100.1, 192.0.2.7, 127.0.0.9"}, ("192.0.2.7", 0), "http"),
        ({XFF: b"127.0.0.2, 127.0.0.3"}, ("127.0.0.2", 0), "http"),
        ({XFF: b"192.0.2.7:81"}, ("192.0.2.7", 81), "http"),
        ({XFF: b"[2001:db8::7]:81"}, ("2001:db8::7", 81), "http"),
        ({XFF: b"2001:db8::7"}, ("2001:db8::7", 0), "http"),
        ({XFF: b"unknown"}, ("127.0.0.1", 5), "http"),
        ({XFF: b""}, ("127.0.0.1", 5), "http"),
        ({XFP: b"gopher"}, ("127.0.0.1", 5), "http"),
        ({XFP: b" WSS "}, ("127.0.0.1", 5), "https"),
        ({FWD: b'for="[2001:db8::7]:81";proto=https;by=10.0.0.1'}, ("2001:db8::7", 81), "https"),
        ({FWD: b"For=198.51.100.1, for=192.0.2.7"}, ("192.0.2.7", 0), "http"),
        ({FWD: b"nonsense"}, ("127.0.0.1", 5), "http"),
        ({FWD: b"for=198.51.100.1", XFP: b"https"}, ("127.0.0.1", 5), "https"),
    ],
)
def test_what_a_trusted_proxy_says(fields: dict[bytes, bytes], client: Any, scheme: str) -> None:
    scope: Any = {"type": "http", "client": ("127.0.0.1", 5), "scheme": "http"}
    Trust().apply(scope, fields)
    assert (scope["client"], scope["scheme"]) == (client, scheme)


def test_a_websocket_has_schemes_of_its_own() -> None:
    scope: Any = {"type": "websocket", "client": None, "scheme": "ws"}
    Trust().apply(scope, {XFP: b"https"})
    assert scope["scheme"] == "wss"


@pytest.mark.parametrize(
    ("given_trust", "peer", "trusted"),
    [
        (("127.0.0.0/8", "::1"), "127.1.2.3", True),
        (("127.0.0.0/8", "::1"), "::1", True),
        (("127.0.0.0/8", "::1"), "10.0.0.1", False),
        (("127.0.0.0/8",), "", True),
        (("127.0.0.0/8",), None, True),
        (("127.0.0.0/8",), "/run/app.sock", True),
        (("10.0.0.0/8",), "10.9.9.9", True),
        (("10.0.0.0/8",), "127.0.0.1", False),
        (("*",), "203.0.113.5", True),
        (("*",), "2001:db8::1", True),
    ],
)
def test_who_is_trusted(given_trust: tuple[str, ...], peer: str | None, trusted: bool) -> None:
    assert trust_of(given_trust).trusts(peer) is trusted


async def test_a_stranger_is_not_believed() -> None:
    ask = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n"
    scopes = [(await say([ask], peer=(host, 5))).app.scopes[0] for host in ("203.0.113.5", "127.0.0.1")]
    assert [(scope["client"], scope["scheme"]) for scope in scopes] == [
        (("203.0.113.5", 5), "http"),
        (("192.0.2.7", 0), "https"),
    ]


def test_what_is_no_network_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="proxy"):
        checked(["proxy.example"])
    with pytest.raises(ConfigError, match="host bits"):
        checked(["10.0.0.1/8"])


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_nothing(text: str) -> None:
    found = host_and_port(text)
    assert found is None or found[1] >= 0


@given(st.binary(max_size=60), st.sampled_from([XFF, XFP, FWD]))
def test_whatever_a_proxy_sends_breaks_nothing(value: bytes, name: bytes) -> None:
    scope: Any = {"type": "http", "client": ("127.0.0.1", 5), "scheme": "http"}
    Trust().apply(scope, {name: value})
    assert scope["scheme"] in ("http", "https")
