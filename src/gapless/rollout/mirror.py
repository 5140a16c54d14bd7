"""What the answers to mirrored requests mean: pass, refuse, or wait. Pure.

The share of differing answers is compared by the lower bound of Wilson's interval: three standard deviations, because a
look every second is many looks. A pass needs the share itself, and the p99, to be within what is permitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gapless.core.model import GateState, MirrorRule
from gapless.core.model.mirror import MirrorTally
from gapless.observe import judge
from gapless.rollout.tally import BOUND_Z, NOISE_S

SURE = 3
"""Differences below which nothing is refused: one odd answer is not a release."""
P99_SAMPLES = 100
PROBABLY_Z = 1.0
SHOWN = 3
"""Places that are named in a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorVerdict:
    state: GateState
    reason: str
    numbers: Mapping[str, float]


def verdict(tally: MirrorTally, rule: MirrorRule, waited_s: float) -> MirrorVerdict:
    """`waited_s`: since mirroring began."""
    numbers = numbers_of(tally)
    if worse := _different(tally, rule) or _slower(tally, rule, BOUND_Z):
        return MirrorVerdict(state=GateState.REFUSED, reason=worse, numbers=numbers)
    lacking = _lacking(tally, rule, waited_s)
    if not lacking:
        return MirrorVerdict(state=GateState.PASSED, reason=_fine(tally, numbers), numbers=numbers)
    if waited_s >= rule.patience_s:
        reason = f"no sufficient evidence within {rule.patience_s:g} s: {lacking}"
        return MirrorVerdict(state=GateState.REFUSED, reason=reason, numbers=numbers)
    return MirrorVerdict(state=GateState.RUNNING, reason=lacking, numbers=numbers)


def numbers_of(tally: MirrorTally) -> dict[str, float]:
    """For the change log. `surely` is the share of differing answers that the true one exceeds."""
    return {
        "mirrored": float(tally.asked),
        "compared": float(tally.compared),
        "different": float(tally.different),
        "noisy": float(tally.noisy),
        "skipped": float(tally.skipped),
        "dropped": float(tally.dropped),
        "unsafe": float(tally.unsafe),
        "unsafe_errors": float(tally.unsafe_errors),
        "surely": judge.wilson_lower(tally.different, tally.compared, BOUND_Z),
        "new_p99_s": judge.quantile(tally.new_latency, 0.99),
        "stable_p99_s": judge.quantile(tally.stable_latency, 0.99),
    }


def _different(tally: MirrorTally, rule: MirrorRule) -> str:
    surely = judge.wilson_lower(tally.different, tally.compared, BOUND_Z)
    if tally.different < SURE or surely <= rule.max_difference:
        return ""
    bound = f"surely above {surely:.2%}, permitted {rule.max_difference:.2%}"
    return f"{tally.different} of {tally.compared} answers differ ({bound}): {_places(tally)}"


def _places(tally: MirrorTally) -> str:
    most = sorted(tally.places.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(most) - SHOWN} more places" if len(most) > SHOWN else ""
    return ", ".join(f"{place} {count} x" for place, count in most[:SHOWN]) + more


def _slower(tally: MirrorTally, rule: MirrorRule, z: float) -> str:
    """More than 1 % of the new release's answers take longer than the permitted multiple of the stable one's p99."""
    samples, stable_s = sum(tally.new_latency), judge.quantile(tally.stable_latency, 0.99)
    if min(samples, sum(tally.stable_latency)) < P99_SAMPLES:
        return ""
    limit_s = max(stable_s * rule.max_p99_ratio, stable_s + NOISE_S)
    slow = judge.count_above(tally.new_latency, limit_s)
    if judge.wilson_lower(slow, samples, z) <= max(0.01, judge.share_above(tally.stable_latency, limit_s)):
        return ""
    new_s = judge.quantile(tally.new_latency, 0.99)
    return f"p99 {new_s * 1000:.0f} ms against {stable_s * 1000:.0f} ms of the stable release for the same requests"


def _lacking(tally: MirrorTally, rule: MirrorRule, waited_s: float) -> str:
    if tally.compared < rule.samples:
        return f"{tally.compared} of {rule.samples} answers compared{_why_few(tally)}"
    if waited_s < rule.for_s:
        return f"{waited_s:.0f} of {rule.for_s:.0f} s mirrored"
    if tally.different > rule.max_difference * tally.compared:
        return f"{tally.different} of {tally.compared} answers differ, too many to pass: {_places(tally)}"
    return _slower(tally, rule, PROBABLY_Z)


def _why_few(tally: MirrorTally) -> str:
    if not tally.asked:
        return "; no request was mirrored yet"
    return f" ({tally.skipped} could not be, {tally.dropped} had no room)" if tally.skipped or tally.dropped else ""


def _fine(tally: MirrorTally, numbers: Mapping[str, float]) -> str:
    noise = f", {tally.noisy} of them but for what the stable release changes itself" if tally.noisy else ""
    p99s = f"p99 {numbers['new_p99_s'] * 1000:.0f} ms"
    if numbers["stable_p99_s"]:
        p99s += f" against {numbers['stable_p99_s'] * 1000:.0f} ms"
    return f"{tally.compared - tally.different} of {tally.compared} answers are equal{noise}; {p99s}"
