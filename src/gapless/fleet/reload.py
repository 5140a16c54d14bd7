"""What an instance's answer to `POST /reload` means."""

from __future__ import annotations

import json
from typing import Any

from gapless.core.errors import Busy, ReloadRefused
from gapless.fleet.admin import Answer


def read_answer(instance: str, answer: Answer) -> str:
    """What happened, for people. Raises Busy, ReloadRefused."""
    told = _parse(answer.text)
    if answer.status == 200:
        return _describe(told) or answer.text
    why = "\n".join([str(told.get("error", answer.text)), *map(str, told.get("log", ()))])
    remedy = str(told.get("remedy", ""))
    if answer.status == 409:
        raise Busy(f"instance {instance}: {why}", remedy)
    if answer.status == 422:
        raise ReloadRefused(f"instance {instance} carries on with the code that it has: {why}", remedy)
    raise ReloadRefused(f"instance {instance} answered {answer.status} to the reload: {why}", remedy)


def _parse(text: str) -> dict[str, Any]:
    """Empty for what is no JSON object: another version may answer in plain words."""
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _describe(told: dict[str, Any]) -> str:
    stages = [f"{stage['name']} after {stage['took_s'] * 1000:.0f} ms" for stage in told.get("stages", ())]
    return f"generation {told.get('generation')}: {', '.join(stages)}" if stages else ""
