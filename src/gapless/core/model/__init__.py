"""The vocabulary as frozen values: what the store holds and what the layers hand to each other.

Durations end in `_s` (seconds), moments in `_at` (seconds since the epoch). Weights are buckets out of 10,000, so that
a share of 1 % is 100 and every user has one stable place, its bucket.
"""

from __future__ import annotations

from gapless.core.model.address import Address
from gapless.core.model.calendar import Calendar, Freeze, Opening
from gapless.core.model.change import Change, Difference, Undo
from gapless.core.model.gates import Gate, GateKind, GateResult, GateState, MirrorRule
from gapless.core.model.gateway import Certificate, Cors, Door, Entrance, Fault, Protocol, Upstream
from gapless.core.model.metric import DerivedMetric
from gapless.core.model.network import Network
from gapless.core.model.rollout import (
    Amount,
    Approval,
    Evidence,
    JudgedBy,
    Objective,
    Rollout,
    RolloutPolicy,
    RolloutState,
    Seen,
    StepRule,
    Strategy,
    Train,
)
from gapless.core.model.routing import (
    BUCKETS,
    Condition,
    Endpoint,
    Exceptions,
    Group,
    Override,
    PathKind,
    Retries,
    Route,
    RouteTable,
    ServiceTable,
    Split,
    SplitBy,
    ValueKind,
    bucket_of,
)
from gapless.core.model.service import Instance, Pool, Release, Service
from gapless.core.model.verdict import Better, MetricEvidence, MetricRule, NoEvidence, Reading
from gapless.core.model.window import HISTOGRAM_BOUNDS_S, WARM_UP_REQUESTS, WARM_UP_S, Window
from gapless.core.phase import Phase

__all__ = [
    "BUCKETS",
    "HISTOGRAM_BOUNDS_S",
    "WARM_UP_REQUESTS",
    "WARM_UP_S",
    "Address",
    "Amount",
    "Approval",
    "Better",
    "Calendar",
    "Certificate",
    "Change",
    "Condition",
    "Cors",
    "DerivedMetric",
    "Difference",
    "Door",
    "Endpoint",
    "Entrance",
    "Evidence",
    "Exceptions",
    "Fault",
    "Freeze",
    "Gate",
    "GateKind",
    "GateResult",
    "GateState",
    "Group",
    "Instance",
    "JudgedBy",
    "MetricEvidence",
    "MetricRule",
    "MirrorRule",
    "Network",
    "NoEvidence",
    "Objective",
    "Opening",
    "Override",
    "PathKind",
    "Phase",
    "Pool",
    "Protocol",
    "Reading",
    "Release",
    "Retries",
    "Rollout",
    "RolloutPolicy",
    "RolloutState",
    "Route",
    "RouteTable",
    "Seen",
    "Service",
    "ServiceTable",
    "Split",
    "SplitBy",
    "StepRule",
    "Strategy",
    "Train",
    "Undo",
    "Upstream",
    "ValueKind",
    "Window",
    "bucket_of",
]
