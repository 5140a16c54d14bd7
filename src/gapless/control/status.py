"""The state of the system as plain data, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from gapless.control.records import Records
from gapless.core.configured import Config, ConfigStage
from gapless.core.model import BUCKETS, GateResult, Instance, Phase, Rollout, RolloutState, Service, Split
from gapless.rollout.bake import baking
from gapless.rollout.gates import names
from gapless.rollout.outline import Outline
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
        "rollout": rollout_view(records, newest) if (newest := records.rollout(service.name)) else None,
        "config": config_status(records.config(service.name)),
    }


def split_status(split: Split) -> dict[str, Any]:
    """The shares (0…1) that are wanted."""
    shares = {release: weight / BUCKETS for release, weight in split.weights}
    return {"service": split.service, "stable": split.stable, "shares": shares}


def config_status(config: Config) -> dict[str, Any]:
    """The revision of the live configuration in force (0: none), and the staged change under way or the last one."""
    return {"revision": config.current, "stage": stage_status(config.stage) if config.stage else None}


def stage_status(stage: ConfigStage) -> dict[str, Any]:
    """A staged change with the numbers that people ask for."""
    return {
        "service": stage.service,
        "number": stage.number,
        "before": stage.before,
        "state": str(stage.state),
        "members": list(stage.members),
        "reason": stage.reason,
        "started_at": stage.started_at,
        "applied_at": stage.applied_at,
        "ended_at": stage.ended_at,
        "requests": stage.evidence.canary_requests,
        "errors": stage.evidence.canary_errors,
        "others_requests": stage.evidence.stable_requests,
        "others_errors": stage.evidence.stable_errors,
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


def rollout_view(records: Records, rollout: Rollout) -> dict[str, Any]:
    """A rollout with what became of its gates."""
    results = records.gate_results(rollout.service, rollout.number)
    return {**rollout_status(rollout), "gates": gates_status(rollout, results)}


def gates_status(rollout: Rollout, results: Iterable[GateResult]) -> list[dict[str, Any]]:
    """Each gate of a rollout in the order of its policy; those without a result wait."""
    found = {result.name: result for result in results}
    return [_gate_status(name, found.get(name)) for name in names(rollout.policy)]


def _gate_status(name: str, result: GateResult | None) -> dict[str, Any]:
    if result is None:
        return {"name": name, "state": "waiting", "reason": ""}
    return {
        "name": name,
        "kind": str(result.kind),
        "state": str(result.state),
        "reason": result.reason,
        "output": result.output,
        "numbers": dict(result.numbers),
        "examples": list(result.examples),
        "started_at": result.started_at,
        "ended_at": result.ended_at,
        "cached_from": result.cached_from,
    }


def _aftermath(rollout: Rollout) -> dict[str, float]:
    """Until when the old pool is kept, and the promoted release watched; 0: not, or no longer."""
    promoted = rollout.state is RolloutState.PROMOTED
    return {
        "kept_until_at": rollout.ended_at + rollout.policy.keep_s if promoted and rollout.keeping else 0.0,
        "bakes_until_at": rollout.ended_at + rollout.policy.bake_s if baking(rollout) else 0.0,
    }


def outline_status(outline: Outline) -> dict[str, Any]:
    """A dry run."""
    found: dict[str, Any] = msgspec.to_builtins(outline)
    return found


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
        "paused_until_at": rollout.paused_until_at,
        "by_hand": rollout.by_hand >= 0,
        "waiting": rollout.waiting,
        "begin_at": rollout.begin_at,
        "override": rollout.override,
        "train": rollout.train,
        "undoes": rollout.undoes,
        "automatic": rollout.automatic,
        "approvals": [msgspec.to_builtins(approval) for approval in rollout.approvals],
        **_aftermath(rollout),
        "refused": rollout.refused,
        "called_off": rollout.called_off,
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
