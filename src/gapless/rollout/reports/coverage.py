"""How much of the code tests have run: coverage.py's XML (Cobertura's) or JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from gapless.core.model.gates import CoverageGate
from gapless.rollout.reports.outcome import GateOutcome, passes, refuses
from gapless.rollout.reports.xml import parse


def judge(text: str, age_s: float, gate: CoverageGate) -> GateOutcome:
    """`age_s`: of the file."""
    if age_s > gate.max_age_s:
        return refuses(
            f"{gate.file} is {age_s / 3600:.1f} h old, and may be {gate.max_age_s / 3600:.1f} h",
            numbers={"age_s": age_s},
        )
    try:
        share = covered(text)
    except ValueError as error:
        return refuses(f"{gate.file} cannot be read as coverage: {error}")
    numbers = {"covered": share, "wanted": gate.at_least, "age_s": age_s}
    if share < gate.at_least:
        return refuses(f"{share:.1%} of the lines are covered, and {gate.at_least:.1%} are asked for", numbers=numbers)
    return passes(f"{share:.1%} of the lines are covered", numbers=numbers)


def covered(text: str) -> float:
    """The share (0…1) of lines. Raises ValueError."""
    share = _of_xml(text) if text.lstrip().startswith("<") else _of_json(text)
    if not math.isfinite(share) or not 0 <= share <= 1:
        raise ValueError(f"{share:g} is no share from 0 to 1")
    return share


def _of_xml(text: str) -> float:
    root = parse(text)
    if root.tag != "coverage" or "line-rate" not in root.attrib:
        raise ValueError("no <coverage line-rate=…> at its top")
    return float(root.attrib["line-rate"])


def _of_json(text: str) -> float:
    found: Any = json.loads(text)
    try:
        return float(found["totals"]["percent_covered"]) / 100
    except (KeyError, TypeError):
        raise ValueError("no totals.percent_covered in it") from None
