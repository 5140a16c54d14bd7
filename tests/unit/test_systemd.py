"""Sockets that systemd passes, as the environment tells of them."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.server.systemd.sockets import BIND, Passed, binds_of, passed, take

names = st.text(st.characters(categories=["L", "N"], include_characters="-_."), min_size=1, max_size=8)


def told(*given: str, pid: int = 7) -> dict[str, str]:
    return {"LISTEN_PID": str(pid), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": ":".join(given)}


@given(st.lists(names, max_size=5))
def test_each_socket_has_its_number_and_its_name(given: list[str]) -> None:
    assert passed(told(*given), 7) == tuple(Passed(3 + at, name) for at, name in enumerate(given))
    assert passed(told(*given), 8) == ()


def test_without_names_they_are_called_as_systemd_calls_them() -> None:
    found = (Passed(3, "unknown"), Passed(4, "unknown"))
    assert passed({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, 7) == found
    assert passed({**told("a", "b"), "LISTEN_FDNAMES": "a"}, 7) == found
    assert passed(told("", "b"), 7) == (Passed(3, "unknown"), Passed(4, "b"))


@pytest.mark.parametrize("count", ["", "-1", "two", "100000"])
def test_a_number_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(ConfigError, match="not a number of sockets"):
        passed({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7)


FOUND = (Passed(3, "web"), Passed(4, "grpc"), Passed(5, "web"))


@pytest.mark.parametrize(
    ("binds", "found", "wanted"),
    [
        ((), (), (BIND,)),
        ((), FOUND, ("fd://3", "fd://4", "fd://5")),
        (("fd://web",), FOUND, ("fd://3", "fd://5")),
        (("fd://grpc", "127.0.0.1:80", "fd://9", "unix:/a"), FOUND, ("fd://4", "127.0.0.1:80", "fd://9", "unix:/a")),
    ],
)
def test_binds(binds: tuple[str, ...], found: tuple[Passed, ...], wanted: tuple[str, ...]) -> None:
    assert binds_of(binds, found) == wanted


def test_a_name_that_was_not_passed_is_told_with_those_that_were() -> None:
    with pytest.raises(ConfigError, match="systemd passed grpc, web"):
        binds_of(("fd://admin",), FOUND)
    with pytest.raises(ConfigError, match="systemd passed none"):
        binds_of(("fd://admin",), ())


def test_what_is_taken_is_neither_told_nor_left_to_children(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        monkeypatch.setattr("gapless.server.systemd.sockets.FIRST_FD", sock.fileno())
        os.set_inheritable(sock.fileno(), True)
        environ = {**told("web"), "HOME": "/"}
        assert take(environ, 7) == (Passed(sock.fileno(), "web"),)
        assert environ == {"HOME": "/"}
        assert not os.get_inheritable(sock.fileno())
    with pytest.raises(ConfigError, match="which is not open"):
        take(told("web"), 7)
