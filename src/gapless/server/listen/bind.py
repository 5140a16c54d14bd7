"""Opens the sockets that a server listens on, and says who holds a taken one."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from typing import NamedTuple

from gapless.core.errors import ConfigError, GaplessError, PortTaken
from gapless.server.listen.holder import holder_of

BACKLOG = 4096
"""How many connections may wait while no worker accepts; the kernel caps it (net.core.somaxconn)."""
SUN_PATH_BYTES = 107
_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class Listener(NamedTuple):
    """A listening socket, and the file to remove when it is closed for good ("" for none of ours)."""

    sock: socket.socket
    path: str

    def close(self) -> None:
        """A second time does nothing, so that the file of a successor stays."""
        if self.sock.fileno() >= 0:
            self.remove()
        self.sock.close()

    def remove(self) -> None:
        """Remove the file, for a socket that somebody else closes."""
        if self.path:
            _unlink(self.path)


class Access(NamedTuple):
    """Who may connect to a Unix socket. `owner` is USER, USER:GROUP or :GROUP, by name or number; empty: whoever runs
    the server."""

    mode: int = 0o666
    owner: str = ""


EVERYBODY = Access()
Place = tuple[int, str, int]
"""Family, address and port."""


def listeners(binds: Sequence[str], access: Access = EVERYBODY, kept: Sequence[int] = ()) -> list[Listener]:
    """A listening socket for each `HOST:PORT`, `unix:PATH` or `fd://N`, non-blocking once and for all (the flag belongs
    to the open socket, which every worker shares). All or none. `kept`: descriptors of TCP listeners of an earlier
    server; those at one of the addresses are taken over with all that is queued, the others closed. Raises PortTaken,
    ConfigError."""
    opened: list[Listener] = []
    there = {_place(sock): sock for sock in (socket.socket(fileno=fd) for fd in kept)}
    try:
        for bind in binds:
            opened += listeners_of(bind, access, there)
        for left in there.values():
            left.close()
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def _place(sock: socket.socket) -> Place:
    host, port, *_ = sock.getsockname()
    return sock.family, host, port


def listeners_of(bind: str, access: Access, there: dict[Place, socket.socket]) -> list[Listener]:
    """Those of one bind: a name may stand for several addresses, as `localhost` does for 127.0.0.1 and ::1."""
    if bind.startswith("unix:"):
        return [unix_listener(bind.removeprefix("unix:"), mode=access.mode, owner=access.owner)]
    if bind.startswith("fd://"):
        return [Listener(_inherited(bind), "")]
    host, port = host_port(bind)
    return [Listener(sock, "") for sock in _tcp_all(bind, host, port, there)]


def host_port(bind: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPv6]:PORT`, `:PORT` (every address). Raises ConfigError."""
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--bind {bind!r} is no address", "Give HOST:PORT, unix:PATH or fd://N.")
    return host.strip("[]"), int(port)


def shown(sock: socket.socket, scheme: str = "http") -> str:
    """The address for people."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"{scheme}://{host}:{name[1]}"


def _tcp_all(bind: str, host: str, port: int, there: dict[Place, socket.socket]) -> list[socket.socket]:
    """IPv4 first; a family that this machine does not have is left out when the other one works."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigError(f"--bind {bind!r}: {error.strerror}", "Give an address of this machine.") from error
    opened: list[socket.socket] = []
    for family, address in sorted({(family, address[0]) for family, _, _, _, address in found}):
        try:
            place = family, str(address), port
            opened.append(there.pop(place) if place in there else _tcp(*place))
        except OSError as error:
            if opened and error.errno in _NO_SUCH_FAMILY:
                continue
            for sock in opened:
                sock.close()
            raise _refused(bind, port, error) from error
        port = opened[-1].getsockname()[1]
    return opened


def _tcp(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what is accepted
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a listener of its own
        sock.bind((host, port))
        return _listen(sock)
    except OSError:
        sock.close()
        raise


def _refused(bind: str, port: int, error: OSError) -> GaplessError:
    if error.errno == errno.EADDRINUSE:
        who = holder_of(port)
        return PortTaken(
            f"{bind} is already in use" + (f" by {who}" if who else ""),
            "Stop that one, or give --bind another port (port 0 picks a free one).",
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"{bind}: {error.strerror}", "Ports below 1024 need privileges: give --bind a higher one.")
    return ConfigError(f"{bind}: {error.strerror}", "Give an address of this machine.")


def _inherited(bind: str) -> socket.socket:
    number = bind.removeprefix("fd://")
    try:
        sock = socket.socket(fileno=int(number))
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--bind {bind!r} is no open socket: {error}", "Pass the socket on to this process."
        ) from error
    if not listens:
        sock.close()
        raise ConfigError(f"--bind {bind!r} does not listen", "Call listen() on it first.")
    os.set_inheritable(sock.fileno(), False)
    sock.setblocking(False)
    return sock


def _listen(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    sock.listen(BACKLOG)
    return sock


def unix_listener(path: str, *, mode: int, owner: str = "") -> Listener:
    """A listening Unix socket. A stale file is replaced; a live one, or another kind, is refused (PortTaken).
    Nobody can connect before it belongs to its owner. Raises ConfigError."""
    ids = owner_of(owner)
    if alive(path):
        raise PortTaken(f"a running server listens on {path}", "Stop that one, or give another path.")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        _remove_stale(path)
        with _Short(path) as name:
            sock.bind(name)
            if owner:
                os.chown(name, *ids)
        return Listener(_listen(sock), os.path.abspath(path))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {path}: {error.strerror or error}", "Give a path that can be made."
        ) from error
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)


def owner_of(owner: str) -> tuple[int, int]:
    """User and group id of USER, USER:GROUP or :GROUP; -1 leaves one as it is. Raises ConfigError."""
    user, _, group = owner.partition(":")
    return _id_of(user, "user"), _id_of(group, "group")


def _id_of(name: str, kind: str) -> int:
    if not name or name.isdecimal():
        return int(name or -1)
    import grp  # both only where they are asked for: this is on the way of every start
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise ConfigError(f"there is no {kind} {name!r}", "Give --socket-owner USER, USER:GROUP or :GROUP.") from error


def file_mode(text: str, option: str) -> int:
    """Permissions as chmod(1) takes them in digits, like 660. Raises ConfigError."""
    if not 3 <= len(text) <= 4 or not set(text) <= set("01234567") or int(text, 8) > 0o777:
        raise ConfigError(f"{option} {text!r} is no mode", "Give three octal digits, like 660.")
    return int(text, 8)


def alive(path: str) -> bool:
    """Whether somebody listens on that Unix socket."""
    try:
        connected(path).close()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True  # its backlog is full
    except OSError as error:
        return error.errno not in (errno.ENOTSOCK, errno.EPROTOTYPE)
    return True


def connected(path: str) -> socket.socket:
    """A connection to a Unix socket, however long its path. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _Short(path) as name:
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise PortTaken(f"{path} exists and is no socket", "Move it away, or give another path.")
    os.unlink(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


class _Short:
    """A name for a path that may be longer than the kernel allows for sockets: by way of its open directory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= SUN_PATH_BYTES:
            return self._path
        folder, name = os.path.split(self._path)
        self._fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{name}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
