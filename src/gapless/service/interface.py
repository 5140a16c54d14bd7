"""What kind of app an object is, and the ASGI 3 app that it is served as."""

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import Any

from gapless.core.errors import AppError
from gapless.service.asgi import App, Receive, Scope, Send

THREADS = 10
"""Requests that a WSGI app answers at the same time in one process: each may hold a database connection."""


class Interface(StrEnum):
    ASGI3 = "asgi3"
    """`await app(scope, receive, send)`"""
    ASGI2 = "asgi2"
    """`await app(scope)(receive, send)`"""
    WSGI = "wsgi"
    """`app(environ, start_response)`"""


def interface_of(app: Any) -> Interface:
    """By how many arguments it can be called with. Raises AppError for what is no app."""
    if not callable(app):
        raise AppError(f"a {type(app).__name__} is not an ASGI or WSGI app", "name a callable")
    if inspect.isclass(app):
        return _of_class(app)
    takes = _takes(app)
    if takes is None:
        return Interface.ASGI3
    if 0 in takes:
        raise AppError("it takes no argument, as a factory does and an app does not", "add --factory")
    if 3 in takes:
        return Interface.ASGI3
    if not _is_async(app) and takes & _BY_COUNT.keys():
        return _BY_COUNT[max(takes & _BY_COUNT.keys())]
    raise AppError(
        f"it takes {_counted(takes)}, an ASGI app three (scope, receive, send), a WSGI app two (environ, "
        "start_response), and is not async",
        "name the app itself, or say what it is (--wsgi)",
    )


def as_asgi3(app: Any, interface: Interface, threads: int = THREADS) -> App:
    """Raises ConfigError when the adapter for WSGI is not installed."""
    if interface is Interface.ASGI2:
        return _Asgi2(app)
    if interface is Interface.WSGI:
        from gapless.service.wsgi import from_wsgi

        return from_wsgi(app, threads)
    asgi3: App = app
    return asgi3


class _Asgi2:
    """An app in two steps, in one."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope)(receive, send)


_COUNTS = (0, 1, 2, 3)
_BY_COUNT = {1: Interface.ASGI2, 2: Interface.WSGI}


def _of_class(app: type) -> Interface:
    """An instance per request: awaitable, iterable, or called once more."""
    takes = _takes(app) or frozenset(_COUNTS)
    if 3 in takes and hasattr(app, "__await__"):
        return Interface.ASGI3
    if 2 in takes and hasattr(app, "__iter__"):
        return Interface.WSGI
    if 1 in takes and "receive" in _parameters(getattr(app, "__call__", None)):  # noqa: B004 - the function itself
        return Interface.ASGI2
    raise AppError(f"{app.__name__} is a class, not an app", "name an instance of it, or add --factory to make one")


def _takes(app: Any) -> frozenset[int] | None:
    """With how many positional arguments it can be called; None when any will do, or that cannot be known."""
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        return None
    return frozenset(count for count in _COUNTS if _binds(signature, count))


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _is_async(app: Any) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__)


def _counted(takes: frozenset[int]) -> str:
    return f"{max(takes)} arguments" if takes else "other arguments"
