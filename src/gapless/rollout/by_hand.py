"""Shares of the users by hand, between two releases that are there: of a paused rollout, or, after one, of the stable
release and the old pool that is kept. Pure.

Users stay where they are as in a rollout: the same salt, and the newer release first, so that raising a share only adds
users to it, whichever of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gapless.core.errors import ConfigError, InvalidTransition
from gapless.core.model import BUCKETS, Rollout, RolloutState, Split, SplitBy
from gapless.rollout.plan import pool_for
from gapless.rollout.wanted import step_split

PERCENT = BUCKETS // 100


def weights_of(shares: Sequence[tuple[str, float]]) -> dict[str, int]:
    """Buckets of each release. `shares`: percent. Raises ConfigError."""
    found: dict[str, int] = {}
    for release, percent in shares:
        weight = round(percent * PERCENT) if 0 <= percent <= 100 else -1
        if weight < 0 or abs(percent * PERCENT - weight) > 1e-6:
            raise ConfigError(
                f"{release}={percent:g} is no share of the users", "Shares are percent: 0 to 100, in hundredths."
            )
        if release in found:
            raise ConfigError(f"{release} is named twice", "Name each release once.")
        found[release] = weight
    if (total := sum(found.values())) != BUCKETS:
        raise ConfigError(
            f"{_named(found)} add up to {total / PERCENT:g} %, and not to 100", f"Write for instance {_whole(found)}."
        )
    return found


def _named(weights: Mapping[str, int]) -> str:
    return " ".join(f"{release}={weight / PERCENT:g}" for release, weight in weights.items())


def _whole(weights: Mapping[str, int]) -> str:
    """The first as it is, as far as that is possible, and the last with what is left."""
    *first, last = weights or {"RELEASE": BUCKETS}
    left, told = BUCKETS, {}
    for release in first:
        told[release] = min(weights[release], left)
        left -= told[release]
    return _named({**told, last: left})


def told(weights: Mapping[str, int]) -> str:
    """As people say it: `1.5 10 %, 1.4 90 %`."""
    return ", ".join(f"{release} {weight / PERCENT:g} %" for release, weight in weights.items())


def refuse_without_room(service: str, weights: Mapping[str, int], instances: int, ready: Mapping[str, int]) -> None:
    """Raises InvalidTransition for a release that cannot carry its share. `instances`: those that carry all users,
    `ready`: those of each release that is here to stay."""
    there = ", ".join(f"{release} ({count})" for release, count in sorted(ready.items()) if count) or "none"
    for release, weight in weights.items():
        has = ready.get(release, 0)
        if weight and not has:
            raise InvalidTransition(
                f"{release} of {service} has no ready instance; those that have some: {there}",
                f"Deploy it (`gapless deploy {service} --release {release}`) and pause the rollout, or let "
                "`rollout: keep:` keep the old one after the next.",
            )
        if weight and has < (needed := pool_for(weight, instances)):
            raise InvalidTransition(
                f"{weight / PERCENT:g} % of {service}'s users need {needed} instances, and {release} has {has} ready",
                f"Give it {BUCKETS * has // instances / PERCENT:g} % at most.",
            )


def steered(rollout: Rollout, weights: Mapping[str, int]) -> Rollout:
    """A paused rollout with another share. It is judged there, and stays until it is resumed. Raises
    InvalidTransition."""
    name, weight = f"rollout {rollout.number} of {rollout.service}", weights.get(rollout.after, 0)
    if rollout.train:
        raise InvalidTransition(
            f"{name} moves with train {rollout.train}, whose shares are the same for all",
            f"`gapless rollout {rollout.train} promote --step` moves them all.",
        )
    if not rollout.paused or rollout.winner or rollout.state is not RolloutState.SHIFTING:
        raise InvalidTransition(
            f"{name} ({rollout.before} → {rollout.after}) is under way, and moves the users itself",
            f"`gapless rollout {rollout.service} pause` once it has users, then split; or wait for its end.",
        )
    if strangers := sorted(weights.keys() - {rollout.before, rollout.after}):
        raise InvalidTransition(
            f"{strangers[0]} is no release of {name}", f"Divide the users among {rollout.before} and {rollout.after}."
        )
    if not weight or weight == BUCKETS:
        verb = "promote" if weight else "abort"
        raise InvalidTransition(
            f"all the users on {rollout.after if weight else rollout.before} is the end of {name}",
            f"`gapless rollout {rollout.service} {verb}`.",
        )
    _refuse_parts(rollout.policy.by, weights)
    return replace(rollout, by_hand=weight, applied_at=0.0, paused_until_at=0.0)


def divided(split: Split, last: Rollout | None, weights: Mapping[str, int]) -> Split:
    """The split at rest with other shares. `last`: the rollout that made its release stable. Raises
    InvalidTransition."""
    others = [release for release, weight in weights.items() if weight and release != split.stable]
    if last is None or last.after != split.stable or any(other != last.before for other in others):
        other = others[0] if others else split.stable
        raise InvalidTransition(
            f"{other} of {split.service} is not kept beside {split.stable}",
            f"`gapless deploy {split.service} --release {other}` brings it; pause the rollout at the share you want.",
        )
    if not weights.get(split.stable):
        raise InvalidTransition(
            f"all the users on {last.before} is a rollback of {split.service}", f"`gapless rollback {split.service}`."
        )
    _refuse_parts(last.policy.by, weights)
    back = weights.get(last.before, 0)
    both = ((last.after, BUCKETS - back), (last.before, back))
    kept = tuple(part for part in both if part[1])
    return replace(step_split(last, BUCKETS), stable=split.stable, weights=kept, entered=split.entered)


def _refuse_parts(by: SplitBy, weights: Mapping[str, int]) -> None:
    if by is SplitBy.ID and any(weight % PERCENT for weight in weights.values()):
        raise ConfigError(f"`by: id` knows whole percents only, not {_named(weights)}", "Give whole percents.")


def beside(split: Split | None) -> dict[str, int]:
    """What others than the stable release have of the users."""
    return {release: weight for release, weight in split.weights if weight and release != split.stable} if split else {}
