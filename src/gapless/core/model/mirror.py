"""Mirrored requests: what the gateway is told of them, and what their answers came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gapless.core.model.address import Address
from gapless.core.model.gates import CREDENTIALS, SAFE_METHODS

MIRROR_HEADER = "x-gapless-mirror"
"""Marks requests that no user waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorTarget:
    """Whom the gateway sends a share of a service's requests as well. Nobody waits for those answers."""

    address: Address
    share: int
    """In buckets of 10,000."""
    methods: tuple[str, ...] = SAFE_METHODS
    strip: tuple[str, ...] = CREDENTIALS


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorPlan:
    """What a comparer asks: `new` and, for what to compare with, `stable`."""

    new: tuple[Address, ...] = ()
    stable: tuple[Address, ...] = ()
    ignore: tuple[str, ...] = ()
    compare: bool = True
    timeout_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorTally:
    """What the answers came to. Latencies as in `Window.latency`, of those that were compared."""

    asked: int = 0
    """Requests that came."""
    dropped: int = 0
    """Of them, those for which there was no room: too many were under way."""
    skipped: int = 0
    """Those that could not be compared: the stable release did not answer, the body was too large."""
    unsafe: int = 0
    """Those with a method that is asked of the new release only."""
    unsafe_errors: int = 0
    compared: int = 0
    different: int = 0
    noisy: int = 0
    """Those in which the stable release differs from itself, and nothing else does."""
    places: Mapping[str, int] = field(default_factory=dict)
    """How often each place differed."""
    examples: tuple[str, ...] = ()
    new_latency: tuple[int, ...] = ()
    stable_latency: tuple[int, ...] = ()
