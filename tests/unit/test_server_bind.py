"""Listeners: what they are made of, and what is said when they cannot be made."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gapless.core.errors import ConfigError, PortTaken
from gapless.server.listen.bind import (
    Access,
    Listener,
    alive,
    connected,
    file_mode,
    host_port,
    listeners,
    owner_of,
    shown,
    unix_listener,
)
from gapless.server.listen.holder import holder_of


def close(opened: list[Listener]) -> None:
    for listener in opened:
        listener.close()


@pytest.mark.parametrize(
    ("bind", "found"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:8000", ("::1", 8000)),
        (":0", ("", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(bind: str, found: tuple[str, int]) -> None:
    assert host_port(bind) == found


@pytest.mark.parametrize("bind", ["", "8000", "host:", "host:http", "host:65536", "host:-1"])
def test_what_is_no_address_is_refused(bind: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        host_port(bind)


def test_a_listener_listens_and_never_blocks() -> None:
    (listener,) = listeners(["127.0.0.1:0"])
    try:
        assert not os.get_blocking(listener.sock.fileno())
        assert not os.get_inheritable(listener.sock.fileno())
        with pytest.raises(BlockingIOError):
            listener.sock.accept()
        with socket.create_connection(listener.sock.getsockname()):
            accepted, _ = listener.sock.accept()
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            accepted.close()
        assert shown(listener.sock) == f"http://127.0.0.1:{listener.sock.getsockname()[1]}"
    finally:
        listener.close()


def test_a_name_of_several_addresses_is_bound_to_all_of_them_on_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, 1, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    opened = listeners(["localhost:0"])
    names = [listener.sock.getsockname() for listener in opened]
    close(opened)
    assert [name[0] for name in names] == ["127.0.0.1", "127.0.0.2"]
    assert names[0][1] == names[1][1]


def test_a_taken_port_names_its_holder_and_leaves_nothing_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127.0.0.1:{port} is already in use by .*\(pid {os.getpid()}\)"):
            listeners(["127.0.0.1:0", f"127.0.0.1:{port}"])
        assert holder_of(port).endswith(f"(pid {os.getpid()})")
    assert holder_of(port) == ""
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        listeners(["192.0.2.1:0"])


def test_an_inherited_listener(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outer:
        fd = os.dup(outer.fileno())
        (listener,) = listeners([f"fd://{fd}"])
        assert listener.sock.getsockname() == outer.getsockname()
        listener.close()


def test_an_inherited_descriptor_that_does_not_listen_is_refused() -> None:
    with socket.socket() as idle:
        with pytest.raises(ConfigError, match="does not listen"):
            listeners([f"fd://{os.dup(idle.fileno())}"])
        with pytest.raises(ConfigError, match="is no open socket"):
            listeners(["fd://99999"])


@pytest.mark.parametrize("depth", [0, 6])
def test_a_unix_socket_of_any_length(short_dir: Path, depth: int) -> None:
    folder = short_dir / "/".join(["a-rather-long-directory-name"] * depth)
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "x.sock")
    listener = unix_listener(path, mode=0o600)
    try:
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert alive(path)
        with pytest.raises(PortTaken, match="a running server listens"):
            unix_listener(path, mode=0o600)
        connected(path).close()
    finally:
        listener.close()
    assert not os.path.exists(path)


def test_a_stale_socket_file_is_replaced_and_its_successors_file_is_left_alone(short_dir: Path) -> None:
    path = str(short_dir / "x.sock")
    first = unix_listener(path, mode=0o600)
    first.sock.close()  # as after SIGKILL: the file stays
    assert not alive(path)
    second = unix_listener(path, mode=0o600)
    first.close()
    assert alive(path)
    second.close()


def test_another_kind_of_file_is_not_removed(short_dir: Path) -> None:
    path = short_dir / "notes"
    path.write_text("mine")
    with pytest.raises(PortTaken, match="is no socket"):
        unix_listener(str(path), mode=0o600)
    assert path.read_text() == "mine"


def test_a_directory_that_is_missing_is_named(short_dir: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        unix_listener(str(short_dir / "no" / "x.sock"), mode=0o600)


def test_a_unix_socket_gets_mode_and_owner(short_dir: Path) -> None:
    path = short_dir / "x.sock"
    (listener,) = listeners([f"unix:{path}"], Access(0o660, f"{os.getuid()}:{os.getgid()}"))
    try:
        found = path.stat()
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o660, os.getuid(), os.getgid())
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("owner", "ids"),
    [("", (-1, -1)), ("0", (0, -1)), (":0", (-1, 0)), ("1:2", (1, 2)), ("root", (0, -1)), ("root:root", (0, 0))],
)
def test_owners(owner: str, ids: tuple[int, int]) -> None:
    assert owner_of(owner) == ids


def test_an_owner_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no group 'nobody-has-this'"):
        owner_of("root:nobody-has-this")


def test_modes() -> None:
    assert file_mode("660", "--socket-mode") == 0o660
    for wrong in ("", "66", "888", "4755", "u+rw"):
        with pytest.raises(ConfigError, match="is no mode"):
            file_mode(wrong, "--socket-mode")
