"""Durations and shares as people write them: `30s`, `500ms`, `2m`, `5%`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from gapless.core.model import BUCKETS

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def seconds(value: Any) -> float:
    """`30s`, `500ms`, `2m`, `1h` or a number of seconds. Raises ValueError."""
    found = _DURATION.fullmatch(str(value).strip())
    if not found:
        raise ValueError('not a duration; write for instance "30s", "500ms" or "2m"')
    return float(found[1]) * _UNITS_S[found[2] or ""]


def fraction(value: Any) -> float:
    """`5%` as 0.05. The sign is asked for, because a bare 1 may mean either. Raises ValueError."""
    found = _SHARE.fullmatch(str(value).strip())
    if not found:
        raise ValueError('not a share; write it with the sign, for instance "5%"')
    if float(found[1]) > 100:
        raise ValueError("more than 100%")
    return round(float(found[1]) / 100, 12)  # 99.9% is 0.999


def buckets(value: Any) -> int:
    """`5%` as 500 of the 10,000 buckets. Raises ValueError."""
    exact = fraction(value) * BUCKETS
    if exact <= 0 or abs(exact - round(exact)) > 1e-6:
        raise ValueError("a step is a multiple of 0.01%, above 0%")
    return round(exact)


_DURATION_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h)?$"}, {"type": "number", "minimum": 0}]}
)
SHARE_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}
_SHARE_SCHEMA = WithJsonSchema(SHARE_SCHEMA)

Duration = Annotated[float, BeforeValidator(seconds), _DURATION_SCHEMA]
PositiveDuration = Annotated[float, BeforeValidator(seconds), Field(gt=0), _DURATION_SCHEMA]
Share = Annotated[float, BeforeValidator(fraction), _SHARE_SCHEMA]
Step = Annotated[int, BeforeValidator(buckets), _SHARE_SCHEMA]
