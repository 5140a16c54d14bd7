"""Style, scripts and pictures: files of the wheel, named by their content, so that a browser keeps them for ever."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

HERE = Path(__file__).parent / "assets"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_EVER = "public, max-age=31536000, immutable"


@cache
def version() -> str:
    """Of all of them together: modules import each other by plain names, so they live below one changing folder."""
    digest = hashlib.sha256()
    for path in sorted(HERE.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def address(name: str) -> str:
    return f"/assets/{version()}/{name}"


@cache
def _read(name: str) -> bytes | None:
    path = HERE / name
    return path.read_bytes() if path.suffix in KINDS and path.parent == HERE and path.is_file() else None


async def serve(request: Request) -> Response:
    """An old page's folder still answers, with what there is now."""
    name = str(request.path_params["name"])
    content = _read(name) if "/" not in name else None
    if content is None:
        return Response(status_code=404)
    fresh = request.path_params["version"] == version()
    kind = KINDS[Path(name).suffix]
    return Response(content, media_type=kind, headers={"cache-control": FOR_EVER if fresh else "no-store"})
