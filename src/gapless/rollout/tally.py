"""The evidence of a rollout: what both releases answered, added up look by look. Pure.

Which share an event is weighed with. With sticky users the first error of a user comes from the canary with the
probability of its *weight*, whoever sends how many requests: one busy user of the stable release makes the realised
share of requests small, and then every other user's error would look like the canary's fault. Requests that are forced
onto a release make the weight wrong instead. And a look at a slow service sees one request or none, whose own share
says nothing. So the largest is taken of the weight, the step's realised share, and the lower bound of this look's
realised share: too large a share can only make the evidence weaker, never false.

With sticky users each user counts once, by its first error: requests of one user are not independent, and one user with
a broken account would otherwise look like a broken release.

Slow answers come in bursts: everything waits while one instance stalls. So all those of a look together count as one
event, divided among both releases; and since it is instances that stall, the canary's share of them is a lower bound of
the share that this event is weighed with.

The guard rail of the error rate is an e-process, too: that the canary's users meet errors more often than permitted,
or, while the stable release itself is above that in these seconds, more often than its users do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gapless.core.model import (
    BUCKETS,
    WARM_UP_REQUESTS,
    WARM_UP_S,
    Evidence,
    Objective,
    RolloutPolicy,
    Seen,
    SplitBy,
    Window,
)
from gapless.observe import judge

USERS_KEPT = 512
"""Users remembered per metric: they travel with the rollout through the store at every look."""
EXPOSURES_KEPT = 32
RECENT = 2_000
RECENT_LOOKS = 20
"""Canary answers, and looks, after which the recent counts are halved: a p99 needs some hundreds, from more than one
burst; an old hour should not hide a new fault."""
BASELINE = 300
"""Stable answers that a p99 is taken from: three of them lie above it."""
NOISE_S = 0.01
"""A difference below it is the scheduler's, not the release's, however many times a tiny p99 it is."""
BOUND_Z = 3.0
"""Standard deviations of the confidence bounds. A look every second is many looks: chance crosses three hardly ever."""
NOW_Z = 2.0
"""Of the bound of the stable release's present error rate, which is the measure during a shared incident."""
NOW_KEPT = 0.9
"""What of the last seconds' counts is kept at the next look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the rollout stands at a look."""

    weight: int
    """The canary's share in buckets of 10,000; the larger one while the gateway is still changing over."""
    held_s: float = 0.0
    """Since the gateway has applied this share."""
    waited_s: float = 0.0
    """Since this step began."""
    shifted_s: float = 0.0
    """Since the first user was moved."""
    capacity: float = 0.0
    """The canary's share (0…1) of the ready instances."""
    unhealthy: int = 0
    """Failed health checks in a row, and crashes, of the canary's instances."""
    paused: bool = False
    share_of: str = "users"
    """What the weight is a share of, in words."""
    rest: str = "the stable release"
    """What the canary is compared with, in words."""

    @property
    def alone(self) -> bool:
        """The canary has all the users: there is nothing to compare it with."""
        return self.weight >= BUCKETS


def count(
    evidence: Evidence,
    canary: Window,
    stable: Window,
    policy: RolloutPolicy,
    objective: Objective,
    standing: Standing,
) -> Evidence:
    """The evidence after the answers of both windows; `until_at` is the caller's to move."""
    if not canary.requests and not stable.requests:
        return evidence
    evidence = _totals(evidence, canary, stable, standing)
    share = share_of(evidence, canary, stable, standing.weight)
    evidence = _errors(_staked(evidence), canary, stable, policy, share)
    evidence = _broken(evidence, canary, objective, standing)
    if _warm(evidence, policy, standing):
        evidence = _latencies(evidence, canary, stable, policy, objective, max(share, standing.capacity))
    return _fade(evidence, standing)


def _warm(evidence: Evidence, policy: RolloutPolicy, standing: Standing) -> bool:
    """Latency is not judged so soon after more users have come. At most the first quarter of a step is warm-up."""
    waited = standing.held_s >= min(WARM_UP_S, policy.hold_s / 4)
    return waited and evidence.step_requests >= min(WARM_UP_REQUESTS, policy.min_samples / 4)


def baseline(evidence: Evidence, stable: Window) -> Evidence:
    """The evidence with more of the stable release's latencies, gathered before any user is moved."""
    if not stable.requests:
        return evidence
    latency = judge.merge(evidence.stable_latency, stable.latency)
    return replace(evidence, stable_latency=judge.halve(latency) if sum(latency) > 10 * RECENT else latency)


def share_of(evidence: Evidence, canary: Window, stable: Window, weight: int) -> float:
    """The canary's share (0…1) that its events are weighed with; see above why it is the largest of three."""
    step = evidence.step_requests + evidence.step_stable
    now = judge.wilson_lower(canary.requests, canary.requests + stable.requests, BOUND_Z)
    return max(weight / BUCKETS, evidence.step_requests / step if step else 0.0, now)


def _exposed(known: tuple[tuple[int, int], ...], weight: int, requests: int) -> tuple[tuple[int, int], ...]:
    """With so many more requests at a weight. Of very many weights, as when a pool comes and goes, the oldest go."""
    if not 0 < weight < BUCKETS or not requests:
        return known
    counts = dict(known)
    counts[weight] = counts.get(weight, 0) + requests
    return tuple(counts.items())[-EXPOSURES_KEPT:]


def _staked(evidence: Evidence) -> Evidence:
    """A little more is staked at each look, before what it brings is known."""
    looked = evidence.looked
    return replace(
        evidence,
        looked=looked + 1,
        errors=judge.stake(evidence.errors, looked),
        slow=judge.stake(evidence.slow, looked),
        broken=judge.stake(evidence.broken, looked),
    )


def _broken(evidence: Evidence, canary: Window, objective: Objective, standing: Standing) -> Evidence:
    """Each user counts by its first error, among all requests. Where users are sampled, so are the requests."""
    met, new = _first(evidence.met, failed := _failed(canary))
    sampled = 2.0**-met.level
    events = min(new + failed.count("") * sampled, canary.requests * sampled)
    permitted = permitted_rate(evidence, objective, standing)
    return replace(
        evidence,
        broken=judge.above(evidence.broken, events, canary.requests * sampled, permitted),
        met=met,
        users_met=evidence.users_met + new * 2**met.level + failed.count(""),
    )


def permitted_rate(evidence: Evidence, objective: Objective, standing: Standing) -> float:
    """The error rate that the canary may have at this look (0…1): more, while the stable release has more."""
    requests, errors = evidence.recent_stable if standing.alone else evidence.stable_now
    limit = objective.max_error_rate
    if not requests or errors / requests <= limit / 2:
        return limit
    return max(limit, judge.wilson_upper(errors, requests, NOW_Z))


def _totals(evidence: Evidence, canary: Window, stable: Window, standing: Standing) -> Evidence:
    mine, other, now = evidence.recent_canary, evidence.recent_stable, evidence.stable_now
    return replace(
        evidence,
        looks=evidence.looks + 1,
        canary_requests=evidence.canary_requests + canary.requests,
        canary_errors=evidence.canary_errors + canary.errors,
        stable_requests=evidence.stable_requests + stable.requests,
        stable_errors=evidence.stable_errors + stable.errors,
        step_requests=evidence.step_requests + canary.requests,
        step_stable=evidence.step_stable + stable.requests,
        recent_canary=(mine[0] + canary.requests, mine[1] + canary.errors),
        recent_stable=(other[0] + stable.requests, other[1] + stable.errors),
        exposed=_exposed(evidence.exposed, standing.weight, canary.requests),
        stable_now=(now[0] * NOW_KEPT + stable.requests, now[1] * NOW_KEPT + stable.errors),
    )


def _errors(evidence: Evidence, canary: Window, stable: Window, policy: RolloutPolicy, share: float) -> Evidence:
    users, mine, other = _events(evidence.users, _failed(canary), _failed(stable), policy.by)
    return replace(evidence, errors=judge.update(evidence.errors, mine, other, share), users=users)


def _failed(window: Window) -> tuple[str, ...]:
    """The user of each error; errors that the window does not name are nobody's."""
    return window.failed + ("",) * (window.errors - len(window.failed))


def _latencies(
    evidence: Evidence, canary: Window, stable: Window, policy: RolloutPolicy, objective: Objective, share: float
) -> Evidence:
    """Slow is what takes longer than the permitted multiple of the stable release's p99, as known before this look."""
    limit_s = slow_limit(evidence, objective)
    users, mine, other = evidence.slow_users, 0, 0
    if limit_s:
        users, mine, other = _events(users, _slow(canary, limit_s), _slow(stable, limit_s), policy.by)
    both = mine + other or 1
    return replace(
        evidence,
        slow=judge.update(evidence.slow, mine / both, other / both, share),
        slow_users=users,
        slow_looks=evidence.slow_looks + (mine > 0),
        canary_latency=judge.merge(evidence.canary_latency, canary.latency),
        stable_latency=judge.merge(evidence.stable_latency, stable.latency),
    )


def slow_limit(evidence: Evidence, objective: Objective) -> float:
    """Seconds above which an answer is slow; 0 while the baseline has too few samples."""
    if sum(evidence.stable_latency) < BASELINE:
        return 0.0
    p99_s = judge.quantile(evidence.stable_latency, 0.99)
    return max(objective.max_p99_ratio * p99_s, p99_s + NOISE_S)


def _slow(window: Window, limit_s: float) -> tuple[str, ...]:
    if window.tail:
        return tuple(user for user, took_s in window.tail if took_s > limit_s)
    return ("",) * judge.count_above(window.latency, limit_s)


def _events(seen: Seen, canary: tuple[str, ...], stable: tuple[str, ...], by: SplitBy) -> tuple[Seen, int, int]:
    """How many events of either release count: each, or each user's first when users are sticky. Who failed with both
    in the same look counts for the stable one. Events of unknown users all count."""
    if by is SplitBy.REQUEST:
        return seen, len(canary), len(stable)
    seen, other = _first(seen, stable)
    seen, mine = _first(seen, canary)
    return seen, mine + canary.count(""), other + stable.count("")


def _first(seen: Seen, names: Iterable[str]) -> tuple[Seen, int]:
    """Remember these users; also how many of them were new (and belong to the sample). Unknown ones are left out."""
    import xxhash

    known, level, new = dict.fromkeys(seen.hashes), seen.level, 0
    for name in filter(None, names):
        # Another seed than the buckets': which users are remembered must not depend on which release they meet.
        place = xxhash.xxh32_intdigest(name.encode(), 1)
        if place < 1 << (32 - level) and place not in known:
            known[place] = None
            new += 1
        while len(known) > USERS_KEPT:
            level += 1
            known = dict.fromkeys(place for place in known if place < 1 << (32 - level))
    return Seen(hashes=tuple(known), level=level), new


def _fade(evidence: Evidence, standing: Standing) -> Evidence:
    """Forget half, of both releases alike, so that they stay comparable. A baseline that gets no more answers stays."""
    if evidence.recent_canary[0] <= RECENT or evidence.looks <= RECENT_LOOKS:
        return evidence
    evidence = replace(
        evidence,
        recent_canary=_half(evidence.recent_canary),
        looks=evidence.looks // 2,
        slow_looks=evidence.slow_looks // 2,
        canary_latency=judge.halve(evidence.canary_latency),
    )
    if standing.alone:
        return evidence
    return replace(
        evidence,
        recent_stable=_half(evidence.recent_stable),
        stable_latency=judge.halve(evidence.stable_latency),
    )


def _half(counts: tuple[int, int]) -> tuple[int, int]:
    return counts[0] // 2, counts[1] // 2
