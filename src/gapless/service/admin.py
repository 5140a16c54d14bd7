"""What the admin socket tells about all the workers of an instance together.

The master calls these with what its workers report (`Service.samples()`, `Service.health()`); it has no metrics itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gapless.core.phase import Phase
from gapless.observe.metrics import Sample

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

WORST_FIRST = (Phase.UNREADY, Phase.READY, Phase.STARTING, Phase.DRAINING, Phase.STOPPED)
"""An instance is unready as soon as one worker that accepts requests is, and ready when others only start or drain:
those accept none."""


def merge(list_of_samples: Iterable[Sequence[Sample]]) -> list[Sample]:
    """The samples of several workers as one: counters, histograms and gauges summed by labels. Workers of different
    builds may differ in a metric's shape: histograms move to the first one's bounds, other clashes are left out."""
    merged: dict[str, Sample] = {}
    for samples in list_of_samples:
        for sample in samples:
            into = merged.get(sample["name"])
            if into is None:
                merged[sample["name"]] = {**sample, "values": [[list(k), v] for k, v in sample["values"]]}
            elif into["kind"] == sample["kind"] and set(sample["labels"]) <= set(into["labels"]):
                sample = _with_labels(sample, into["labels"])
                into["values"] = _summed(into, sample)
                if into["kind"] == "histogram":
                    into["exemplars"] = _latest(into, sample)
    return list(merged.values())


def _with_labels(sample: Sample, labels: Sequence[str]) -> Sample:
    """In the order of these labels; those that it does not have, because it is of an older build, are empty."""
    if sample["labels"] == labels:
        return sample

    def wider(rows: Iterable[Any]) -> list[Any]:
        named = ((dict(zip(sample["labels"], key, strict=True)), rest) for key, rest in rows)
        return [[[key.get(label, "") for label in labels], rest] for key, rest in named]

    return {**sample, "values": wider(sample["values"]), "exemplars": wider(sample.get("exemplars", ()))}


def _latest(into: Sample, sample: Sample) -> list[Any]:
    """Exemplars of both, the latest for each bucket."""
    found = {tuple(key): {place: rest for place, *rest in rows} for key, rows in into.get("exemplars", ())}
    if sample["bounds"] == into["bounds"]:
        for key, rows in sample.get("exemplars", ()):
            mine = found.setdefault(tuple(key), {})
            for place, *rest in rows:
                mine[place] = max(mine.get(place, rest), rest, key=lambda one: one[2])
    return [[list(key), [[place, *rest] for place, rest in rows.items()]] for key, rows in found.items()]


def _summed(into: Sample, sample: Sample) -> list[Any]:
    values = {tuple(labels): state for labels, state in into["values"]}
    for labels, state in sample["values"]:
        if into["kind"] == "histogram":
            state = rebinned(state, sample["bounds"], into["bounds"])
        known = values.get(tuple(labels))
        values[tuple(labels)] = state if known is None else _plus(known, state)
    return [[list(labels), state] for labels, state in values.items()]


def _plus(one: Any, other: Any) -> Any:
    return [a + b for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one + other


def rebinned(state: Sequence[float], bounds: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """A histogram's `[sum, counts …]` in other buckets: each count goes where its old upper bound falls."""
    if list(bounds) == list(wanted):
        return list(state)
    counts = [0.0] * (len(wanted) + 1)
    for bound, n in zip(bounds, state[1:], strict=False):
        counts[bisect_left(wanted, bound)] += n
    counts[-1] += state[-1]
    return [state[0], *counts]


def render(samples: Iterable[Sample], *, open_metrics: bool = False) -> bytes:
    """Prometheus text format 0.0.4, or OpenMetrics 1.0, which alone shows exemplars."""
    from prometheus_client import exposition
    from prometheus_client.openmetrics import exposition as openmetrics

    class Collected:
        def collect(self) -> list[Metric]:
            return [_metric(sample) for sample in samples]

    write: Callable[[Collected], bytes] = openmetrics.generate_latest if open_metrics else exposition.generate_latest
    return write(Collected())


def _metric(sample: Sample) -> Metric:
    from prometheus_client import metrics_core as types

    name, text, labels = sample["name"], sample["help"], sample["labels"]
    if sample["kind"] == "histogram":
        histogram = types.HistogramMetricFamily(name, text, labels=labels)
        exemplars = {tuple(key): rows for key, rows in sample.get("exemplars", ())}
        for key, state in sample["values"]:
            buckets = _exemplified(_cumulative(sample["bounds"], state[1:]), exemplars.get(tuple(key), ()))
            histogram.add_metric(key, buckets, state[0])
        return histogram
    kind = types.CounterMetricFamily if sample["kind"] == "counter" else types.GaugeMetricFamily
    family = kind(name, text, labels=labels)
    for key, value in sample["values"]:
        family.add_metric(key, value)
    return family


def _exemplified(buckets: list[Any], rows: Iterable[Any]) -> list[Any]:
    from prometheus_client.samples import Exemplar

    for place, trace_id, value, at in rows:
        if place < len(buckets):
            buckets[place] = (*buckets[place], Exemplar({"trace_id": trace_id}, value, at))
    return buckets


def _cumulative(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    total, buckets = 0.0, []
    for bound, n in zip([*map(repr, bounds), "+Inf"], counts, strict=True):
        total += n
        buckets.append((bound, total))
    return buckets


def aggregate(healths: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The health of an instance from that of its workers, in the same JSON shape, with `workers`: how many are in which
    phase. A check passes when it passes in every worker; otherwise a failing worker's report is shown."""
    if not healths:
        return {
            "status": Phase.STOPPED.value,
            "service": "",
            "release": "",
            "instance": "",
            "checks": {},
            "time": "",
            "workers": {},
        }
    statuses = [health["status"] for health in healths]
    worst = next(phase for phase in WORST_FIRST if phase.value in statuses)
    checks: dict[str, Any] = {}
    for health in healths:
        for name, check in health["checks"].items():
            if name not in checks or check["status"] == "fail":
                checks[name] = check
    newest = max(healths, key=lambda health: str(health["time"]))
    workers = {status: statuses.count(status) for status in sorted(set(statuses))}
    return {**newest, "status": worst.value, "checks": checks, "workers": workers}
