"""Which policy must lie outside which, and why. The first policy of a guard is the outermost."""

from __future__ import annotations

from collections.abc import Sequence

from gapless.core.errors import ConfigError

OUTSIDE: dict[tuple[str, str], str] = {
    (
        "deadline",
        "retry",
    ): "pauses between attempts must end with the deadline (an attempt's own limit is `each`)",
    ("deadline", "hedge"): "a hedged attempt must not outlive the deadline",
    ("deadline", "breaker"): "a refusal for want of time says nothing about the other side",
    ("deadline", "rate"): "waiting for a turn must end with the deadline",
    ("deadline", "limit"): "waiting in the queue must end with the deadline",
    ("fallback", "cache"): "the cache would keep the substitute for the answer",
    ("fallback", "retry"): "retry would take the substitute for an answer and never try again",
    ("fallback", "hedge"): "the hedge would take the substitute for an answer",
    ("fallback", "breaker"): "the breaker would count substitutes as successes, and its refusals would not fall back",
    ("fallback", "rate"): "refusals by the rate would not fall back",
    ("fallback", "limit"): "refusals by the limit would not fall back",
    ("cache", "retry"): "each attempt would ask the cache again",
    ("cache", "hedge"): "the second attempt would find the first one in flight and wait for it",
    ("cache", "breaker"): "an open breaker would refuse what the cache could answer",
    ("cache", "rate"): "an answer from the cache must not cost a token",
    ("cache", "limit"): "an answer from the cache must not take a place",
    ("retry", "hedge"): "an attempt may be hedged, but a hedge that retries multiplies the load",
    ("retry", "breaker"): "the breaker must see every attempt, and stop the retries when it opens",
    ("retry", "limit"): "a place must not be held during the pauses",
    ("hedge", "breaker"): "the breaker must see every attempt",
    ("hedge", "limit"): "every attempt must take a place of its own",
    ("breaker", "limit"): "an open breaker must refuse before a call queues for a place",
    ("rate", "limit"): "a call that waits for its turn must not hold a place",
}
"""(outer, inner): what goes wrong the other way round."""
ONCE = {
    "deadline": "the smaller one would always win",
    "retry": "their attempts would multiply",
    "hedge": "their attempts would multiply",
}


def check_order(guard: str, kinds: Sequence[str]) -> None:
    """Raises ConfigError that names both policies, the reason and the order that is safe."""
    for place, kind in enumerate(kinds):
        for inner in kinds[place + 1 :]:
            if inner == kind and kind in ONCE:
                raise ConfigError(f"guard {guard!r} has {kind} twice: {ONCE[kind]}", "Keep one of them.")
            if (inner, kind) in OUTSIDE:
                raise ConfigError(
                    f"guard {guard!r} has {kind} outside {inner}: {OUTSIDE[inner, kind]}",
                    f"Put {inner} before {kind}, as in: {', '.join(safe_order(kinds))}.",
                )


def safe_order(kinds: Sequence[str]) -> list[str]:
    """The same policies in an order that is safe, moved as little as possible."""
    ordered: list[str] = []
    left = list(kinds)
    while left:
        first = next(kind for kind in left if not any((other, kind) in OUTSIDE for other in left))
        left.remove(first)
        ordered.append(first)
    return ordered
