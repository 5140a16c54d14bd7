"""`cache(ttl=60, key="{sku}")`: answers given again, and what keeps a cache from hurting what lies behind it.

| trouble | protection |
|---|---|
| many ask for one key at once (stampede) | one call per key at a time; all wait for it, each until his own deadline |
| a popular answer grows old | `stale`: it is given at once and refreshed in the background |
| the other side is down | `if_error`: the last answer is given in place of the failure |
| keys that do not exist (penetration) | `negative`: their absence is kept; `known`: they are refused without a call |
| many answers grow old at once (avalanche) | `spread`: each lives a little shorter than `ttl`, by chance |

The windows are those of RFC 5861 (stale-while-revalidate, stale-if-error).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience.cache_bloom import Known
from gapless.resilience.cache_layer import CacheLayer
from gapless.resilience.cache_store import CacheStore, MemoryStore
from gapless.resilience.causes import Cause
from gapless.resilience.errors import Rejected, Transient
from gapless.resilience.policy import Binding, Site

if TYPE_CHECKING:
    from gapless.core.ports import World

F = TypeVar("F", bound=Callable[..., Any])
KeyOf = str | Callable[..., Hashable] | None

REFRESH_S = 10.0
SPREAD = 0.1


class Cache(Value):
    kind: ClassVar[str] = "cache"
    ttl_s: float
    key: KeyOf = None
    stale_s: float = 0.0
    if_error_s: float = 0.0
    on: Cause = (Rejected, Transient, OSError)
    negative_s: float = 0.0
    missing: tuple[type[Exception], ...] = ()
    known: Known | None = None
    store: CacheStore | None = None
    name: str = ""
    refresh_s: float = REFRESH_S
    spread: float = SPREAD

    def bind(self, binding: Binding) -> CacheLayer:
        return CacheLayer(self, binding)

    def kept_s(self) -> float:
        """How long an answer is of any use."""
        return self.ttl_s + max(self.stale_s, self.if_error_s)

    def key_at(self, site: Site) -> Callable[[tuple[Any, ...], dict[str, Any]], Hashable]:
        """All the arguments, or the values of the template's fields as a tuple: joined into one text, "x:y" + "z" and
        "x" + "y:z" would share an answer."""
        if self.key is None:
            return lambda args, kwargs: (args, tuple(sorted(kwargs.items()))) if kwargs else args
        if not isinstance(self.key, str):
            return site.key(self.key)
        fields = [field for _, field, _, _ in Formatter().parse(self.key) if field]
        if len(fields) < 2:
            return site.key("{" + fields[0] + "}" if fields else self.key)
        keys = [site.key("{" + field + "}") for field in fields]
        return lambda args, kwargs: tuple([key(args, kwargs) for key in keys])


def cache(
    *,
    ttl: float,
    key: KeyOf = None,
    stale: float = 0.0,
    if_error: float = 0.0,
    on: Cause = (Rejected, Transient, OSError),
    negative: float = 0.0,
    missing: type[Exception] | tuple[type[Exception], ...] = (),
    known: Known | None = None,
    store: CacheStore | None = None,
    name: str = "",
    refresh: float = REFRESH_S,
    spread: float = SPREAD,
) -> Cache:
    """Answers are fresh for `ttl` seconds, by `key` (default: all arguments, which must be hashable).

    `stale`: for so many seconds more they are given and refreshed behind the caller's back.
    `if_error`: for so many seconds after `ttl` they are given when the call ends with `on`.
    `negative`: None and the exceptions of `missing` mean "there is no such thing", which is kept for so long (0: not).
    `known`: keys that it does not contain are refused with UnknownKey.
    `store`: by default one of this guard, in memory; `CashewsStore("redis://…")` for several processes, where `name`
    says whose answers they are (default: guard and function).
    `refresh`: seconds that a call may take at least, whatever the deadline of the caller who was first.

    Callers share one answer: do not change it. Raises ConfigError.
    """
    _check(ttl=ttl, stale=stale, if_error=if_error, negative=negative, refresh=refresh)
    if not 0 <= spread < 1:
        raise ConfigError(f"cache(spread={spread!r}) is no share", "Give one from 0 to below 1, such as 0.1.")
    return Cache(
        ttl_s=ttl,
        key=key,
        stale_s=stale,
        if_error_s=if_error,
        on=on,
        negative_s=negative,
        missing=missing if isinstance(missing, tuple) else (missing,),
        known=known,
        store=store,
        name=name,
        refresh_s=refresh,
        spread=spread,
    )


def cached(*, world: World | None = None, **options: Any) -> Callable[[F], F]:
    """`@cached(ttl=60, key="{sku}")`: a cache alone, without other policies; `options` are those of `cache`."""
    from gapless.resilience.guard import Guard

    policy = cache(**options)

    def decorate(function: F) -> F:
        guarded: Any = Guard(f"cache.{function.__qualname__}", policy, world=world)(function)
        return guarded  # type: ignore[no-any-return]

    return decorate


def recall(store: MemoryStore, name: str, key: Callable[..., Hashable]) -> Callable[..., Any]:
    """For `fallback(recall(store, "stock", lambda sku: sku), on=Rejected)`: the last answer that a `cache` with this
    `store` and `name` has kept, however old, by the call's own arguments. Raises KeyError when there is none."""

    def recalled(*args: Any, **kwargs: Any) -> Any:
        entry = store.peek((name, key(*args, **kwargs)))
        if entry is None:
            raise KeyError(f"the cache {name!r} has never had an answer to that")
        return entry.answer()

    return recalled


def _check(**seconds: float) -> None:
    for name, value in seconds.items():
        if value < 0 or (value == 0 and name in ("ttl", "refresh")):
            raise ConfigError(f"cache({name}={value!r}) is no duration", "Give seconds above 0.")
