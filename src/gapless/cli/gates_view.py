"""Gates and the mirror of a rollout, for people."""

from __future__ import annotations

from typing import Any

SIGNS = {"passed": "✓", "refused": "✗", "running": "…", "waiting": "·"}


def standing(rollout: dict[str, Any]) -> str:
    """How far the gates are, in a few words; empty when there are none, or nothing waits for them."""
    gates = rollout.get("gates") or []
    left = [gate["name"] for gate in gates if gate["state"] in ("running", "waiting")]
    if not left:
        return ""
    passed = sum(gate["state"] == "passed" for gate in gates)
    return f"{passed} of {len(gates)} gates passed, {', '.join(left)} under way"


def gates_lines(rollout: dict[str, Any]) -> list[str]:
    """A line for each gate, the last words of those that refuse, and where answers differ."""
    lines: list[str] = []
    for gate in rollout.get("gates") or []:
        head = f"  {SIGNS[gate['state']]} {gate['name']}: {gate['state']}"
        lines.append(f"{head}: {gate['reason']}" if gate["reason"] else head)
        if gate["state"] == "refused" and gate["output"]:
            lines += [f"      {text}" for text in gate["output"].splitlines()]
    return lines
