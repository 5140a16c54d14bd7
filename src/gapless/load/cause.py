"""Why a request was lost: pure verdicts over what the socket and the answer showed."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapless.load.spec import Expect

SHOWN_CHARS = 80
"""Of a wrong body, so much goes into the detail: enough to recognise it, short enough for a line."""


class Cause(StrEnum):
    """What became of a request that got no good answer."""

    REFUSED = "refused"
    """No connection could be made."""
    RESET = "reset"
    """The connection ended before the answer began, or was reset at any time; also on a reused connection."""
    TRUNCATED = "truncated"
    """The connection was closed in the middle of the answer."""
    TIMEOUT = "timeout"
    """No whole answer within the time limit, counted from the due time."""
    SERVER_ERROR = "5xx"
    """A whole answer with a status of 500 or more that was not expected."""
    STATUS = "other status"
    """A whole answer with another status than expected."""
    WRONG = "wrong answer"
    """A body that does not match, or bytes that are not HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole response. `body` may be shortened to what somebody wants to look at."""

    status: int
    release: str = ""
    body: bytes = b""
    keep_alive: bool = True


@dataclass(frozen=True, slots=True)
class Loss:
    """A request without a good answer; `detail` is for people."""

    cause: Cause
    detail: str = ""


def judge(answer: Answer, expect: Expect) -> Loss | None:
    """None when the answer is a good one."""
    if not expect.allows(answer.status):
        cause = Cause.SERVER_ERROR if answer.status >= 500 else Cause.STATUS
        return Loss(cause, f"{answer.status} {_shown(answer.body)}".strip())
    if expect.body is not None and not expect.body.search(answer.body.decode("utf-8", "replace")):
        return Loss(Cause.WRONG, f"the body does not match {expect.body.pattern!r}: {_shown(answer.body)}")
    return None


def unconnected(error: OSError) -> Loss:
    """Why a connection could not be made."""
    if isinstance(error, ConnectionResetError):
        return Loss(Cause.RESET, "reset while connecting")
    return Loss(Cause.REFUSED, _words(error))


def ended(error: Exception | None, *, begun: bool) -> Loss:
    """What it means that a connection ended (`error`: how; None: closed in order) with the answer unfinished."""
    where = "in the middle of the answer" if begun else "before the answer began"
    if error is not None:
        return Loss(Cause.RESET, f"{where}: {_words(error)}")
    return Loss(Cause.TRUNCATED if begun else Cause.RESET, f"closed {where}")


def _words(error: Exception) -> str:
    name = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    return name or str(error) or type(error).__name__


def _shown(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
