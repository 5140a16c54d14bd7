"""SHIFTING: for each step instances first, then users, then looks until the analysis says promote or roll back."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.model import JudgedBy, Rollout
from gapless.rollout.analysis import FAILED_CHECKS, Decision
from gapless.rollout.forward import shift_to, win
from gapless.rollout.holds import PAUSED, Hold, hold, leash, wait
from gapless.rollout.scene import Move, Scene, act, go_back
from gapless.rollout.starting import START_TRIES, failed_again, refuse
from gapless.rollout.step_back import step_back, turning, uncompared
from gapless.rollout.wanted import new_needed, plan_of


def shift(rollout: Rollout, scene: Scene) -> Move | None:
    if harm := _harm(rollout, scene):
        return step_back(rollout, scene) if uncompared(rollout, scene) else go_back(rollout, harm, scene)
    if rollout.winner == rollout.after:
        if scene.ready(rollout) < new_needed(rollout):
            return refuse(rollout, scene)
        if held := leash(scene):
            return wait(rollout, held, scene)
        return win(rollout, rollout.reason, scene)
    if rollout.target > rollout.step:
        return _await(rollout, scene)
    if rollout.paused:
        return wait(rollout, Hold(why=PAUSED, told=False), scene)
    if not rollout.applied_at:
        return None
    return _pass(rollout, scene) if _passed(rollout, scene) else wait(rollout, None, scene)


def _harm(rollout: Rollout, scene: Scene) -> str:
    """Why the users must go back at once; empty when nothing says so."""
    old_news = turning(rollout) and scene.verdict.numbers["unhealthy"] < FAILED_CHECKS
    if scene.verdict.decision is Decision.ROLLBACK and not old_news:
        return scene.verdict.reason
    if scene.observed.gates.refusal:
        return scene.observed.gates.refusal
    if scene.deserted(rollout):
        return f"no ready instance of {rollout.after} is left for its users"
    failures = scene.failures(rollout)
    return failed_again(rollout, failures) if len(failures) >= START_TRIES else ""


def _passed(rollout: Rollout, scene: Scene) -> bool:
    if rollout.skipped >= rollout.step:
        return True
    own_s = plan_of(rollout)[rollout.step].hold_s or 0.0  # the analysis cuts the hold of the last step short
    return scene.verdict.decision is Decision.PROMOTE and scene.now_at - rollout.applied_at >= own_s


def _why(rollout: Rollout, scene: Scene) -> str:
    if rollout.skipped >= rollout.step:
        return "passed by hand"
    if rollout.policy.judged_by is JudgedBy.HEALTH:
        return f"judged by health alone: all instances ready, no crash in {scene.now_at - rollout.applied_at:.0f} s"
    return scene.verdict.reason


def _pass(rollout: Rollout, scene: Scene) -> Move | None:
    """The step is passed: on to the next one, or to the end."""
    why, ends = _why(rollout, scene), rollout.step + 1 == len(plan_of(rollout))
    held = hold(rollout, scene, rollout.step + 1)
    if held and (ends or held != leash(scene)):
        return wait(rollout, held, scene)
    if ends:
        return win(rollout, why, scene)
    rollout = replace(rollout, target=rollout.step + 1)
    if scene.ready(rollout) >= new_needed(rollout) and not held:
        return shift_to(rollout, rollout.target, why, scene)
    what = f"step {rollout.step + 1} passed, {new_needed(rollout)} instances wanted for the next"
    return replace(rollout, since_at=scene.now_at, waiting=""), (act(rollout, what, why, scene),)


def _await(rollout: Rollout, scene: Scene) -> Move | None:
    ready, needed = scene.ready(rollout), new_needed(rollout)
    if ready < needed:
        return refuse(rollout, scene)
    if held := hold(rollout, scene):
        return wait(rollout, held, scene)
    return shift_to(rollout, rollout.target, f"{ready} of {needed} instances of {rollout.after} are ready", scene)
