"""Secrets do not belong into logs: values of tell-tale keys, wherever they are, and what looks like a card's number.
Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "[redacted]"
KEYS = (
    "password", "passwd", "secret", "token", "authorization", "cookie", "set-cookie", "api-key", "apikey", "x-api-key",
    "access-key", "private-key", "credential", "credentials", "card-number", "cvc", "cvv", "session-id",
)  # fmt: skip
"""A key hides its value when it is one of these, or ends in one behind a `_`, `-` or `.`, in any case; `_` is `-`."""
VARIABLE = "GAPLESS_LOG_REDACT"
"""Further keys, divided by commas."""
DEEPEST = 6
SHORTEST_CARD = 13

_PLAIN = frozenset({int, float, bool, type(None)})
_DIGITS = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w.-])")


class Redactor:
    """`keys`: further ones."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = tuple(dict.fromkeys([*KEYS, *(_plain(key) for key in keys if key)]))
        self._known: dict[str, bool] = {}
        words = "|".join(re.escape(key).replace(r"\-", "[-_ ]?") for key in self._keys)
        self._in_text = re.compile(
            rf"""(?i)((?:\b|_)(?:{words})["']?\s*[=:]\s*["']?)(?!\[redacted)((?:(?:bearer|basic)\s+)?[^\s,;&"'}}\])]+)"""
        )
        self._line = re.compile(r"""(?i)((?:cookie|authorization)["']?\s*[=:]\s*["']?)([^\n"']+)""")
        self._bearer = re.compile(r"(?i)\b(bearer\s+)[a-z0-9._~+/=-]{8,}")

    @classmethod
    def from_env(cls) -> Redactor:
        return cls(os.environ.get(VARIABLE, "").split(","))

    def hides(self, key: str) -> bool:
        found = self._known.get(key)
        if found is None:
            plain = _plain(key)
            found = any(plain == one or plain.endswith((f"-{one}", f".{one}")) for one in self._keys)
            if len(self._known) < 10_000:
                self._known[key] = found
        return found

    def text(self, text: str) -> str:
        """Values behind tell-tale keys in a message, tokens behind `Bearer`, and numbers of cards."""
        # Most messages have no sign that could stand between a key and its value; an address has no letters.
        if ("=" in text or ":" in text) and text.upper() != text.lower():
            text = self._in_text.sub(rf"\1{HIDDEN}", self._line.sub(rf"\1{HIDDEN}", text))
        if "earer " in text:
            text = self._bearer.sub(rf"\1{HIDDEN}", text)
        if len(text) < SHORTEST_CARD:
            return text
        return _DIGITS.sub(_without_card, text)

    def value(self, value: Any, depth: int = 0) -> Any:
        """Anything that was passed beside a message: mappings and lists are looked into."""
        if isinstance(value, str):
            return self.text(value)
        if depth >= DEEPEST:
            return value if isinstance(value, (int, float, bool, type(None))) else HIDDEN
        if isinstance(value, Mapping):
            return {str(k): HIDDEN if self.hides(str(k)) else self.value(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(each, depth + 1) for each in value]
        return value

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        known, shown = self._known, {}
        for key, value in fields.items():
            hidden = known.get(key)
            if self.hides(key) if hidden is None else hidden:
                value = HIDDEN
            elif type(value) is str:
                value = self.text(value)
            elif type(value) not in _PLAIN:
                value = self.value(value)
            shown[key] = value
        return shown


def _plain(key: str) -> str:
    return key.strip().lower().replace("_", "-").replace(" ", "-")


def _without_card(found: re.Match[str]) -> str:
    """A card's number may be followed by others: a status, a year."""
    text = number = found[0]
    while not is_card(number):
        number, blank, _ = number.rpartition(" ")
        if not blank:
            return text
    return HIDDEN + text[len(number) :]


def is_card(text: str) -> bool:
    """13 to 19 digits whose last one is right (ISO/IEC 7812, Luhn)."""
    digits = [int(sign) for sign in text if sign.isdigit()]
    doubled = [digit if n % 2 == 0 else sum(divmod(2 * digit, 10)) for n, digit in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0 and len(set(digits)) > 1
