"""Whether what scanners have found is permitted."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.core.model.gates import SecurityGate
from gapless.rollout.reports.findings import SEVERITIES, Finding, findings
from gapless.rollout.reports.outcome import GateOutcome, counted, passes, refuses


def judge(text: str, age_s: float, gate: SecurityGate, now_at: float) -> GateOutcome:
    """`age_s`: of the file."""
    if age_s > gate.max_age_s:
        return refuses(
            f"{gate.file} is {age_s / 3600:.1f} h old, and may be {gate.max_age_s / 3600:.1f} h",
            numbers={"age_s": age_s},
        )
    try:
        found = findings(text)
    except ValueError as error:
        return refuses(f"{gate.file} cannot be read as a scan report: {error}")
    left, waived = _parted(found, gate, now_at)
    return _counted(left, waived, gate, now_at)


def _parted(found: Iterable[Finding], gate: SecurityGate, now_at: float) -> tuple[list[Finding], int]:
    """The findings that count, and how many are waived."""
    waived = {waiver.id for waiver in gate.waivers if waiver.until_at > now_at}
    everything = list(found)
    left = [one for one in everything if not waived & {one.id, *one.also}]
    return left, len(everything) - len(left)


def _counted(left: list[Finding], waived: int, gate: SecurityGate, now_at: float) -> GateOutcome:
    counts = {severity: sum(one.severity == severity for one in left) for severity in SEVERITIES}
    numbers = {**{severity: float(count) for severity, count in counts.items()}, "waived": float(waived)}
    over = [
        severity
        for severity in SEVERITIES
        if (limit := getattr(gate, severity)) is not None and counts[severity] > limit
    ]
    lines = "\n".join(_line(one, gate, now_at) for one in left if one.severity in over)
    if over:
        told = ", ".join(f"{counts[s]} {s} (permitted: {getattr(gate, s)})" for s in over)
        return refuses(f"{counted(sum(counts[s] for s in over), 'finding')} too severe: {told}", lines, numbers)
    return passes(f"{counted(len(left), 'finding')} within the limits, {waived} waived", numbers=numbers)


def _line(one: Finding, gate: SecurityGate, now_at: float) -> str:
    lapsed = any(w.id in (one.id, *one.also) and w.until_at <= now_at for w in gate.waivers)
    return f"{one.severity}: {one.id} {one.where} {one.what}{' (its waiver has lapsed)' if lapsed else ''}".rstrip()
