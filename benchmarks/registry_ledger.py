"""What clients of a registry were told, and what they find afterwards: the judge of registry_kills.py, without I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

ABSENT: Any = None
SHOWN = 20
"""Breaches that are worded; the rest is counted."""


@dataclass(slots=True)
class Known:
    """A thing that one client alone writes."""

    acknowledged: Any = ABSENT
    asked: tuple[Any, ...] = ()
    """What was asked for and not answered: it may have happened."""


@dataclass(slots=True)
class Seen:
    """The newest answer to a read."""

    index: int = 0
    content: str = ""


class Ledger:
    """`breaches` are promises that the registry broke, in words."""

    def __init__(self) -> None:
        self.breaches: list[str] = []
        self.more = 0
        """Breaches that are not worded."""
        self.compared = 0
        """How often something found was held against what was acknowledged."""
        self.in_doubt = 0
        """How often it was a write that nobody had answered."""
        self.indexes = 0
        self._known: dict[str, Known] = {}
        self._seen: dict[str, Seen] = {}

    def breach(self, text: str) -> None:
        if len(self.breaches) < SHOWN:
            self.breaches.append(text)
        else:
            self.more += 1

    # What was written.

    def asks(self, **things: Any) -> None:
        """A request is on its way that makes each of the things so."""
        for name, value in things.items():
            known = self._known.setdefault(name, Known())
            known.asked = (*known.asked, value)

    def acknowledged(self, **things: Any) -> None:
        """It was answered: they are so, and nothing else is."""
        for name, value in things.items():
            self._known[name] = Known(value)

    def known(self, name: str) -> Any:
        """As it was acknowledged or last found."""
        return self._known.get(name, Known()).acknowledged

    def found(self, name: str, value: Any) -> None:
        """It stands so, and has to stay so."""
        known = self._known.get(name, Known())
        self.compared += 1
        if value != known.acknowledged:
            if value in known.asked:
                self.in_doubt += 1
            else:
                asked = f" (under way: {known.asked})" if known.asked else ""
                self.breach(f"{name} is {value!r}, and {known.acknowledged!r} was acknowledged{asked}")
        self._known[name] = Known(value)

    # What was read.

    def index(self, path: str) -> int:
        """The highest seen; 0: none."""
        return self._seen.get(path, Seen()).index

    def answered(self, path: str, since: int, index: int, body: bytes) -> None:
        """A read that was sent when `since` was the highest index seen. Who waits for an index to rise must not miss a
        change: the same index tells of the same content."""
        self.indexes += 1
        if index < 1:
            self.breach(f"{path} has the index {index}, by which nobody can wait")
        if index < since:
            self.breach(f"the index of {path} went back from {since} to {index}")
        seen, content = self._seen.setdefault(path, Seen()), canonical(body)
        if index == seen.index and content != seen.content:
            self.breach(f"{path} changed and its index {index} did not: {seen.content[:300]} became {content[:300]}")
        if index > seen.index:
            seen.index, seen.content = index, content


def canonical(body: bytes) -> str:
    """JSON whose lists have no order, as those of the API have none."""
    return json.dumps(_ordered(json.loads(body)), sort_keys=True) if body else ""


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted(map(_ordered, value), key=lambda each: json.dumps(each, sort_keys=True))
    return value


class Counter:
    """A number that many raise by one, each by check-and-set: none of their steps may get lost."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._least = 0
        self._under_way = 0

    def asks(self) -> None:
        self._under_way += 1

    def answered(self, *, done: bool) -> None:
        self._under_way -= 1
        self._least += done

    def found(self, number: int) -> None:
        """While nobody asks."""
        if not self._least <= number <= self._least + self._under_way:
            self._ledger.breach(
                f"{self._least} steps were acknowledged, {self._under_way} were under way, {number} stand"
            )
        self._ledger.compared += 1
        self._least, self._under_way = number, 0
