"""What kind of app an object is."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from gapless.core.errors import AppError
from gapless.service.interface import Interface, as_asgi3, interface_of
from gapless.service.kit import Service


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    await send(scope["type"])


def returns_awaitable(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


def asgi2(scope: Any) -> Any:
    return functools.partial(asgi, scope)


def wsgi(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return [b""]


def wrapped(app: Any) -> Any:
    @functools.wraps(app)
    def call(*args: Any, **options: Any) -> Any:
        return app(*args, **options)

    return call


def anything(*args: Any) -> Any:
    return asgi(*args)


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class AsgiWithMore:
    async def __call__(self, scope: Any, receive: Any, send: Any, debug: bool = False) -> None: ...


class WsgiObject:
    def __init__(self, name: str = "", folder: str = "", more: str = "") -> None: ...

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []


class Asgi2Class:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        yield b""


class AsgiClass:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Any: ...


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (asgi, "asgi3"),
        (returns_awaitable, "asgi3"),
        (functools.partial(asgi), "asgi3"),
        (wrapped(asgi), "asgi3"),
        (anything, "asgi3"),
        (AsgiObject(), "asgi3"),
        (AsgiObject().__call__, "asgi3"),
        (AsgiWithMore(), "asgi3"),
        (AsgiClass, "asgi3"),
        (Service("orders", asgi), "asgi3"),
        (asgi2, "asgi2"),
        (Asgi2Class, "asgi2"),
        (wsgi, "wsgi"),
        (wrapped(wsgi), "wsgi"),
        (WsgiObject(), "wsgi"),
        (WsgiClass, "wsgi"),
    ],
)
def test_apps_are_recognized(app: Any, interface: str) -> None:
    assert interface_of(app) == interface


async def two(receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("app", "what", "remedy"),
    [
        (3, "a int is not an ASGI or WSGI app", "name a callable"),
        (lambda: asgi, "as a factory does", "add --factory"),
        (lambda config=None, debug=False, more=0: asgi, "as a factory does", "add --factory"),
        (WsgiObject, "WsgiObject is a class", "name an instance"),
        (AsgiObject, "AsgiObject is a class", "name an instance"),
        (two, "it takes 2 arguments", "and is not async"),
        (lambda a, b, c, d: asgi, "it takes other arguments", "name the app itself"),
    ],
)
def test_what_is_no_app_is_refused_with_the_way_out(app: Any, what: str, remedy: str) -> None:
    with pytest.raises(AppError) as caught:
        interface_of(app)
    assert what in str(caught.value)
    assert remedy in str(caught.value)


async def test_an_app_in_two_steps_is_served_in_one() -> None:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    await as_asgi3(asgi2, Interface.ASGI2)({"type": "http"}, None, send)  # type: ignore[arg-type]
    assert said == ["http"]
