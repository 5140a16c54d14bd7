"""The looks at a rollout: what a drawing of it is made of."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gapless.control.changelog import change_status
from gapless.control.plane import ControlPlane
from gapless.control.status import rollout_view
from gapless.core.errors import UnknownName
from gapless.core.model import BUCKETS, Rollout
from gapless.core.model.look import Look


def look_routes(plane: ControlPlane) -> list[Route]:
    """`…/rollouts/0/looks` are those of the newest rollout."""

    async def looks(request: Request) -> Response:
        rollout = _found(plane, request.path_params["service"], request.path_params["number"])
        kept = await plane.lookbook.looks(rollout.service, rollout.number)
        return JSONResponse(_answer(plane, rollout, kept))

    return [Route("/v1/services/{service}/rollouts/{number:int}/looks", looks)]


def _found(plane: ControlPlane, name: str, number: int) -> Rollout:
    plane.commands.known(name)
    kept = {rollout.number: rollout for rollout in plane.records.rollouts(name)}
    found = kept.get(number or max(kept, default=0))
    if found is None:
        what = f"{name} has had no rollout {number}" if number else f"{name} has had no rollout yet"
        raise UnknownName(what, f"Begin one: `gapless deploy {name} --release …`.")
    return found


def _answer(plane: ControlPlane, rollout: Rollout, looks: list[Look]) -> dict[str, Any]:
    """`looks`: oldest first; `decisions`: its part of the change log, oldest first; `limits`: the pass and fail lines,
    shares 0…1 and multiples."""
    service = plane.records.service(rollout.service)
    objective = service.objective if service else None
    mine = [
        change_status(plane.records, change)
        for change in plane.records.all_changes()
        if (change.service, change.rollout) == (rollout.service, rollout.number)
    ]
    return {
        "rollout": rollout_view(plane.records, rollout),
        "limits": {
            "max_error_rate": objective.max_error_rate if objective else 0.0,
            "max_p99_ratio": objective.max_p99_ratio if objective else 0.0,
            "alpha": rollout.policy.alpha,
            "power": rollout.policy.power,
            "samples": rollout.policy.min_samples,
            "hold_s": rollout.policy.hold_s,
        },
        "looks": [{**msgspec.to_builtins(look), "share": look.weight / BUCKETS} for look in looks],
        "decisions": mine[::-1],
    }
