"""What `gapless load` says about a smoke load."""

from __future__ import annotations

import json
from typing import Any

from gapless.core.model.gates import SmokeGate
from gapless.rollout.reports.outcome import GateOutcome, passes, refuses

KEPT_UP = 0.5
"""A client that sent less than this share of the rate has proved nothing; machines are busy."""


def judge(text: str, gate: SmokeGate) -> GateOutcome:
    """`text`: the JSON of `gapless load --json`."""
    try:
        found: Any = json.loads(text)
        requests, lost = int(found["requests"]), sum(found["lost"].values())
        p99_s, rate = float(found["p99_s"]), float(found["rate"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return refuses("the load could not be run", text)
    numbers = {"requests": float(requests), "lost": float(lost), "p99_s": p99_s, "rate": rate}
    if not requests or rate < KEPT_UP * gate.rate:
        return refuses(f"only {rate:.3g} of {gate.rate:g} requests/s could be sent", text, numbers)
    if lost > gate.max_lost * requests:
        causes = ", ".join(f"{count} {cause}" for cause, count in found["lost"].items())
        return refuses(f"{lost} of {requests} requests were lost ({causes})", text, numbers)
    if p99_s > gate.p99_s:
        return refuses(f"p99 {p99_s * 1000:.0f} ms, and {gate.p99_s * 1000:.0f} ms are permitted", text, numbers)
    return passes(f"{requests} requests at {rate:.3g}/s, p99 {p99_s * 1000:.0f} ms", numbers=numbers)
