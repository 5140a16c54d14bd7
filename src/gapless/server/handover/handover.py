"""The words in which a master and a worker hand listeners over, and the channel that carries them.

A SEQPACKET Unix socket; each packet is the letter G, the version of this framing, flags (1: the message goes on in the
next packet; 2: it begins here) and a piece of the message's JSON. Descriptors travel with the first packet
(SCM_RIGHTS). The kernel vouches for the sender of each packet (SCM_CREDENTIALS). Who reads after another one that was
killed in the middle of a message begins with the next message.

    worker → master  HELLO                      master → worker  FDS
    worker → master  ACK, PREPARED              master → worker  COMMIT
    worker → master  SERVING, BEAT …            master → worker  PAUSE, RECALL; RETIRE or DRAIN
    worker → master  STOPPED, then FINAL        master → worker  BYE, and it exits

End of stream, a wrong version or a missed limit before SERVING refuses the newcomer and harms nobody else. A master
that takes workers over from one that was killed asks each WHO, and each answers HERE (or HELLO, while it has no FDS).
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
"""Of the framing."""
SPOKEN = (1, 1)
"""The first and the last version of the messages' meaning that this side knows. Additions need no new one."""
PIECE_BYTES = 32_768
"""Well below the kernel's default limit for a packet (212,992), so that a whole snapshot of metrics fits into a few."""
MAX_FDS = 253
"""The kernel's limit for one packet (SCM_MAX_FD)."""
MESSAGE_BYTES = 64 * 1024 * 1024
"""Nobody sends more on purpose; a sender that does must not fill the receiver's memory."""

_CREDENTIALS = struct.Struct("3i")
_MORE, _FIRST = 1, 2


class HandoverBroken(ReloadRefused):
    """The two sides of a hand-over do not understand each other."""

    remedy = "Both must run the same version of Gapless: restart the server instead of reloading it."


class Hello(NamedTuple):
    """`build` is the sender's version of Gapless."""

    pid: int
    build: str
    oldest: int = SPOKEN[0]
    newest: int = SPOKEN[1]


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
    carries: bool = False
    """It would take over state from the worker whose place it takes."""


class Commit(NamedTuple):
    """Begin to accept."""


class Serving(NamedTuple):
    """It accepts."""


class Stopped(NamedTuple):
    """It accepts no more: whoever connects from now on reaches another one."""


class Parted(NamedTuple):
    """To those that were replaced: none of them accepts any more, so that whoever they send away now stays away."""


class Pause(NamedTuple):
    """Accept no more, say STOPPED, and stay as you are: RECALL, RETIRE or DRAIN follows."""


class Peers(NamedTuple):
    """So many workers serve from now on, this one counted."""

    workers: int


class Settled(NamedTuple):
    """The bake time is over."""


class Recall(NamedTuple):
    """Accept again, and say SERVING."""


class Retire(NamedTuple):
    """Stop accepting, finish, exit within `limit_s`; other workers go on. The second time: hurry."""

    limit_s: float


class Drain(NamedTuple):
    """The whole server ends within `limit_s`: announce, stop accepting, finish, exit."""

    limit_s: float


class Tired(NamedTuple):
    """A worker is to leave, and does when another one serves in its place: RETIRE follows."""

    why: str = "it was sent SIGTERM"


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
    unready: str = ""
    """Why it is not ready; empty when it is."""
    requests: int = 0
    memory: int = 0
    """Bytes of resident memory."""


class Ask(NamedTuple):
    """`what` is "samples", "health", "state", or a question of `server.worker.debug`."""

    id: int
    what: str


SPANS = "spans"
"""`Tell.what` of spans that have ended, as `observe.trace.spans` writes them; nobody asked."""


class Tell(NamedTuple):
    id: int
    what: str
    body: Any


class State(NamedTuple):
    """With the descriptor of what the worker whose place it takes has dumped: load it, and say TAKEN."""


class Taken(NamedTuple):
    """Which parts have been loaded, and why others have not."""

    names: list[str]
    behind: dict[str, str]


class Final(NamedTuple):
    """The last samples of a worker that ends."""

    samples: list[Any]


class Bye(NamedTuple):
    """They are safe."""


class Who(NamedTuple):
    """A new master asks who is at the other end, and how far it has come."""


class Here(NamedTuple):
    """`phase` is "starting", "prepared", "serving", "paused" or "leaving": what it was last told, if it has not done
    that already. `accepting`: whether it accepts connections now."""

    phase: str
    accepting: bool
    oldest: int = SPOKEN[0]
    newest: int = SPOKEN[1]


class Noise(NamedTuple):
    """A message of a later version of Gapless, which this one ignores."""

    kind: str


Message = (
    Hello | Fds | Ack | Prepared | Commit | Serving | Stopped | Parted | Pause | Peers | Settled | Recall | Retire
    | Drain | Tired | Leaving | Failed | Beat | Ask | Tell | State | Taken | Final | Bye | Who | Here | Noise
)  # fmt: skip
_KINDS: dict[str, Any] = {kind.__name__.upper(): kind for kind in Message.__args__}


def encode(message: Message) -> list[bytes]:
    """The packets of a message."""
    text = json.dumps({"kind": type(message).__name__.upper(), **message._asdict()}, separators=(",", ":")).encode()
    pieces = [text[at : at + PIECE_BYTES] for at in range(0, len(text), PIECE_BYTES)]
    last = len(pieces) - 1
    flags = [_MORE * (i < last) | _FIRST * (i == 0) for i in range(len(pieces))]
    return [bytes((ord("G"), VERSION, flag)) + piece for flag, piece in zip(flags, pieces, strict=True)]


class Piece(NamedTuple):
    content: bytes
    first: bool
    more: bool


def piece(packet: bytes) -> Piece:
    """What a packet holds. Raises HandoverBroken."""
    if len(packet) < 3 or packet[0] != ord("G"):
        raise HandoverBroken("the other side does not speak Gapless's hand-over protocol")
    if packet[1] != VERSION:
        raise HandoverBroken(f"the other side speaks version {packet[1]} of the hand-over protocol, this one {VERSION}")
    return Piece(packet[3:], bool(packet[2] & _FIRST), bool(packet[2] & _MORE))


def decode(text: bytes) -> Message:
    """The message again; fields that this side does not know are ignored. Raises HandoverBroken."""
    try:
        fields = json.loads(text)
        name = fields.pop("kind")
        kind = _KINDS.get(name)
        known = {name: fields[name] for name in fields if kind and name in kind._fields}
        return kind(**known) if kind else Noise(str(name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HandoverBroken(f"not a hand-over message: {error!r} in {text[:80]!r}") from error


class Received(NamedTuple):
    message: Message
    fds: list[int]
    pid: int
    """The sender's, as the kernel knows it."""


def check_spoken(oldest: int, newest: int, who: str) -> None:
    """Raises HandoverBroken when the two sides have no version of the messages in common."""
    if oldest > SPOKEN[1] or newest < SPOKEN[0]:
        ours = f"this one {SPOKEN[0]} to {SPOKEN[1]}"
        raise HandoverBroken(f"{who} speaks versions {oldest} to {newest} of the hand-over messages, {ours}")


class Channel:
    """One end of a `pair`. Nothing blocks but `wait`, for the time before there is a loop. `blocked` is called whenever
    a packet could not be sent at once: call `flush` when the socket is writable."""

    def __init__(self, sock: socket.socket, blocked: Callable[[], None] = lambda: None) -> None:
        self._sock = sock
        self._blocked = blocked
        self._text = bytearray()
        self._fds: list[int] = []
        self._out: deque[tuple[bytes, list[int], list[int]]] = deque()
        """Packets with their descriptors, and those of them that are ours to close."""

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        self._forget()
        self._drop_fds(len(self._fds))

    @property
    def congested(self) -> bool:
        return bool(self._out)

    def send(self, message: Message, fds: Sequence[int] = (), *, give: bool = False) -> None:
        """Queue and send as much as fits. `give`: the descriptors are closed as soon as they have been sent. Raises
        HandoverBroken for too many descriptors; a vanished reader is no error here: whoever reads sees the end of the
        stream."""
        if len(fds) > MAX_FDS:
            raise HandoverBroken(f"{len(fds)} descriptors cannot be handed over at once, only {MAX_FDS}")
        packets = encode(message)
        self._out.append((packets[0], list(fds), list(fds) if give else []))
        self._out.extend((packet, [], []) for packet in packets[1:])
        self.flush()

    def flush(self) -> None:
        while self._out:
            packet, fds, given = self._out[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._sock.sendmsg([packet], rights)
            except BlockingIOError:
                self._blocked()
                return
            except (BrokenPipeError, ConnectionResetError):
                self._forget()
                return
            self._out.popleft()
            for fd in given:
                os.close(fd)

    def _forget(self) -> None:
        """What was not sent yet."""
        for _, _, given in self._out:
            for fd in given:
                os.close(fd)
        self._out.clear()

    def receive(self) -> Received | None:
        """The next message; None when there is none yet. Raises EOFError at the end of the stream, HandoverBroken."""
        while True:
            try:
                packet, control, _, _ = self._sock.recvmsg(PIECE_BYTES + 3, 8192)
            except BlockingIOError:
                return None
            except ConnectionResetError as error:
                raise EOFError("the other side of the channel is gone") from error
            held = len(self._fds)
            pid = self._take_control(control)
            if not packet:
                raise EOFError("the other side of the channel is gone")
            if self._complete(piece(packet), held):
                return self._finished(pid)

    def _complete(self, got: Piece, held: int) -> bool:
        """Add to the message; True when that was its end. `held`: how many descriptors came with earlier packets."""
        if got.first:
            self._text.clear()  # what began before was never finished: its sender was killed
            self._drop_fds(held)
        elif not self._text:
            self._drop_fds(len(self._fds))
            return False  # the rest of what was said to a reader that was killed
        self._text += got.content
        if len(self._text) > MESSAGE_BYTES:
            raise HandoverBroken("a hand-over message has no end")
        return not got.more

    def _drop_fds(self, number: int) -> None:
        for fd in self._fds[:number]:
            os.close(fd)
        del self._fds[:number]

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
