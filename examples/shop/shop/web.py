"""What the three services' handlers share: reading a request, and refusing one in clear words."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class Refusal(Exception):
    """Answer with this status and say why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def refused(_request: Request, error: Exception) -> Response:
    """Starlette's handler of a Refusal."""
    assert isinstance(error, Refusal)
    return JSONResponse({"error": str(error)}, error.status)


async def whole(request: Request) -> dict[str, Any]:
    """The body's JSON object."""
    try:
        found = json.loads(await request.body())
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refusal(400, "the body is not a JSON object")
    return found


def text(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise Refusal(422, f"{name} must be a text")
    return value


def positive(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise Refusal(422, f"{name} must be a whole number above 0")
    return value


def idempotency_key(request: Request) -> str:
    """Without it a retry could not be told from a second wish."""
    key = request.headers.get("idempotency-key", "")
    if not key:
        raise Refusal(400, "the header idempotency-key is missing: without it a retry would buy twice")
    return key
