"""What a gRPC app may be, and what is said of what is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from gapless.core.errors import AppError, ConfigError
from gapless.service.grpc_health import Answer, Health
from gapless.service.grpc_service import GrpcService, Registrations, load_grpc

CODE = """
from gapless import Service
from gapless.service.grpc_service import GrpcService
def add(server): ...
async def later(server): ...
def serve(): ...
class Orders:
    def __init__(self, server): ...
service = GrpcService("orders", add)
other = Service("orders")
"""


@pytest.fixture
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "grpcapp.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("grpcapp", None)


def handler() -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler("shop.Orders", {})


@pytest.mark.usefixtures("_module")
def test_a_service_is_used_and_a_function_wrapped() -> None:
    assert load_grpc("grpcapp:service").name == "orders"
    assert isinstance(load_grpc("grpcapp:add"), GrpcService)
    assert isinstance(load_grpc("grpcapp:later"), GrpcService)


@pytest.mark.usefixtures("_module")
@pytest.mark.parametrize("name", ["serve", "Orders", "other"])
def test_what_adds_nothing_is_refused(name: str) -> None:
    with pytest.raises(AppError, match=r"is no gRPC app\n.*def add\(server\)"):
        load_grpc(f"grpcapp:{name}")


async def test_registrations_take_what_generated_code_adds() -> None:
    def add(server: Registrations) -> None:
        server.add_generic_rpc_handlers((handler(),))
        server.add_registered_method_handlers("shop.Stock", {"Get": None})

    found = await GrpcService("orders", add).register()
    assert found.names == {"shop.Orders", "shop.Stock"}


async def test_an_async_function_is_awaited_and_one_that_adds_nothing_refused() -> None:
    async def add(server: Registrations) -> None: ...

    with pytest.raises(AppError, match="no servicer was added"):
        await GrpcService("orders", add).register()


async def test_a_function_that_fails_is_told_with_its_traceback() -> None:
    def add(server: Registrations) -> None:
        raise ValueError("no settings")

    with pytest.raises(AppError, match=r"adding the servicers failed:\n(.|\n)*ValueError: no settings"):
        await GrpcService("orders", add).register()


@pytest.mark.parametrize("method", ["start", "stop", "wait_for_termination", "add_insecure_port", "add_secure_port"])
async def test_the_app_does_not_run_the_server(method: str) -> None:
    found = Registrations()
    words: dict[str, tuple[Any, ...]] = {"add_insecure_port": ("[::]:1",), "add_secure_port": ("[::]:1", None)}
    with pytest.raises(ConfigError, match=r"by itself|waits for"):
        await getattr(found, method)(*words.get(method, (1,) * (method == "stop")))


async def test_health_follows_readiness_until_it_refuses() -> None:
    why = ""
    health = Health(lambda: why, frozenset({"shop.Orders"}))
    assert health._status("shop.Orders") == health._status("") == Answer.SERVING
    assert health._status("no.Such") == Answer.SERVICE_UNKNOWN
    why = "the database is gone"
    assert health._status("") == Answer.NOT_SERVING
    why = ""
    health.refuse()
    assert health._status("") == Answer.NOT_SERVING
