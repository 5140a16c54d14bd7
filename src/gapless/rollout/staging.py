"""What comes next in a staged change of configuration: (stage, observed, answers, now) → (stage, what to write). Pure.

    SHARE   some instances have the revision, always the same ones; they are compared with the others
    ALL     all instances have it, and are watched for a short while more
    PROMOTED, ROLLED_BACK

It is judged as a rollout is, by the same analysis and the same policy: no evidence means hold, and at last back. A
control plane may be killed at any moment: whoever reads the store next comes to the same end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from gapless.core.configured import ConfigStage, StageState
from gapless.core.errors import InvalidTransition
from gapless.core.model import BUCKETS, Evidence, Instance, Objective, Phase, Window, bucket_of
from gapless.rollout import analysis, tally
from gapless.rollout.analysis import Decision, Verdict
from gapless.rollout.controller import Act
from gapless.rollout.tally import Standing

TAKE_LIMIT_S = 30.0
"""For all instances that should have the revision to say that they do: a control plane that was away is found again
within five seconds."""

_SERVING = (Phase.READY, Phase.UNREADY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The service as it is now."""

    serving: frozenset[str] = frozenset()
    """Instances that have been ready and have not ended."""
    ready: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()
    """Instances that obey the revision."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Instances that have it and did not take it, and why; also who failed when it was told of it."""
    crashed: frozenset[str] = frozenset()
    """Instances that ended against our will since the stage began."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Readiness probes failed in a row."""
    began_at: float = 0.0
    """When this control plane began to watch: what could not be said while there was none is not late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """What is to be written, in one transaction."""

    stage: ConfigStage
    acts: tuple[Act, ...] = ()


def watched(
    stage: ConfigStage,
    instances: Iterable[Instance],
    taken: Collection[str],
    refused: Mapping[str, str],
    began_at: float,
) -> Watched:
    """`taken`, `refused`: what instances have said of the stage's revision."""
    mine = [i for i in instances if i.service == stage.service]
    return Watched(
        serving=frozenset(i.id for i in mine if i.was_ready and i.phase in _SERVING),
        ready=frozenset(i.id for i in mine if i.phase is Phase.READY),
        taken=frozenset(taken),
        refused=refused,
        crashed=frozenset(i.id for i in mine if i.failed and i.since_at >= stage.started_at),
        failures={i.id: i.failures for i in mine if i.was_ready and i.phase in _SERVING},
        began_at=began_at,
    )


def chosen(stage: ConfigStage, serving: Collection[str]) -> tuple[str, ...]:
    """The instances that have the revision: those that have it already, as far as they serve, and then by a stable
    order, so that a larger share only adds. At least one has it, and at least one has not."""
    if stage.state is StageState.ALL:
        return tuple(sorted(serving))
    salt = f"{stage.service}-config-{stage.number}"
    order = sorted(serving, key=lambda name: (name not in stage.members, bucket_of(name, salt), name))
    wanted = min(max(math.ceil(len(order) * stage.weight / BUCKETS), 1), max(len(order) - 1, 1))
    return tuple(sorted(order[:wanted]))


def begin(stage: ConfigStage, serving: Collection[str]) -> ConfigStage:
    """The stage with its first members. Raises InvalidTransition when there is nobody to compare them with."""
    if len(serving) < 2:
        raise InvalidTransition(
            f"{stage.service} has {len(serving)} ready instances, and a share needs two: some with it, some without",
            f"Scale it (`gapless scale {stage.service} 2`), or change it without --stage.",
        )
    return replace(stage, members=chosen(stage, serving))


def abort(stage: ConfigStage, reason: str, now_at: float) -> ConfigStage:
    """Back, at once."""
    return replace(stage, state=StageState.ROLLED_BACK, ended_at=now_at, reason=reason)


def advance(
    stage: ConfigStage, seen: Watched, canary: Window, others: Window, objective: Objective, now_at: float
) -> StageOutcome:
    """The stage after this moment. `canary` and `others` are what the members and all other instances answered since
    `stage.evidence.until_at` (nothing when that is 0)."""
    if stage.state.ended:
        return StageOutcome(stage=stage)
    before, stage = stage, _applied(_manned(stage, seen), seen, now_at)
    standing = _standing(before, stage, seen, now_at)
    stage = _counted(stage, canary, others, objective, standing, now_at)
    verdict = analysis.verdict(stage.evidence, stage.policy, objective, standing)
    if harm := _harm(before, stage, seen, verdict, now_at):
        return _ended(abort(stage, harm, now_at), f"back to {_called(stage.before)}", harm, verdict)
    if stage.applied_at and verdict.decision is Decision.PROMOTE:
        return _passed(stage, seen, verdict, now_at)
    return StageOutcome(stage=stage)


def _manned(stage: ConfigStage, seen: Watched) -> ConfigStage:
    """Members that were stopped on purpose are replaced; with nobody left to choose from, they stay."""
    members = chosen(stage, seen.serving) if seen.serving else stage.members
    return stage if members == stage.members else replace(stage, members=members)


def _applied(stage: ConfigStage, seen: Watched, now_at: float) -> ConfigStage:
    """Note that all who should have the revision do: samples and hold begin now."""
    if stage.applied_at or not seen.taken.issuperset(stage.members):
        return stage
    evidence = replace(stage.evidence, step_requests=0, step_stable=0, until_at=now_at)
    return replace(stage, applied_at=now_at, evidence=evidence)


def _standing(before: ConfigStage, stage: ConfigStage, seen: Watched, now_at: float) -> Standing:
    """The weight is the members' share of the instances that serve: each gets as many requests."""
    everybody = seen.serving | set(stage.members)
    share = len(stage.members) / len(everybody) if everybody else 1.0
    alone = stage.state is StageState.ALL
    return Standing(
        weight=BUCKETS if alone else min(max(round(BUCKETS * share), 1), BUCKETS - 1),
        held_s=now_at - stage.applied_at if stage.applied_at else 0.0,
        waited_s=now_at - stage.since_at,
        shifted_s=now_at - stage.started_at,
        capacity=share,
        unhealthy=_unhealthy(before, stage, seen),
        share_of="instances",
        rest="the other instances",
    )


def _unhealthy(before: ConfigStage, stage: ConfigStage, seen: Watched) -> int:
    """As of a rollout; when nobody else is ready either, what fails is something that all need."""
    if not _comparable(stage, seen):
        return 0
    crashes = len(seen.crashed & {*before.members, *stage.members})
    return crashes + max((seen.failures.get(name, 0) for name in stage.members), default=0)


def _comparable(stage: ConfigStage, seen: Watched) -> bool:
    return stage.state is StageState.ALL or bool(seen.ready - set(stage.members))


def _counted(
    stage: ConfigStage, canary: Window, others: Window, objective: Objective, standing: Standing, now_at: float
) -> ConfigStage:
    if not stage.applied_at or not (canary.requests or others.requests) or now_at <= stage.evidence.until_at:
        return stage
    evidence = tally.count(stage.evidence, canary, others, stage.policy, objective, standing)
    return replace(stage, evidence=replace(evidence, until_at=now_at))


def _harm(before: ConfigStage, stage: ConfigStage, seen: Watched, verdict: Verdict, now_at: float) -> str:
    """Why it must go back; empty when nothing says so."""
    refused = sorted(set(seen.refused) & {*before.members, *stage.members})
    if refused:
        return f"{refused[0]} did not take it: {seen.refused[refused[0]]}"
    crashed = sorted(seen.crashed & set(before.members))
    if crashed and _comparable(stage, seen):
        return f"{crashed[0]} crashed after it had got it"
    if verdict.decision is Decision.ROLLBACK:
        return verdict.reason
    if not stage.applied_at and now_at - max(stage.since_at, seen.began_at) > TAKE_LIMIT_S:
        silent = ", ".join(sorted(set(stage.members) - seen.taken))
        return f"not taken within {TAKE_LIMIT_S:g} s by {silent}"
    return ""


def _passed(stage: ConfigStage, seen: Watched, verdict: Verdict, now_at: float) -> StageOutcome:
    """On to all instances, or to the end."""
    if stage.state is StageState.ALL:
        ended = replace(stage, state=StageState.PROMOTED, ended_at=now_at, reason=verdict.reason)
        return _ended(ended, "promoted", verdict.reason, verdict)
    wider = replace(stage, state=StageState.ALL, since_at=now_at, applied_at=0.0, evidence=_widened(stage.evidence))
    wider = replace(wider, members=chosen(wider, seen.serving))
    return _ended(wider, "all instances get it", verdict.reason, verdict)


def _widened(evidence: Evidence) -> Evidence:
    return replace(evidence, step_requests=0, step_stable=0)


def _ended(stage: ConfigStage, what: str, why: str, verdict: Verdict) -> StageOutcome:
    head = f"configuration of {stage.service}, {_called(stage.number)}"
    return StageOutcome(stage=stage, acts=(Act(what=f"{head}: {what}", why=why, numbers=verdict.numbers),))


def _called(number: int) -> str:
    return f"revision {number}" if number else "none"
