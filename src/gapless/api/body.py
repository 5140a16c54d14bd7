"""What requests of the control plane's own API carry."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from gapless.control.commands import Author
from gapless.core.errors import GaplessError


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON object in the body; of an empty one, none. Raises GaplessError."""
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise GaplessError(f"the body is not JSON: {error}", "Send a JSON object.") from error
    if not isinstance(body, dict):
        raise GaplessError("the body is not a JSON object", "Send a JSON object.")
    return body


def author_of(body: dict[str, Any]) -> Author:
    return Author(who=body.get("who") or "unknown", why=body.get("why", ""), ticket=body.get("ticket", ""))
