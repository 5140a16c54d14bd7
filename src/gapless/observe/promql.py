"""A `Selection` as PromQL. Pure; `evaluate` says the same over recorded points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gapless.core.ports import Selection
from gapless.observe.exposition import escaped


def promql(selection: Selection) -> str:
    """The instant query whose answer is one sample for each combination of the labels in `by`."""
    name, where, over = selection.metric, selection.where, f"[{duration(selection.over_s)}]"
    match selection.of:
        case "value":
            return _by("sum", selection.by, f"last_over_time({series(name, where)}{over})")
        case "max":
            return _by("max", selection.by, f"last_over_time({series(name, where)}{over})")
        case "quantile":
            rates = _by("sum", ("le", *selection.by), f"rate({series(f'{name}_bucket', where)}{over})")
            return f"histogram_quantile({selection.q!r}, {rates})"
        case "mean":
            sums, counts = (
                _by("sum", selection.by, f"rate({series(f'{name}_{part}', where)}{over})") for part in ("sum", "count")
            )
            return f"{sums} / {counts}"
        case of:
            counted = name if name.endswith("_total") else f"{name}_count"
            return _by("sum", selection.by, f"{of}({series(counted, where)}{over})")


def series(name: str, where: Mapping[str, str]) -> str:
    """`name{label="value"}`."""
    inner = ",".join(f'{key}="{escaped(value)}"' for key, value in where.items())
    return f"{name}{{{inner}}}" if inner else name


def duration(seconds: float) -> str:
    """As PromQL writes it, to the millisecond."""
    milliseconds = max(round(seconds * 1000), 1)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def _by(operator: str, labels: Iterable[str], inner: str) -> str:
    names = ", ".join(labels)
    return f"{operator} by ({names}) ({inner})" if names else f"{operator}({inner})"
