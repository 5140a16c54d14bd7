"""What the numbers of both releases mean: promote, hold or roll back. Pure.

`look` first counts what was answered since the last look, then judges:

- E-processes (`observe.judge`) share alpha: errors, slow answers, each counted metric of the business, and the guard
  rail of the error rate. They compare both releases in the same seconds, so that a shared incident or a growing share
  speaks neither for nor against the canary.
- Fixed guard rails beside them: the p99, on a lower confidence bound, and failed health checks, which act at once.
  While the stable release gets requests they also ask that the canary is worse than it: what hits both is no reason to
  go back.
- At 100 % nothing is left to compare with. The guard rails stay, absolute and against the last known baseline, for a
  short hold (what they say there may lead to the step before: `rollout.step_back`); `bake` is the same for the time
  after promotion.
- A step is passed when a canary at the greatest permitted error rate would have been found out with the policy's power.
  No evidence means hold, and after the policy's patience whatever that says. What looks worse is never promoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gapless.core.model import BUCKETS, Evidence, NoEvidence, Objective, RolloutPolicy, Window
from gapless.observe import judge
from gapless.rollout import metrics
from gapless.rollout.tally import BASELINE, BOUND_Z, Standing, count, permitted_rate, slow_limit

TESTS = 3
"""Errors, slow answers, and the permitted error rate: alpha is divided among them and the counted metrics."""
BAKE_S = 30.0
"""The longest hold at 100 %, where there is no baseline any more and both pools cost."""
GUARD_P99_SAMPLES = 100
GUARD_BURSTS = 3
"""The p99 acts when slow answers came in so many looks: one stall of one instance is not a slow release."""
FAILED_CHECKS = 3
PROBABLY_Z = 1.0
"""Standard deviations at which a canary that looks slower is not promoted yet."""
CAUTION = 10.0
"""E from which on nothing is promoted, although it is not enough to roll back."""


class Decision(StrEnum):
    PROMOTE = "promote"
    HOLD = "hold"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do, why (a sentence with its numbers), and all the numbers behind it."""

    decision: Decision
    reason: str
    numbers: Mapping[str, float]


def look(
    evidence: Evidence,
    canary: Window,
    stable: Window,
    policy: RolloutPolicy,
    objective: Objective,
    standing: Standing,
) -> tuple[Evidence, Verdict]:
    """Count what both releases answered since the last look, and judge. The windows cover the same seconds."""
    evidence = count(evidence, canary, stable, policy, objective, standing)
    return evidence, verdict(evidence, policy, objective, standing)


def verdict(evidence: Evidence, policy: RolloutPolicy, objective: Objective, standing: Standing) -> Verdict:
    """What the evidence means at this moment. A paused rollout is never promoted, but still rolled back."""
    numbers = numbers_of(evidence, policy, objective, standing)
    if worse := _worse(evidence, policy, objective, standing, numbers):
        return Verdict(decision=Decision.ROLLBACK, reason=worse, numbers=numbers)
    if standing.paused:
        return Verdict(decision=Decision.HOLD, reason="paused by hand", numbers=numbers)
    doubt = _doubtful(evidence, policy, objective, standing, numbers)
    lacking = _lacking(evidence, policy, standing, numbers)
    if lacking and standing.waited_s < policy.patience_s:
        return Verdict(decision=Decision.HOLD, reason=lacking, numbers=numbers)
    if not lacking and not doubt:
        return Verdict(decision=Decision.PROMOTE, reason=_fine(standing, numbers), numbers=numbers)
    if standing.waited_s < policy.patience_s:
        return Verdict(decision=Decision.HOLD, reason=doubt, numbers=numbers)
    return _ended(policy, lacking, doubt, numbers)


def _ended(policy: RolloutPolicy, lacking: str, doubt: str, numbers: Mapping[str, float]) -> Verdict:
    """The patience is over. To promote without evidence is one thing, and against it another."""
    reason = f"no sufficient evidence within {policy.patience_s:.0f} s: {doubt or lacking}"
    decision = _END_OF[policy.no_evidence]
    if decision is Decision.PROMOTE and doubt:
        decision = Decision.HOLD
    return Verdict(decision=decision, reason=f"{reason}; `no_evidence: {policy.no_evidence}`", numbers=numbers)


_END_OF = {
    NoEvidence.HOLD: Decision.HOLD,
    NoEvidence.PROMOTE: Decision.PROMOTE,
    NoEvidence.ROLLBACK: Decision.ROLLBACK,
}


def bake(
    evidence: Evidence,
    window: Window,
    policy: RolloutPolicy,
    objective: Objective,
    *,
    baked_s: float,
    bake_s: float,
    unhealthy: int = 0,
) -> tuple[Evidence, Verdict]:
    """After promotion: count what the release has answered since the last look, and hold it for `bake_s` seconds to the
    guard rails, which are absolute or against the last known baseline. `baked_s`: since it was promoted. PROMOTE says
    that the time is over. What was held against the canary before is over, too: it was promoted."""
    standing = Standing(weight=BUCKETS, held_s=baked_s, waited_s=baked_s, unhealthy=unhealthy)
    evidence = count(evidence, window, Window(), policy, objective, standing)
    numbers = numbers_of(evidence, policy, objective, standing)
    if worse := _failing(standing) or _railed(evidence, objective, standing, numbers):
        return evidence, Verdict(decision=Decision.ROLLBACK, reason=worse, numbers=numbers)
    over = baked_s >= bake_s
    reason = f"no guard rail was crossed in {baked_s:.0f} of {bake_s:.0f} s after promotion"
    return evidence, Verdict(decision=Decision.PROMOTE if over else Decision.HOLD, reason=reason, numbers=numbers)


def _worse(
    evidence: Evidence, policy: RolloutPolicy, objective: Objective, standing: Standing, numbers: Mapping[str, float]
) -> str:
    """Why it must go back at once, as a sentence; empty when nothing says so."""
    if failing := _failing(standing):
        return failing
    if numbers["e_errors"] >= numbers["e_limit"]:
        return _more(numbers, "errors", _rates(numbers), standing)
    if numbers["e_slow"] >= numbers["e_limit"]:
        return _more(numbers, "slow answers", _p99s(numbers), standing)
    return _railed(evidence, objective, standing, numbers) or metrics.harm(evidence, policy.metrics, numbers["e_limit"])


def _failing(standing: Standing) -> str:
    if standing.unhealthy < FAILED_CHECKS:
        return ""
    return f"{standing.unhealthy} health checks or instances of the canary failed"


def _railed(evidence: Evidence, objective: Objective, standing: Standing, numbers: Mapping[str, float]) -> str:
    """The guard rails over what was answered."""
    return _broken(evidence, objective, standing, numbers) or _slower(evidence, objective, standing, numbers)


def _more(numbers: Mapping[str, float], what: str, detail: str, standing: Standing) -> str:
    found = numbers["e_errors" if what == "errors" else "e_slow"]
    limit = f"E {found:.3g} ≥ {numbers['e_limit']:.0f}"
    return f"more {what} than {standing.rest} in the same seconds ({limit}): {detail}"


def _rates(numbers: Mapping[str, float]) -> str:
    return (
        f"{numbers['canary_errors']:.0f} of {numbers['canary_requests']:.0f} requests failed "
        f"against {numbers['stable_errors']:.0f} of {numbers['stable_requests']:.0f}"
    )


def _p99s(numbers: Mapping[str, float]) -> str:
    return f"p99 {numbers['canary_p99_s'] * 1000:.0f} ms against {numbers['stable_p99_s'] * 1000:.0f} ms"


def _broken(evidence: Evidence, objective: Objective, standing: Standing, numbers: Mapping[str, float]) -> str:
    """The guard rail of the error rate."""
    if numbers["e_broken"] < numbers["e_limit"]:
        return ""
    requests, errors = evidence.recent_canary
    limit = permitted_rate(evidence, objective, standing)
    return (
        f"error rate surely above {limit:.1%} (E {numbers['e_broken']:.3g} ≥ {numbers['e_limit']:.0f}): lately "
        f"{errors / max(requests, 1):.1%} of {requests} requests; {evidence.users_met} users met it"
    )


def _slower(
    evidence: Evidence, objective: Objective, standing: Standing, numbers: Mapping[str, float], z: float = BOUND_Z
) -> str:
    """The guard rail of the p99: surely more than 1 % of the answers take longer than the permitted multiple."""
    samples, limit_s = sum(evidence.canary_latency), slow_limit(evidence, objective)
    if not limit_s or samples < GUARD_P99_SAMPLES or evidence.slow_looks < GUARD_BURSTS:
        return ""
    slow = judge.count_above(evidence.canary_latency, limit_s)
    # Slow answers of one look are one burst: as many fewer samples as there are answers to a burst.
    bursts = min(slow, evidence.slow_looks) / slow if slow else 1.0
    surely = judge.wilson_lower(slow * bursts, samples * bursts, z)
    if surely <= max(0.01, judge.share_above(evidence.stable_latency, limit_s)):
        return ""
    against = "the last known p99" if standing.alone else f"that of {standing.rest}"
    return f"p99 exceeds {objective.max_p99_ratio:g} x {against}: {_p99s(numbers)}"


def _lacking(evidence: Evidence, policy: RolloutPolicy, standing: Standing, numbers: Mapping[str, float]) -> str:
    """What is still missing for the next step, as a sentence; empty when nothing is."""
    if numbers["step_requests"] < policy.min_samples:
        return f"{numbers['step_requests']:.0f} of {policy.min_samples} requests seen at this step"
    hold_s = min(policy.hold_s, BAKE_S) if standing.alone else policy.hold_s
    if standing.held_s < hold_s:
        return f"{standing.held_s:.0f} of {hold_s:.0f} s held"
    if standing.alone:
        return ""
    if policy.min_samples and numbers["power"] < policy.power:
        return (
            f"{numbers['canary_requests']:.0f} requests would find out a canary at the permitted error rate with a "
            f"probability of {numbers['power']:.0%}, and {policy.power:.0%} are asked for"
        )
    return metrics.lacking(evidence, policy.metrics)


def _doubtful(
    evidence: Evidence, policy: RolloutPolicy, objective: Objective, standing: Standing, numbers: Mapping[str, float]
) -> str:
    """What is not bad enough to go back, yet too bad to go on."""
    largest = max(numbers["e_errors"], numbers["e_slow"])
    if largest >= CAUTION:
        return f"the canary looks worse (E {largest:.3g})"
    if numbers["recent_canary_rate"] > objective.max_error_rate:
        return f"error rate {numbers['recent_canary_rate']:.1%} is above {objective.max_error_rate:.1%}"
    return _slower(evidence, objective, standing, numbers, PROBABLY_Z) or metrics.doubtful(
        evidence, policy.metrics, CAUTION
    )


def _fine(standing: Standing, numbers: Mapping[str, float]) -> str:
    compared = "no comparison at 100 %" if standing.alone else f"E {max(numbers['e_errors'], numbers['e_slow']):.3g}"
    return (
        f"no sign of harm after {numbers['step_requests']:.0f} requests in {standing.held_s:.0f} s "
        f"with {standing.weight * 100 / BUCKETS:g} % of the {standing.share_of} ({compared}): {_rates(numbers)}"
    )


def numbers_of(evidence: Evidence, policy: RolloutPolicy, objective: Objective, standing: Standing) -> dict[str, float]:
    """Everything that a decision rests on, for the change log. Rates and shares are 0…1, `_s` seconds, `e_*` the
    e-processes and the value at which they roll back, `power` the probability that a canary at the greatest permitted
    error rate would have been found out by the requests so far."""
    total = evidence.step_requests + evidence.step_stable
    return {
        "e_errors": judge.evidence(evidence.errors),
        "e_slow": judge.evidence(evidence.slow),
        "e_broken": judge.evidence(evidence.broken),
        "e_limit": parts_of_alpha(policy) / policy.alpha,
        "canary_requests": evidence.canary_requests,
        "canary_errors": evidence.canary_errors,
        "stable_requests": evidence.stable_requests,
        "stable_errors": evidence.stable_errors,
        "recent_canary_rate": _rate(evidence.recent_canary),
        "recent_stable_rate": _rate(evidence.recent_stable),
        "canary_p99_s": _p99(evidence.canary_latency, GUARD_P99_SAMPLES),
        "stable_p99_s": _p99(evidence.stable_latency, BASELINE),
        "weight": standing.weight / BUCKETS,
        "share": evidence.step_requests / total if total else 0.0,
        "step_requests": evidence.step_requests,
        "needed_requests": policy.min_samples,
        "power": _power(evidence, policy, objective),
        "held_s": standing.held_s,
        "shifted_s": standing.shifted_s,
        "users_met": evidence.users_met,
        "unhealthy": standing.unhealthy,
        **metrics.numbers(evidence, policy.metrics),
    }


def parts_of_alpha(policy: RolloutPolicy) -> int:
    """How many e-processes share alpha."""
    return TESTS + sum(rule.counted for rule in policy.metrics)


def _rate(counts: tuple[int, int]) -> float:
    requests, errors = counts
    return errors / requests if requests else 0.0


def _p99(histogram: tuple[int, ...], needed: int) -> float:
    """Seconds; 0 when there are too few samples to name one."""
    return judge.quantile(histogram, 0.99) if sum(histogram) >= needed else 0.0


def _power(evidence: Evidence, policy: RolloutPolicy, objective: Objective) -> float:
    stable = evidence.stable_errors / evidence.stable_requests if evidence.stable_requests else 0.0
    base = min(max(stable, objective.max_error_rate / judge.RATIOS[-1]), objective.max_error_rate / judge.RATIOS[0])
    exposed = [(requests, weight / BUCKETS) for weight, requests in evidence.exposed]
    return judge.power(exposed, base, objective.max_error_rate / base, policy.alpha / parts_of_alpha(policy))
