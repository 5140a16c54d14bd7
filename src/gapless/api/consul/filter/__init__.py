"""Filter expressions as Consul's clients write them: `Service == "web" and "prod" in Tags and not Meta.zone is empty`.

`tokens.py` cuts the text up, `parse.py` makes an expression of it, `match.py` says whether it is true of JSON data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from gapless.api.consul.answer import bad_request
from gapless.api.consul.filter.match import FilterMismatch, predicate
from gapless.api.consul.filter.parse import parse
from gapless.api.consul.filter.tokens import FilterError

Keep = Callable[[Any], bool]


@lru_cache(maxsize=256)
def filter_of(text: str) -> Keep:
    """Whether the expression is true of an object, as JSON has it. Raises Refusal (400), also when it is asked of data
    that the expression does not fit."""
    try:
        keep = predicate(parse(text))
    except FilterError as error:
        raise bad_request(f"Failed to create boolean expression evaluator: {error}") from error

    def kept(data: Any) -> bool:
        try:
            return keep(data)
        except FilterMismatch as error:
            raise bad_request(f"Failed to filter: {error}") from error

    return kept
