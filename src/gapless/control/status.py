"""The state of the system as plain data, for people and for machines."""

from __future__ import annotations

from typing import Any

from gapless.control.records import Records
from gapless.core.model import BUCKETS, Instance, Phase, Rollout, Service
from gapless.rollout.wanted import plan_of, weight_of


def service_status(records: Records, service: Service) -> dict[str, Any]:
    """One service: releases with their share, instances, and the newest rollout."""
    split, pool = records.split(service.name), records.pool(service.name)
    instances = records.instances(service.name)
    return {
        "stable": split.stable if split else "",
        "split": {release: weight / BUCKETS for release, weight in split.weights} if split else {},
        "wanted": dict(pool.sizes) if pool else {},
        "ready": sum(i.phase is Phase.READY for i in instances),
        "instances": [instance_status(i) for i in instances],
        "rollout": rollout_status(newest) if (newest := records.rollout(service.name)) else None,
    }


def instance_status(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "release": instance.release,
        "phase": str(instance.phase),
        "address": str(instance.address),
        "pid": instance.pid,
        "since": instance.since_at,
        "failed": instance.failed,
        "detail": instance.detail,
    }


def rollout_status(rollout: Rollout) -> dict[str, Any]:
    """A rollout with its present share and the numbers that people ask for."""
    return {
        "number": rollout.number,
        "service": rollout.service,
        "before": rollout.before,
        "after": rollout.after,
        "strategy": str(rollout.policy.strategy),
        "state": str(rollout.state),
        "step": rollout.step,
        "steps": [step.weight / BUCKETS for step in plan_of(rollout)],
        "share": weight_of(rollout) / BUCKETS,
        "paused": rollout.paused,
        "refused": rollout.refused,
        "winner": rollout.winner,
        "reason": rollout.reason,
        "log": rollout.log,
        "started_at": rollout.started_at,
        "shifted_at": rollout.shifted_at,
        "decided_at": rollout.decided_at,
        "ended_at": rollout.ended_at,
        "canary_requests": rollout.evidence.canary_requests,
        "canary_errors": rollout.evidence.canary_errors,
        "stable_requests": rollout.evidence.stable_requests,
        "stable_errors": rollout.evidence.stable_errors,
        "users_met": rollout.evidence.users_met,
    }
