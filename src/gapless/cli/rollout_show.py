"""`gapless rollout NAME show`: a rollout drawn in the terminal, from the looks that the control plane has kept."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from gapless.cli.draw import ASCII, LEFT, Marks, chart, fitted, meter, strip

WIDEST = 110
DECISIONS = 12
"""The newest, in a drawing; `gapless changes` has all."""
STYLES = {"head": "bold", "part": "dim", "bad": "red", "good": "green", "": ""}

Line = tuple[str, str]
"""Style and text."""


def show(answer: dict[str, Any]) -> None:
    """Print it: in colour on a terminal, else as plain text."""
    import shutil
    import sys

    from gapless.cli.output import line, on_terminal

    width = min(shutil.get_terminal_size((80, 24)).columns, WIDEST)
    marks = Marks() if (sys.stdout.encoding or "").lower().startswith("utf") else ASCII
    lines = drawn(answer, width, marks)
    if not on_terminal():
        for _, text in lines:
            line(text)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(width=max(width, 20))
    for style, text in lines:
        console.print(Text(text, style=STYLES[style]), soft_wrap=True)


def drawn(answer: dict[str, Any], width: int, marks: Marks) -> list[Line]:
    """All of it, line by line, none wider than `width` but reasons, which are cut there."""
    from gapless.cli.gates_view import gates_lines
    from gapless.cli.watch import describe

    rollout, looks = answer["rollout"], answer["looks"]
    lines: list[Line] = [("head", f"rollout {rollout['number']} of {describe(rollout)}"), ("", _steps(rollout))]
    lines += _plain(gates_lines(rollout))
    if looks:
        lines += _charts(answer, looks, width, marks)
        lines += _meters(answer, looks[-1], width, marks)
    else:
        lines.append(("part", "no look at it is kept: no user has met it"))
    lines += _decisions(answer["decisions"], width, marks)
    return [(style, fitted(text, width, marks.gap)) for style, text in lines]


def _steps(rollout: dict[str, Any]) -> str:
    steps = " > ".join(
        f"[{weight:.4g} %]" if place == rollout["step"] else f"{weight:.4g} %"
        for place, weight in enumerate(share * 100 for share in rollout["steps"])
    )
    return f"{rollout['strategy']}: {steps}"


def _charts(answer: dict[str, Any], looks: list[dict[str, Any]], width: int, marks: Marks) -> list[Line]:
    limits = answer["limits"]
    letters = {"stable": marks.stable, "canary": marks.canary}
    key = f"{marks.canary} {answer['rollout']['after']}  {marks.stable} {answer['rollout']['before']}"
    share = [(look["at"], look["share"]) for look in looks]
    lines: list[Line] = [
        ("part", f"{_clock(looks[0]['at'])} to {_clock(looks[-1]['at'])} UTC    {key}"),
        ("", f"{'users':>{LEFT - 1}} {strip(share, width, marks.steps)}"),
        *_bake(answer["rollout"], looks, width, marks),
        ("", ""),
        ("head", f"error rate ({marks.limit} the permitted {limits['max_error_rate']:.3g})"),
    ]
    errors = {side: _rates(looks, side) for side in ("stable", "canary")}
    lines += _plain(
        chart(errors, limits["max_error_rate"], width, marks=letters, limit_mark=marks.limit, text=_percent)
    )
    p99s = {side: [(look["at"], p) for look in looks if (p := look[f"{side}_p99_s"])] for side in ("stable", "canary")}
    stable = [value for _, value in p99s["stable"]]
    limit = limits["max_p99_ratio"] * stable[-1] if stable else 0.0
    if p99 := chart(p99s, limit, width, marks=letters, limit_mark=marks.limit, text=_millis):
        lines += [("", ""), ("head", f"p99 ({marks.limit} {limits['max_p99_ratio']:g} x the stable one)"), *_plain(p99)]
    return lines


def _bake(rollout: dict[str, Any], looks: list[dict[str, Any]], width: int, marks: Marks) -> list[Line]:
    """Where it was promoted, and only watched from then on."""
    promoted_at = rollout["ended_at"] if rollout["state"] == "promoted" else 0.0
    watched = [(look["at"], float(0 < promoted_at <= look["at"])) for look in looks]
    if not any(baked for _, baked in watched):
        return []
    return [("", f"{'bake':>{LEFT - 1}} {strip(watched, width, f' {marks.full}')}".rstrip())]


def _plain(texts: list[str]) -> list[Line]:
    return [("", text) for text in texts]


def _rates(looks: list[dict[str, Any]], side: str) -> list[tuple[float, float]]:
    return [(look["at"], look[f"{side}_errors"] / requests) for look in looks if (requests := look[f"{side}_requests"])]


def _meters(answer: dict[str, Any], last: dict[str, Any], width: int, marks: Marks) -> list[Line]:
    """How near each e-process is to rolling back, over time and now, on a logarithmic scale."""
    limit = last["e_limit"]
    largest = [(look["at"], max(look["e_errors"], look["e_slow"], look["e_broken"], 1.0)) for look in answer["looks"]]
    rows = chart(
        {"canary": largest},
        limit,
        width,
        marks={"canary": marks.canary},
        limit_mark=marks.limit,
        text=lambda value: _short(value or 1.0),
        scale=lambda value: math.log10(max(value, 1.0)),
    )
    lines: list[Line] = [("", ""), ("head", f"evidence against it, E ({marks.limit} rolls back at {limit:g})")]
    lines += _plain(rows)
    for name, what in (("e_errors", "errors"), ("e_slow", "slow"), ("e_broken", "limit")):
        value = last[name]
        bar = meter(value, limit, width - LEFT - 24, marks.full)
        lines.append(("bad" if value >= limit else "", f"{what:>{LEFT - 1}} {bar} E {_short(value)}"))
    power, wanted = last["power"], answer["limits"]["power"]
    bar = _bar(power, width - LEFT - 24, marks)
    lines.append(("good" if power >= wanted else "", f"{'power':>{LEFT - 1}} {bar} {power:.0%} of {wanted:.0%}"))
    lines += [("", f"{name}: {value:g}") for name, value in sorted(last["metrics"].items())]
    return lines


def _bar(part: float, width: int, marks: Marks) -> str:
    columns = max(min(width, 40), 10)
    filled = round(min(max(part, 0.0), 1.0) * columns)
    return f"[{marks.full * filled}{' ' * (columns - filled)}]"


def _decisions(decisions: list[dict[str, Any]], width: int, marks: Marks) -> list[Line]:
    if not decisions:
        return []
    lines: list[Line] = [("", ""), ("head", "decisions")]
    if len(decisions) > DECISIONS:
        lines.append(("part", f"  {marks.gap} {len(decisions) - DECISIONS} before"))
    for change in decisions[-DECISIONS:]:
        by = "" if change["who"] == "gapless" else f" by {change['who']}"
        lines.append(("", f"{_clock(change['at'])}  {change['number']:>4}  {change['what']}{by}"))
        if change["why"]:
            lines.append(("part", f"{'':16}{change['why']}"))
    return lines


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _millis(value: float) -> str:
    return f"{value * 1000:.0f} ms"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1e5 else f"{value:.0e}"
