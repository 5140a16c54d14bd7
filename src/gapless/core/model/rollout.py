"""The movement of a split from one release to another: its policy, what was seen, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gapless.core.model.gates import Gate, MirrorRule
from gapless.core.model.routing import BUCKETS, Exceptions, SplitBy
from gapless.core.model.verdict import MetricEvidence, MetricRule, NoEvidence


class Strategy(StrEnum):
    CANARY = "canary"
    ROLLING = "rolling"
    BLUE_GREEN = "blue-green"


class JudgedBy(StrEnum):
    """What says whether a new release is good."""

    REQUESTS = "requests"
    HEALTH = "health"
    """Readiness and crashes alone: nobody counts what the service answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A number of instances, or a share (0…1) of those that a service has."""

    count: int = 0
    share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRule:
    """What holds for the step at `weight`, beside the policy."""

    weight: int
    hold_s: float | None = None
    """Instead of the policy's."""
    approve: bool = False
    """Somebody must approve before any user comes to this share."""
    pause_s: float | None = None
    """Once at this step it pauses for so long; 0: until it is resumed; None: it does not pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """How a service's releases are moved. `steps` are weights in buckets, rising, the last one 10,000."""

    strategy: Strategy = Strategy.CANARY
    by: SplitBy = SplitBy.USER
    by_name: str = ""
    """The header or the cookie that `by` means."""
    exceptions: Exceptions = Exceptions()
    """Those of the service count, so that a change acts at once."""
    steps: tuple[int, ...] = (100, 500, 2_500, BUCKETS)
    hold_s: float = 60.0
    """The least time at each step; promotion to the next one also needs enough samples."""
    min_samples: int = 100
    """Requests that the canary must have answered at a step before the next one."""
    alpha: float = 0.01
    """Greatest probability of rolling back a release that is as good as the stable one."""
    patience_s: float = 3600.0
    """How long a step may look for evidence; then comes what `no_evidence` says."""
    rules: tuple[StepRule, ...] = ()
    """For single steps. One whose weight is no step's holds at the first step above it."""
    judged_by: JudgedBy = JudgedBy.REQUESTS
    surge: Amount = Amount(count=1)
    """`rolling`: instances above those asked for, at most; a share is rounded up."""
    unavailable: Amount = Amount()
    """`rolling`: instances below those asked for, at most; a share is rounded down."""
    keep_s: float = 0.0
    """How long the old pool is kept after promotion, for an instant return."""
    bake_s: float = 0.0
    """How long a promoted release is still watched, and rolled back by itself when it does harm."""
    no_evidence: NoEvidence = NoEvidence.ROLLBACK
    power: float = 0.8
    """A step is passed only when a canary at the greatest permitted error rate would have been found out with this
    probability (0…1). 0: not asked for; nor is it with `min_samples` 0, which promotes by time alone."""
    metrics: tuple[MetricRule, ...] = ()
    """Metrics of the business that are judged as well."""
    gates: tuple[Gate, ...] = ()
    """What a new release must pass once its instances are ready, before a user meets it."""
    mirror: MirrorRule | None = None
    preflight_blocks: bool = False
    """Whether a high risk in the preflight refuses a deploy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What users are promised. Guard rails of rollouts derive from the maxima; alerts, and the budget that is left,
    from the others."""

    max_error_rate: float = 0.05
    max_p99_ratio: float = 3.0
    availability: float = 0.0
    """The share (0…1) of requests that get a good answer; 0: none is promised."""
    p99_s: float = 0.0
    """Seconds in which 99 % of the requests are answered; 0: none are promised."""


class RolloutState(StrEnum):
    SCHEDULED = "scheduled"
    """It waits for its time; nothing has been done yet."""
    STARTING = "starting"
    """Instances of the new release are being started; no user meets it yet."""
    SHIFTING = "shifting"
    """Users are being moved, step by step."""
    FINISHING = "finishing"
    """The winner has all the users; the other pool is being drained."""
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"

    @property
    def ended(self) -> bool:
        return self in (RolloutState.PROMOTED, RolloutState.ROLLED_BACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Somebody let users come to a step (its index in the plan)."""

    step: int
    who: str
    why: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Rollouts of several services that move together: none goes ahead of the others, and all end alike. `members` are
    services with the number of their rollout."""

    name: str
    members: tuple[tuple[str, int], ...]
    who: str = ""
    why: str = ""
    started_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Users that were already counted, in bounded space: 32-bit hashes, only those below 2**(32 - level) once there are
    too many. What is left out depends on the user alone, so what is counted stays a fair sample."""

    hashes: tuple[int, ...] = ()
    level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the analysis has seen so far; it travels with the rollout so that a restart forgets nothing.

    `errors` and `slow` are the two e-processes as `observe.judge` keeps them: the logarithms of the stake on each
    assumed risk ratio, and of what is not staked yet.
    """

    errors: tuple[float, ...] = ()
    slow: tuple[float, ...] = ()
    until_at: float = 0.0
    """Everything before this moment has been counted."""
    canary_requests: int = 0
    canary_errors: int = 0
    stable_requests: int = 0
    stable_errors: int = 0
    step_requests: int = 0
    """Requests answered by the canary since the present step began."""
    step_stable: int = 0
    """Requests answered by the stable release since then."""
    users: Seen = Seen()
    """Users whose first error was counted."""
    slow_users: Seen = Seen()
    """Users whose first slow answer was counted."""
    looks: int = 0
    """Looks at answers lately (see `recent_canary`)."""
    slow_looks: int = 0
    """Looks that found slow answers of the canary lately: answers that wait behind one stall are not independent."""
    met: Seen = Seen()
    """Users who got an error from the canary."""
    users_met: int = 0
    """How many they are (an estimate above some hundreds; an error of an unknown user counts as one user)."""
    recent_canary: tuple[int, int] = (0, 0)
    """Requests and errors of the canary lately: halved now and then, so that the old fades."""
    recent_stable: tuple[int, int] = (0, 0)
    canary_latency: tuple[int, ...] = ()
    """Latencies of the same answers, as in `Window.latency`."""
    stable_latency: tuple[int, ...] = ()
    """The baseline; the last one known when the stable release no longer gets requests."""
    broken: tuple[float, ...] = ()
    """The guard rail of the error rate: the e-process of "it is above the permitted one"."""
    stable_now: tuple[float, float] = (0.0, 0.0)
    """Requests and errors of the stable release in the last seconds: a shared incident is seen at once."""
    looked: int = 0
    """Looks at answers so far."""
    exposed: tuple[tuple[int, int], ...] = ()
    """How many requests the canary has answered at which weight (in buckets): what the power is computed from."""
    metrics: tuple[MetricEvidence, ...] = ()
    read_at: float = 0.0
    """When the metrics of the business were last read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The movement of a service's split from one release to another."""

    number: int
    service: str
    before: str
    after: str
    policy: RolloutPolicy
    instances: int
    """Capacity asked for: neither pool goes below what its share of the users needs."""
    state: RolloutState = RolloutState.STARTING
    step: int = -1
    """Index into the plan (`rollout.plan.steps_for`) of the share that users now have; -1 before the first."""
    target: int = 0
    """Index of the step that instances are wanted for; ahead of `step` while they are awaited."""
    since_at: float = 0.0
    """When the present step (or state, or wait for instances) began."""
    applied_at: float = 0.0
    """When the gateway was first seen to have applied the present split; 0 = not yet."""
    started_at: float = 0.0
    shifted_at: float = 0.0
    """When the first user was moved; 0 if none was (a rolled-back rollout was then refused)."""
    decided_at: float = 0.0
    ended_at: float = 0.0
    paused: bool = False
    winner: str = ""
    """The release that gets all the users, once decided."""
    reason: str = ""
    log: str = ""
    """Last lines of the log of the instance that failed, when that is the reason."""
    evidence: Evidence = Evidence()
    waiting: str = ""
    """What it waits for, beside evidence and instances: an approval, an opening, the others of its train."""
    begin_at: float = 0.0
    """It does not begin before."""
    paused_until_at: float = 0.0
    """When a pause ends by itself; 0: when it is resumed."""
    stepped_back: bool = False
    """From all the users to the step before, once: there is something to compare with."""
    by_hand: int = -1
    """The share, in buckets, that was given it while it is paused, instead of the present step's; -1: none was."""
    skipped: int = -1
    """Index of the last step that was passed by hand, without evidence."""
    approvals: tuple[Approval, ...] = ()
    override: str = ""
    """Why no opening or freeze holds it back; empty: they do."""
    train: str = ""
    """Name of the train that it moves with."""
    baked_at: float = 0.0
    """When the watch after the promotion ended; 0: it goes on, or there is none."""
    undoes: int = 0
    """Number of the promoted rollout that this one takes back; 0: none."""
    called_off: bool = False
    """It was ended before it had begun."""
    automatic: bool = False
    """Begun by Gapless itself; it is never followed by another automatic one."""

    @property
    def keeping(self) -> bool:
        """The old pool stays for a while after the promotion."""
        return self.policy.keep_s > 0 and self.winner == self.after

    @property
    def refused(self) -> bool:
        return self.winner == self.before and not self.shifted_at
