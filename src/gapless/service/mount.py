"""An app that lies below a path of its site (`--root-path`): a proxy has taken the path away, and its links need it."""

from __future__ import annotations

from gapless.core.errors import ConfigError
from gapless.service.asgi import App, Receive, Scope, Send

ROUTE_KEYS = ("route", "path_template", "endpoint", "path_params", "root_path", "app_root_path")


def root_path_of(text: str) -> str:
    """As ASGI writes it: "" or "/shop", without a slash at the end. Raises ConfigError."""
    path = text.rstrip("/")
    if path and (not path.startswith("/") or "//" in path or set(path) & set("?#%")):
        raise ConfigError(f"--root-path {text!r} is no path", 'Write it like "/shop", as it is in the browser.')
    return path


def mounted(app: App, root_path: str) -> App:
    """An ASGI 3 app that sees each path with `root_path` before it, as ASGI's `path` has it; WSGI's SCRIPT_NAME follows
    from that."""
    if not root_path:
        return app
    raw = root_path.encode()

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            path, raw_path = root_path + scope["path"], raw + (scope.get("raw_path") or b"")
            inner = {**scope, "root_path": root_path, "path": path, "raw_path": raw_path}
            try:
                await app(inner, receive, send)
            finally:  # whoever counts and logs wants to know the route
                scope.update((key, inner[key]) for key in ROUTE_KEYS if key in inner)
        else:
            await app(scope, receive, send)

    return below
