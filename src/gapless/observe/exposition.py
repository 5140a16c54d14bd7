"""Reading and joining metrics as text (OpenMetrics 1.0, Prometheus 0.0.4). Pure.

Written for texts of known programs that are read every few seconds: a line's name and labels are taken apart only when
they are seen for the first time (see `recorder.head`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"

EXEMPLAR = " # {"
SUFFIXES = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
    "summary": ("_count", "_sum", "_created", ""),
    "info": ("_info",),
}
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def lines(text: str) -> Iterator[tuple[str, str]]:
    """(name with labels, value) of each sample; exemplars and time stamps are left out."""
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        cut = line.find(EXEMPLAR)
        sample = line if cut < 0 else line[:cut]
        end = sample.rfind("}") + 1 or sample.find(" ")
        if end > 0 and (rest := sample[end:].split()):
            yield sample[:end], rest[0]


def parted(series: str) -> tuple[str, dict[str, str]]:
    """A name and its labels: `a{b="c"}` → ("a", {"b": "c"})."""
    name, _, rest = series.partition("{")
    return name, {key: _unescaped(value) for key, value in _LABEL.findall(rest)}


def rendered(name: str, labels: Mapping[str, str]) -> str:
    """The other way round."""
    inner = ",".join(f'{key}="{escaped(value)}"' for key, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _unescaped(value: str) -> str:
    return _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], value) if "\\" in value else value


def wants_open(accept: str) -> bool:
    """Whether whoever asks understands OpenMetrics (by the header `Accept`)."""
    return "application/openmetrics-text" in accept


@dataclass(slots=True)
class _Family:
    kind: str
    help: str = ""
    samples: list[str] = field(default_factory=list)


def federated(targets: Iterable[tuple[Mapping[str, str], str]], *, open_metrics: bool) -> bytes:
    """The OpenMetrics texts of several targets as one, each sample with its target's labels. What two targets disagree
    about (a name that is a counter here and a gauge there) is left out of the second."""
    families: dict[str, _Family] = {}
    for labels, text in targets:
        _add(families, labels, text.splitlines())
    parts = [line for name, family in families.items() for line in _told(name, family, open_metrics)]
    return ("\n".join([*parts, *(["# EOF"] if open_metrics else [])]) + "\n").encode()


def _add(families: dict[str, _Family], labels: Mapping[str, str], text: Sequence[str]) -> None:
    present: _Family | None = None
    helps: dict[str, str] = {}
    for line in text:
        word, _, rest = line.partition(" ")
        if word == "#":
            kind, _, about = rest.partition(" ")
            name, _, value = about.partition(" ")
            if kind == "HELP":
                helps[name] = value
            elif kind == "TYPE":
                family = families.setdefault(name, _Family(value))
                present = family if family.kind == value else None
        elif line and present is not None:
            present.samples.append(_with(line, labels))
    for name, value in helps.items():
        if name in families and not families[name].help:
            families[name].help = value


def _with(line: str, labels: Mapping[str, str]) -> str:
    """A sample's line with more labels in front; a label of its own by the same name gives way."""
    cut = line.find(EXEMPLAR)
    head = line if cut < 0 else line[:cut]
    end = head.rfind("}") + 1 or head.find(" ")
    name, own = parted(head[:end])
    known = {key: value for key, value in labels.items() if value}
    return rendered(name, {**known, **{k: v for k, v in own.items() if k not in known}}) + line[end:]


def _told(name: str, family: _Family, open_metrics: bool) -> list[str]:
    if open_metrics:
        head = [*([f"# HELP {name} {family.help}"] if family.help else []), f"# TYPE {name} {family.kind}"]
        return head + family.samples
    shown = f"{name}_total" if family.kind == "counter" else name
    kind = "untyped" if family.kind == "unknown" else family.kind
    head = [*([f"# HELP {shown} {family.help}"] if family.help else []), f"# TYPE {shown} {kind}"]
    return head + [sample.partition(EXEMPLAR)[0] for sample in family.samples]
