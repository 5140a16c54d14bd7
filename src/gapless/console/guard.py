"""Who may use the console. Pure: a request's headers and the moment → whether, and why not.

- Host: a page of another site can be made to resolve to 127.0.0.1 (DNS rebinding) and would then be of our origin. So
  only names that are ours are answered.
- Origin: acts come from our own pages only, and carry a token that only these know.
- Beyond loopback there is a log-in: the session is signed by the token, so that it outlives the control plane.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from ipaddress import ip_address

from gapless.core.model import Address

SESSION_S = 12 * 3600.0
NAME_LIMIT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`token`: empty on loopback, where whoever can connect may steer. `key` signs; `hosts` are further names that the
    console is called by; `who` stands in the change log for those who do not log in."""

    listen: Address
    key: bytes
    token: str = ""
    hosts: tuple[str, ...] = ()
    who: str = "console"

    @property
    def cookie(self) -> str:
        """Cookies of one host are shared by all its ports; their names keep consoles apart."""
        return f"gapless-console-{self.listen.port}"


def host_allowed(host: str, access: Access) -> bool:
    """Is the Host header one of ours? An IP address cannot be rebound; with a log-in any will do."""
    name = _hostname(host)
    if name == "localhost" or name in access.hosts:
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or bool(access.token) or name == access.listen.host


def origin_allowed(origin: str, host: str) -> bool:
    """Does the request come from a page of the same host and port? Browsers send the header with each POST."""
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and bool(rest) and rest == host


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def token_matches(given: str, access: Access) -> bool:
    return bool(access.token) and _same(given, access.token)


def session(access: Access, name: str, now_at: float) -> str:
    """A cookie's value: who, until when, and our signature."""
    who = urlsafe_b64encode(name.strip()[:NAME_LIMIT].encode()).decode().rstrip("=")
    body = f"{who}.{now_at + SESSION_S:.0f}"
    return f"{body}.{_sign(access, f'session:{body}')}"


def who_is(cookie: str, access: Access, now_at: float) -> str | None:
    """The name in a valid session (may be empty); None when there is none, it is over, or it was not made by us."""
    body, _, signature = cookie.rpartition(".")
    if not body or not _same(signature, _sign(access, f"session:{body}")):
        return None
    who, _, until = body.partition(".")
    if not until.isdecimal() or int(until) < now_at:
        return None
    return urlsafe_b64decode(who + "=" * (-len(who) % 4)).decode(errors="replace")


def act_token(access: Access, cookie: str) -> str:
    """What a page must show to act; another site cannot read it."""
    return _sign(access, f"act:{cookie}")


def act_allowed(given: str, access: Access, cookie: str) -> bool:
    return _same(given, act_token(access, cookie))


def _same(one: str, other: str) -> bool:
    """In a time that tells nothing of where they differ."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))


def _sign(access: Access, text: str) -> str:
    key = hashlib.sha256(access.key + access.token.encode()).digest()
    return hmac.new(key, text.encode(errors="replace"), hashlib.sha256).hexdigest()[:40]
