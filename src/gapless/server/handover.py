"""The words in which a master and a worker hand listeners over, and the channel that carries them.

A SEQPACKET Unix socket; each packet is the letter G, the protocol's version, a flag (1: the message goes on in the next
packet) and a piece of the message's JSON. Descriptors travel with the first packet (SCM_RIGHTS). The kernel vouches for
the sender of each packet (SCM_CREDENTIALS).

    worker → master  HELLO                      master → worker  FDS
    worker → master  ACK, PREPARED              master → worker  COMMIT
    worker → master  SERVING, BEAT …            master → worker  RETIRE or DRAIN
    worker → master  FINAL, and it exits

End of stream, a wrong version or a missed limit before SERVING refuses the newcomer and harms nobody else.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gapless.core.errors import ReloadRefused

VERSION = 1
PIECE_BYTES = 32_768
"""Well below the kernel's default limit for a packet (212,992), so that a whole snapshot of metrics fits into a few."""
MAX_FDS = 253
"""The kernel's limit for one packet (SCM_MAX_FD)."""
MESSAGE_BYTES = 64 * 1024 * 1024
"""Nobody sends more on purpose; a sender that does must not fill the receiver's memory."""

_CREDENTIALS = struct.Struct("3i")
_LAST, _MORE = 0, 1


class HandoverBroken(ReloadRefused):
    """The two sides of a hand-over do not understand each other."""

    remedy = "Both must run the same version of Gapless: restart the server instead of reloading it."


class Hello(NamedTuple):
    """`build` is the sender's version of Gapless."""

    pid: int
    build: str
    version: int = VERSION


class Fds(NamedTuple):
    """Names of the descriptors that come along, in their order. `listen:<address>` are listeners."""

    names: list[str]
    task: dict[str, Any]
    """What is to be served, and how (`server.settings.Task`)."""


class Ack(NamedTuple):
    """The names whose descriptors were found to be what they are called."""

    names: list[str]


class Prepared(NamedTuple):
    took_s: float


class Commit(NamedTuple):
    """Begin to accept."""


class Serving(NamedTuple):
    """It accepts."""


class Retire(NamedTuple):
    """Stop accepting, finish, exit within `limit_s`; other workers go on. The second time: hurry."""

    limit_s: float


class Drain(NamedTuple):
    """The whole server ends within `limit_s`: announce, stop accepting, finish, exit."""

    limit_s: float


class Leaving(NamedTuple):
    """A worker leaves by its own decision."""

    why: str


class Failed(NamedTuple):
    """The application cannot run: `code` is the exit code of that error, `log` the useful end of its traceback."""

    reason: str
    code: int
    log: list[str]


class Beat(NamedTuple):
    """The event loop lives."""

    connections: int


class Ask(NamedTuple):
    """`what` is "samples" or "health"."""

    id: int
    what: str


class Tell(NamedTuple):
    id: int
    what: str
    body: Any


class Final(NamedTuple):
    """The last samples of a worker that ends."""

    samples: list[Any]


Message = (
    Hello | Fds | Ack | Prepared | Commit | Serving | Retire | Drain | Leaving | Failed | Beat | Ask | Tell | Final
)
_KINDS: dict[str, Any] = {
    kind.__name__.upper(): kind
    for kind in (Hello, Fds, Ack, Prepared, Commit, Serving, Retire, Drain, Leaving, Failed, Beat, Ask, Tell, Final)
}


def encode(message: Message) -> list[bytes]:
    """The packets of a message."""
    text = json.dumps({"kind": type(message).__name__.upper(), **message._asdict()}, separators=(",", ":")).encode()
    pieces = [text[at : at + PIECE_BYTES] for at in range(0, len(text), PIECE_BYTES)]
    last = len(pieces) - 1
    return [bytes((ord("G"), VERSION, _MORE if i < last else _LAST)) + piece for i, piece in enumerate(pieces)]


def piece(packet: bytes) -> tuple[bytes, bool]:
    """The content of a packet, and whether the message goes on. Raises HandoverBroken."""
    if len(packet) < 3 or packet[0] != ord("G"):
        raise HandoverBroken("the other side does not speak Gapless's hand-over protocol")
    if packet[1] != VERSION:
        raise HandoverBroken(f"the other side speaks version {packet[1]} of the hand-over protocol, this one {VERSION}")
    return packet[3:], packet[2] == _MORE


def decode(text: bytes) -> Message:
    """The message again; fields that this side does not know are ignored. Raises HandoverBroken."""
    try:
        fields = json.loads(text)
        kind = _KINDS[fields.pop("kind")]
        return kind(**{name: fields[name] for name in fields if name in kind._fields})  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HandoverBroken(f"not a hand-over message: {error!r} in {text[:80]!r}") from error


class Received(NamedTuple):
    message: Message
    fds: list[int]
    pid: int
    """The sender's, as the kernel knows it."""


class Channel:
    """One end of a `pair`. Nothing blocks but `wait`, for the time before there is a loop. `blocked` is called whenever
    a packet could not be sent at once: call `flush` when the socket is writable."""

    def __init__(self, sock: socket.socket, blocked: Callable[[], None] = lambda: None) -> None:
        self._sock = sock
        self._blocked = blocked
        self._text = bytearray()
        self._fds: list[int] = []
        self._out: deque[tuple[bytes, list[int]]] = deque()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    @property
    def congested(self) -> bool:
        return bool(self._out)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queue and send as much as fits. Raises HandoverBroken for too many descriptors; a vanished reader is no error
        here: whoever reads sees the end of the stream."""
        if len(fds) > MAX_FDS:
            raise HandoverBroken(f"{len(fds)} descriptors cannot be handed over at once, only {MAX_FDS}")
        packets = encode(message)
        self._out.append((packets[0], list(fds)))
        self._out.extend((packet, []) for packet in packets[1:])
        self.flush()

    def flush(self) -> None:
        while self._out:
            packet, fds = self._out[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._sock.sendmsg([packet], rights)
            except BlockingIOError:
                self._blocked()
                return
            except (BrokenPipeError, ConnectionResetError):
                self._out.clear()
                return
            self._out.popleft()

    def receive(self) -> Received | None:
        """The next message; None when there is none yet. Raises EOFError at the end of the stream, HandoverBroken."""
        while True:
            try:
                packet, control, _, _ = self._sock.recvmsg(PIECE_BYTES + 3, 8192)
            except BlockingIOError:
                return None
            except ConnectionResetError as error:
                raise EOFError("the other side of the channel is gone") from error
            pid = self._take_control(control)
            if not packet:
                raise EOFError("the other side of the channel is gone")
            content, more = piece(packet)
            self._text += content
            if len(self._text) > MESSAGE_BYTES:
                raise HandoverBroken("a hand-over message has no end")
            if not more:
                return self._finished(pid)

    def _finished(self, pid: int) -> Received:
        text, self._text = bytes(self._text), bytearray()
        fds, self._fds = self._fds, []
        return Received(decode(text), fds, pid)

    def _take_control(self, control: list[tuple[int, int, bytes]]) -> int:
        """Keeps the descriptors, returns the sender's pid. Raises HandoverBroken when it is another user's process."""
        sender = 0
        for _, kind, data in control:
            if kind == socket.SCM_RIGHTS:
                fds = array.array("i", data[: len(data) - len(data) % 4])
                for fd in fds:
                    os.set_inheritable(fd, False)
                self._fds += fds
            elif kind == socket.SCM_CREDENTIALS:
                sender, user, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
                if sender and user != os.geteuid():
                    raise HandoverBroken(f"process {sender} of user {user} is not allowed on this channel")
        return sender

    def wait(self, limit_s: float) -> Received:
        """The next message, within `limit_s`. Raises TimeoutError, EOFError, HandoverBroken."""
        heard = select.poll()
        heard.register(self._sock, select.POLLIN)
        received = self.receive()
        while received is None:
            if not heard.poll(limit_s * 1000):
                raise TimeoutError(f"nothing heard on the channel for {limit_s:g} s")
            received = self.receive()
        return received


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends, neither of which blocks. Both see the sender of each packet from the first one on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def listener_name(sock: socket.socket) -> str:
    """What a listener is called in FDS: `listen:` and its address as the kernel tells it."""
    return f"listen:{sock.getsockname()!r}"


def check_listener(name: str, fd: int) -> socket.socket:
    """The listener behind a descriptor. Raises HandoverBroken when it does not listen, or not at the address that its
    name tells. Its O_NONBLOCK, shared by all who hold it, is left alone."""
    try:
        sock = socket.socket(fileno=fd)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise HandoverBroken(f"descriptor {fd}, handed over as {name}, is no socket: {error}") from error
    if not listens or listener_name(sock) != name:
        found = listener_name(sock)
        sock.detach()
        raise HandoverBroken(f"descriptor {fd} was handed over as {name}, but is {found}, listening: {bool(listens)}")
    return sock
