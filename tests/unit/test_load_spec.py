"""What a load is made of: durations, headers, targets, expectations, rendered requests."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.load.request import Request, Template
from gapless.load.spec import Expect, LoadSpec, Target, header, seconds

SPEC = LoadSpec(url="http://127.0.0.1:8080/orders")
REQUEST = Request(n=7, due=0.0, dispatched=0.0, user="42", uuid="u-u", crowded=False)


@pytest.mark.parametrize(("text", "value"), [("500ms", 0.5), ("30s", 30), ("2m", 120), ("1h", 3600), ("1.5", 1.5)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "1 2"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="not a duration"):
        seconds(text)


def test_headers_are_pairs_and_cannot_smuggle_lines() -> None:
    assert header("Accept:  a/b ") == ("Accept", "a/b")
    for wrong in ("no colon", ": x", "a b: c", "a: b\r\nc: d"):
        with pytest.raises(ConfigError, match="not a header"):
            header(wrong)


def test_targets() -> None:
    assert Target.parse("http://h:81/a?b=1") == Target("h", 81, "h:81", "/a?b=1")
    assert Target.parse("http://h") == Target("h", 80, "h", "/")
    for wrong in ("https://h/", "h:80", "http://", "http://h:99999/", "http://h/a b"):
        with pytest.raises(ConfigError):
            Target.parse(wrong)


@given(st.integers(100, 599))
def test_expected_statuses(status: int) -> None:
    assert Expect().allows(status) == (200 <= status <= 399)
    assert Expect.parse("201,4xx").allows(status) == (status == 201 or 400 <= status <= 499)
    assert Expect.parse(str(status)).allows(status)


def test_wrong_expectations_are_named() -> None:
    for statuses, body in (("2x", ""), ("99", ""), ("", "(")):
        with pytest.raises(ConfigError):
            Expect.parse(statuses, body)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0},
        {"rate": float("nan")},
        {"connections": 0},
        {"for_s": 0},
        {"timeout_s": 0},
        {"users": -1},
        {"method": "A B"},
    ],
)
def test_a_spec_that_cannot_run_says_so(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot be sent"):
        replace(SPEC, **wrong).check()  # type: ignore[arg-type]


def test_a_request_is_rendered_with_its_places_filled() -> None:
    spec = replace(
        SPEC, method="POST", users=100, headers=(("idempotency-key", "{uuid}"),), body='{"n": {n}, "user": "{user}"}'
    )
    head, _, body = Template.of(spec, spec.check()).render(REQUEST).decode().partition("\r\n\r\n")
    assert body == '{"n": 7, "user": "42"}'
    assert head.splitlines() == [
        "POST /orders HTTP/1.1",
        "host: 127.0.0.1:8080",
        "user-agent: gapless-load",
        "accept: */*",
        "x-user-id: 42",
        "idempotency-key: u-u",
        f"content-length: {len(body)}",
    ]


def test_given_headers_replace_our_own_and_a_get_has_no_length() -> None:
    spec = replace(SPEC, headers=(("Host", "shop"), ("Accept", "a/b")))
    head = Template.of(spec, spec.check()).render(REQUEST).decode()
    assert "127.0.0.1" not in head
    assert "content-length" not in head
    assert head.count("ccept:") == 1


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"])))
def test_the_length_is_that_of_the_bytes(body: str) -> None:
    spec = replace(SPEC, method="POST", body=body)
    head, _, rest = Template.of(spec, spec.check()).render(REQUEST).partition(b"\r\n\r\n")
    assert f"content-length: {len(rest)}".encode() in head
