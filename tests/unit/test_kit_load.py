"""`load`: from a name to a service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gapless.core.errors import AppError
from gapless.service.kit import Service, load

CODE = """
from gapless import Service
async def app(scope, receive, send): ...
service = Service("mine", app)
class holder:
    inner = app
def make(): return service
def breaks(): raise ValueError("no settings")
number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "kitapp.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("kitapp", None)


def test_a_service_is_used_and_an_app_wrapped() -> None:
    assert load("kitapp:service").name == "mine"
    assert load("kitapp:make", factory=True) is load("kitapp:service")
    wrapped = load("kitapp:holder.inner")
    assert type(wrapped) is Service


@pytest.mark.parametrize(
    ("target", "factory", "message"),
    [
        ("kitapp", False, "write module:attribute"),
        ("kitapp:nothing", False, "callables in the module: Service, app, breaks, holder, make, service"),
        ("kitapp:number", False, "is a int, not an ASGI or WSGI app"),
        ("kitapp:breaks", True, r"kitapp\.py\", line 8, in breaks\n(.|\n)*ValueError: no settings"),
        ("nowhere.app:app", False, "there is no module 'nowhere' in"),
    ],
)
def test_what_is_wrong_is_told(target: str, factory: bool, message: str) -> None:
    with pytest.raises(AppError, match=message):
        load(target, factory)
