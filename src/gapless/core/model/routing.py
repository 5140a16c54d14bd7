"""What a gateway and callers need to know: routes, splits, endpoints, and the table of them all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gapless.core.model.address import Address
from gapless.core.model.alert import Forced
from gapless.core.model.gateway import Cors, Fault, Upstream
from gapless.core.model.mirror import MirrorTarget
from gapless.core.protect import Protect

BUCKETS = 10_000
PERCENTS = 100
"""Places of `SplitBy.ID`: what `id % 100` can be."""

USER_HEADER = "x-user-id"
"""Who asks; set by whatever signs users in before the gateway."""

IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
"""Methods whose request may be sent twice (RFC 9110 §9.2.2)."""


class PathKind(StrEnum):
    """How a route's path is compared. As a prefix, `/orders` is for itself and what is below it."""

    PREFIX = "prefix"
    EXACT = "exact"
    REGEX = "regex"


class ValueKind(StrEnum):
    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a header or a parameter of the query must be. Expressions (RE2) fit as a whole. Inverted, an absent header
    counts as an empty one."""

    name: str
    kind: ValueKind = ValueKind.EXACT
    value: str = ""
    invert: bool = False

    def __str__(self) -> str:
        sign = {ValueKind.EXACT: "=", ValueKind.PREFIX: "^=", ValueKind.REGEX: "~", ValueKind.PRESENT: ""}[self.kind]
        return f"{'!' if self.invert else ''}{self.name}{sign}{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """What is sent again to another instance. Whatever an instance cannot have seen, always; all else only for
    `methods`, which are idempotent, and (`keyed`) for what carries an `idempotency-key`."""

    attempts: int = 3
    """Beyond the first; 0: nothing is sent again."""
    on: tuple[int, ...] = ()
    """Statuses of an answer that are repeated, too."""
    methods: tuple[str, ...] = IDEMPOTENT
    keyed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Requests that match all of it belong to a service. `precedence` tells which of several matching ones has them."""

    path: str = "/"
    path_kind: PathKind = PathKind.PREFIX
    host: str = "*"
    """A name, `*.example.com`, or `*` for any."""
    methods: tuple[str, ...] = ()
    """(): any."""
    headers: tuple[Condition, ...] = ()
    query: tuple[Condition, ...] = ()
    protect: Protect | None = None
    """Goes before the service's, policy by policy."""
    cors: Cors | None = None
    """Goes before the service's."""
    timeout_s: float = 0.0
    """The gateway's deadline for one request, retries included; 0: the service's."""
    try_timeout_s: float = 0.0
    """The time of each attempt; 0: the whole deadline."""
    retries: Retries = Retries()

    @property
    def precedence(self) -> tuple[int, int, int, int, int, int]:
        """Sort key; the first route that matches has the request. An exact path goes before an expression, that before
        a prefix; then the longer path, the more exact host, methods before none, more headers, more parameters."""
        kind = (PathKind.EXACT, PathKind.REGEX, PathKind.PREFIX).index(self.path_kind)
        host = len(self.host.lstrip("*"))
        return kind, -len(self.path), -host, -bool(self.methods), -len(self.headers), -len(self.query)

    def __str__(self) -> str:
        """`GET shop.example.com/orders x-beta=1 ?debug=1`; unlike that of any other route of a service."""
        sign = {PathKind.PREFIX: "", PathKind.EXACT: "=", PathKind.REGEX: "~"}[self.path_kind]
        parts = ["|".join(self.methods), f"{self.host}{sign}{self.path}", *map(str, self.headers)]
        return " ".join(part for part in (*parts, *(f"?{each}" for each in self.query)) if part)


class SplitBy(StrEnum):
    """What decides which release answers. All but `request` are sticky; a visitor of whom nothing is known is placed by
    the first request and remembered by a cookie."""

    USER = "user"
    """The bucket of `x-user-id`."""
    ID = "id"
    """`x-user-id % 100`, exactly; what is no number is placed as by `user`."""
    HEADER = "header"
    """The bucket of a header's value."""
    COOKIE = "cookie"
    """The bucket of a cookie's value."""
    ADDRESS = "address"
    """The bucket of the client's address."""
    REQUEST = "request"
    """A fresh die for each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some users, by their `x-user-id`, and everybody in some networks (`10.0.0.0/8`)."""

    users: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


LOCAL = ("127.0.0.0/8", "::1/128")
ANYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """By what a request can choose its release, and from where. Only this machine unless told otherwise: whoever may
    choose can meet a release that is not for them, and feed the verdict on it."""

    header: str = "x-gapless-release"
    """Empty: by no header."""
    cookie: str = "gapless-release"
    allow: tuple[str, ...] = LOCAL
    """Networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceptions:
    """Who is not placed by the split. In this order: a request that chooses, `never`, `always`."""

    override: Override = Override()
    always: Group = Group()
    """They have the newcomer as soon as anybody has."""
    never: Group = Group()
    """They keep the stable release until the newcomer is it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The weights of a service's releases, out of 10,000 buckets.

    `weights` is ordered: the newcomer first, so that raising its share only ever adds users to it.
    `salt` names the rollout: another rollout hits other users first.
    """

    service: str
    stable: str
    weights: tuple[tuple[str, int], ...]
    by: SplitBy = SplitBy.USER
    by_name: str = ""
    """The header or the cookie that `by` means."""
    salt: str = ""
    entered: bool = True
    """False: its first instances are not ready yet, and no request belongs to it: others may answer those meanwhile."""

    @property
    def newcomer(self) -> str:
        """The release that users are moved to; empty when there is none. An older one that has some of the users again
        stands behind the stable one."""
        first = next((release for release, weight in self.weights if weight > 0), "")
        return "" if first == self.stable else first

    def release_of(self, bucket: int) -> str:
        """The release that answers a user in `bucket` (0…9999)."""
        edge = 0
        for release, weight in self.weights:
            edge += weight
            if bucket < edge:
                return release
        return self.stable

    def bucket(self, user: str) -> int:
        """Where `user` stands in this split."""
        if self.by is SplitBy.ID and is_number(user):
            return int(user) % PERCENTS * (BUCKETS // PERCENTS)
        return bucket_of(user, self.salt)


def is_number(user: str) -> bool:
    """Whether `SplitBy.ID` counts with it: up to 19 ASCII digits, which fit into 64 bits."""
    return user.isascii() and user.isdecimal() and len(user) <= 19


def bucket_of(user: str, salt: str) -> int:
    """The stable place of a user in 0…9999 for a rollout: the arithmetic of Envoy's hash policy (xxHash64, seed 0)."""
    import xxhash

    return int(xxhash.xxh64_intdigest(f"{salt}:{user}".encode(), 0)) % BUCKETS


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A place that may be asked now."""

    instance: str
    release: str
    address: Address
    draining: bool = False
    zone: str = ""
    """Where it runs; callers prefer their own zone. Empty: everywhere."""
    weight: float = 1.0
    """Its capacity beside the others'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTable:
    """All that a caller or a gateway needs to reach one service."""

    service: str
    split: Split
    endpoints: tuple[Endpoint, ...]
    routes: tuple[Route, ...] = ()
    timeout_s: float = 15.0
    protect: Protect | None = None
    upstream: Upstream = Upstream()
    cors: Cors | None = None
    fault: Fault | None = None
    exceptions: Exceptions = Exceptions()
    mirror: MirrorTarget | None = None
    """Who gets a share of its requests as well."""
    forced: tuple[Forced, ...] = ()
    """Breakers that its instances hold open, or closed, whatever they have counted."""

    def release_for(self, user: str) -> str:
        """The release that answers a known user, when all are there; for callers that know no more than who asks."""
        split, exceptions = self.split, self.exceptions
        if split.newcomer and user in exceptions.never.users:
            return split.stable
        if split.newcomer and user in exceptions.always.users:
            return split.newcomer
        return split.release_of(split.bucket(user))


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """The whole of what a data plane is told. `version` is the store's revision that it was computed from."""

    version: int
    services: tuple[ServiceTable, ...]
