"""Guards as a document (YAML, and so JSON): names, and below each its policies, the outermost first.

    payments:
      deadline: 2s
      retry: {attempts: 3, budget: 20%}
      breaker: {rate: 50%, slow: 1s, window: 100, probes: 3}
      rate: {limit: 100/s, key: "{user}"}
      limit: {max: 200, adaptive: true}

A policy that is there twice goes into a list: `[rate: 100/s, rate: {limit: 5/s, key: "{user}"}]`. All that is wrong is
told at once, with line, key and what would be right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gapless.core.errors import ConfigError
from gapless.resilience.policy import Policy

if TYPE_CHECKING:
    import yaml

Place = tuple[str | int, ...]
Values = Mapping[str, Any]

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|min|m|h)?")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a line (from 1)."""

    line: int
    place: str
    what: str


@dataclass(slots=True)
class Draft:
    """What a document says, as far as it can be understood."""

    guards: dict[str, tuple[Policy, ...]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kind:
    """A policy's keys, how their texts are read, and what is made of them.

    `short`: the key that a plain value means.
    """

    keys: Mapping[str, Callable[[str], Any]]
    make: Callable[[Values], Policy]
    short: str
    required: bool = True


def parse(text: str) -> Draft:
    """Never raises: what is wrong is in `problems`."""
    import yaml

    draft = Draft()
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        draft.problems.append(Problem(mark.line + 1 if mark else 1, "", f"this is not YAML: {error.problem}"))
        return draft
    except yaml.YAMLError as error:
        draft.problems.append(Problem(1, "", f"this is not YAML: {' '.join(str(error).split())}"))
        return draft
    if root is None:  # what an editor's truncated file looks like for a moment
        draft.problems.append(Problem(1, "", "there is nothing here; write {} to have no guards"))
    else:
        _Reader(draft).guards(root)
    return draft


def kinds() -> Mapping[str, Kind]:
    """The policies that a document can name."""
    return {
        "deadline": Kind({"limit": seconds}, _deadline, "limit"),
        "retry": Kind(_RETRY, _retry, "attempts", required=False),
        "hedge": Kind(_HEDGE, _hedge, "after", required=False),
        "cache": Kind(_CACHE, _cache, "ttl"),
        "breaker": Kind(_BREAKER, _breaker, "rate", required=False),
        "rate": Kind(_RATE, _rate, "limit"),
        "limit": Kind(_LIMIT, _limit, "max"),
    }


# Texts to values. Each raises ValueError with what would be right.


def seconds(text: str) -> float:
    found = _TIME.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise ValueError('not a time above 0; write for instance "2s", "500ms" or "1m"')
    return float(found[1]) * _UNITS_S[found[2] or ""]


def share(text: str) -> float:
    found = _SHARE.fullmatch(text.strip())
    if not found or not 0 < float(found[1]) <= 100:
        raise ValueError('not a share above 0; write it with the sign, for instance "50%"')
    return float(found[1]) / 100


def whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError("not a whole number")
    return int(text)


def flag(text: str) -> bool:
    if text.strip().lower() not in _FLAGS:
        raise ValueError("neither true nor false")
    return _FLAGS[text.strip().lower()]


def span(text: str) -> int | str:
    """Calls or a time, as `last` takes them."""
    return int(text) if text.strip().isdecimal() else text.strip()


def principal(text: str) -> str:
    known = {"all": "", "user": "{user}", "address": "{address}"}
    if text not in known:
        raise ValueError(f'none of {", ".join(known)}; other keys are templates: key: "{{tenant}}"')
    return known[text]


def _after(text: str) -> float | str:
    return text.strip() if text.strip().startswith("p") else seconds(text)


_RETRY: Mapping[str, Callable[[str], Any]] = {
    "attempts": whole, "budget": share, "idempotent": flag, "key": str, "each": seconds, "base": seconds,
    "cap": seconds, "longest": seconds,
}  # fmt: skip
_HEDGE: Mapping[str, Callable[[str], Any]] = {
    "after": _after, "max": whole, "share": share, "budget": share, "idempotent": flag, "key": str,
}  # fmt: skip
_CACHE: Mapping[str, Callable[[str], Any]] = {
    "ttl": seconds, "key": str, "stale": seconds, "if_error": seconds, "negative": seconds,
}  # fmt: skip
_BREAKER: Mapping[str, Callable[[str], Any]] = {
    "rate": share, "slow": seconds, "slow_rate": share, "window": span, "minimum": whole, "probes": whole,
    "open_for": seconds, "shadow": flag,
}  # fmt: skip
_RATE: Mapping[str, Callable[[str], Any]] = {
    "limit": str, "burst": whole, "by": principal, "key": str, "mode": str, "queue": whole, "hot": whole, "shared": str,
    "leased": flag,
}  # fmt: skip
_LIMIT: Mapping[str, Callable[[str], Any]] = {
    "max": whole, "adaptive": flag, "min": whole, "queue": whole, "wait": seconds, "order": str, "priority": str,
}  # fmt: skip


# Values to policies. Each raises ConfigError.


def _deadline(given: Values) -> Policy:
    from gapless.resilience.deadline_layer import deadline

    return deadline(given["limit"])


def _retry(given: Values) -> Policy:
    from gapless.resilience.budget import ratio
    from gapless.resilience.retry_layer import retry

    rest = {key: value for key, value in given.items() if key != "budget"}
    return retry(**rest, budget=ratio(given["budget"]) if "budget" in given else None)


def _hedge(given: Values) -> Policy:
    from gapless.resilience.budget import ratio
    from gapless.resilience.hedge import hedge

    rest = {key: value for key, value in given.items() if key != "budget"}
    return hedge(**rest, budget=ratio(given["budget"]) if "budget" in given else None)


def _cache(given: Values) -> Policy:
    from gapless.resilience.cache import cache

    return cache(**given)


def _breaker(given: Values) -> Policy:
    from gapless.resilience.breaker import breaker

    return breaker(**given)


def _rate(given: Values) -> Policy:
    from gapless.resilience.rate import leased, rate, top

    if "by" in given and "key" in given:
        raise ConfigError("rate: by and key say the same", "Keep one of them.")
    rest = {key: value for key, value in given.items() if key not in ("limit", "by", "key", "hot", "leased")}
    if given.get("leased"):
        rest["shared"] = leased(given.get("shared"))
    key = given.get("key", given.get("by", ""))
    return rate(given["limit"], key=key, hot=top(given["hot"]) if "hot" in given else None, **rest)


def _limit(given: Values) -> Policy:
    from gapless.resilience.limit import adaptive, limit

    least, most = given.get("min"), given["max"]
    if least is not None and not given.get("adaptive"):
        raise ConfigError("limit: only an adaptive one has a min", "Add adaptive: true, or leave out min.")
    rest = {key: value for key, value in given.items() if key not in ("max", "adaptive", "min")}
    return limit(adaptive(most, least or 1) if given.get("adaptive") else most, **rest)


@dataclass(slots=True)
class _Reader:
    """Walks the nodes; whatever cannot be understood becomes a problem."""

    draft: Draft
    known: Mapping[str, Kind] = field(default_factory=kinds)

    def guards(self, root: yaml.Node) -> None:
        for name, key, value in self._pairs(root, ()):
            self.draft.lines[name] = key.start_mark.line + 1
            self.draft.guards[name] = tuple(self._policies(value, (name,)))

    def _policies(self, node: yaml.Node, place: Place) -> Iterator[Policy]:
        import yaml

        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            for kind, key, value in self._pairs(part, place, twice=len(parts) > 1):
                if kind in self.known:
                    yield from self._policy(self.known[kind], value, (*place, kind))
                else:
                    self._complain(key, (*place, kind), f"unknown policy{_meant(kind, self.known)}")

    def _policy(self, kind: Kind, node: yaml.Node, place: Place) -> Iterator[Policy]:
        before = len(self.draft.problems)
        given = self._values(kind, node, place)
        if len(self.draft.problems) > before:
            return
        if kind.required and kind.short not in given:
            self._complain(node, (*place, kind.short), "this key is missing")
            return
        try:
            yield kind.make(given)
        except ConfigError as error:
            self._complain(node, place, f"{error.what}: {error.remedy}")

    def _values(self, kind: Kind, node: yaml.Node, place: Place) -> dict[str, Any]:
        import yaml

        if isinstance(node, yaml.ScalarNode):
            plain = "" if node.tag.endswith(":null") else node.value
            return self._value(kind, kind.short, node, place) if plain else {}
        found: dict[str, Any] = {}
        for key, at, value in self._pairs(node, place):
            if key in kind.keys:
                found |= self._value(kind, key, value, (*place, key))
            else:
                self._complain(at, (*place, key), f"unknown key{_meant(key, kind.keys)}")
        return found

    def _value(self, kind: Kind, key: str, node: yaml.Node, place: Place) -> dict[str, Any]:
        import yaml

        if not isinstance(node, yaml.ScalarNode):
            self._complain(node, place, "not plain text")
            return {}
        try:
            return {key: kind.keys[key](node.value)}
        except ValueError as error:
            self._complain(node, place, f'"{node.value}": {error}')
            return {}

    def _pairs(self, node: yaml.Node, place: Place, twice: bool = False) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        import yaml

        if not isinstance(node, yaml.MappingNode):
            if not (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
                self._complain(node, place, "not a mapping (key: value)")
            return
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._complain(key, place, "a key must be plain text")
            elif key.value in seen:
                self._complain(key, (*place, key.value), f"this key is already there in line {seen[key.value]}")
            else:
                seen[key.value] = key.start_mark.line + 1
                yield key.value, key, value

    def _complain(self, node: yaml.Node, place: Place, what: str) -> None:
        self.draft.problems.append(Problem(node.start_mark.line + 1, ".".join(map(str, place)), what))


def _meant(written: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(written, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; known here: {', '.join(known)}"
