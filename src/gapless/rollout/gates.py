"""Which gates are to be run, and what their results mean together. Pure.

All gates run at once as soon as the new instances are ready. The mirror begins when they have all passed: nothing of
the users' is sent to a release that a test has refused. One refusal refuses the release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from gapless.core.model import Gate, GateResult, GateState, MirrorRule, Release, RolloutPolicy
from gapless.core.model.gates import MIRROR_GATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Gating:
    """What the gates say about a rollout. `waiting`: those that have not passed yet."""

    refusal: str = ""
    log: str = ""
    waiting: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        return not self.refusal and not self.waiting


OPEN = Gating()


def names(policy: RolloutPolicy) -> tuple[str, ...]:
    """The gates of a policy in the order in which they are shown; the mirror comes last."""
    return (*(gate.name for gate in policy.gates), *((MIRROR_GATE,) if policy.mirror else ()))


def ungated(policy: RolloutPolicy) -> RolloutPolicy:
    """The policy of a way back: that release has served users before, and they wait for it."""
    return replace(policy, gates=(), mirror=None)


def gating(policy: RolloutPolicy, results: Iterable[GateResult]) -> Gating:
    """What the results of a rollout's gates come to."""
    found = {result.name: result for result in results}
    wanted = names(policy)
    refused = [found[name] for name in wanted if name in found and found[name].state is GateState.REFUSED]
    waiting = tuple(name for name in wanted if name not in found or found[name].state is GateState.RUNNING)
    if not refused:
        return Gating(waiting=waiting)
    first = refused[0]
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return Gating(refusal=f"gate {first.name} refuses: {first.reason}{more}", log=first.output, waiting=waiting)


def to_run(policy: RolloutPolicy, results: Iterable[GateResult], under_way: Collection[str]) -> tuple[Gate, ...]:
    """The gates that are to be started now: those without a result, and those that only seem to run: whoever ran them
    is no more. Nothing is started any more once one has refused. `under_way`: the names of those that do run."""
    found = {result.name: result for result in results}
    if any(result.state is GateState.REFUSED for result in found.values()):
        return ()
    begun = {name for name, result in found.items() if result.state is not GateState.RUNNING} | set(under_way)
    return tuple(gate for gate in policy.gates if gate.name not in begun)


def mirror_due(policy: RolloutPolicy, results: Iterable[GateResult], *, shifting: bool) -> bool:
    """Whether requests are to be mirrored now. Not before all other gates have passed, not after a refusal, and after
    the mirror's own pass only while users move, if the rule says so."""
    if policy.mirror is None:
        return False
    found = list(results)
    standing = gating(policy, found)
    if standing.refusal or set(standing.waiting) - {MIRROR_GATE}:
        return False
    passed = MIRROR_GATE not in standing.waiting
    return policy.mirror.while_shifting or not (shifting or passed)


def digest_of(release: Release) -> str:
    """Of a release's content and of the settings that it runs with."""
    settings = msgspec.json.encode(sorted(release.env.items()))
    return hashlib.blake2b(release.digest.encode() + settings, digest_size=16).hexdigest()


def definition_of(rule: Gate | MirrorRule) -> str:
    """Eight bytes of what a gate asks for: a pass under other rules is no pass."""
    return hashlib.blake2b(msgspec.json.encode(rule), digest_size=8).hexdigest()


def cached_pass(gate: Gate, digest: str, results: Sequence[GateResult]) -> GateResult | None:
    """An earlier pass of the same gate for the same release; only for gates that depend on nothing else."""
    if not gate.cached:
        return None
    definition = definition_of(gate)
    return next(
        (
            result
            for result in reversed(results)
            if (result.name, result.digest, result.definition) == (gate.name, digest, definition)
            and result.state is GateState.PASSED
            and not result.cached_from
        ),
        None,
    )


def described(policy: RolloutPolicy) -> tuple[str, ...]:
    """What will be asked of a release before users meet it, one sentence each, in order: for a dry run."""
    gates = [f"gate {gate.name} ({gate.kind}): within {gate.limit_s:g} s" for gate in policy.gates]
    return (*gates, *((_mirror_sentence(policy.mirror),) if policy.mirror else ()))


def _mirror_sentence(rule: MirrorRule) -> str:
    doubled = f"; {', '.join(rule.unsafe)} have their effects twice" if rule.unsafe else ""
    compared = (
        f"at most {rule.max_difference:.1%} of {rule.samples} answers may differ" if rule.compare else "uncompared"
    )
    methods = ", ".join(rule.methods)
    return f"mirror: {rule.share / 100:g} % of {methods} for at least {rule.for_s:g} s, {compared}{doubled}"
