"""Every example of docs/discovery.md runs against real servers, and its tables say what the code says."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from gapless.core.errors import ConfigError
from gapless.core.world import RealWorld
from gapless.discovery.balancers import BALANCERS, DEFAULT
from gapless.discovery.directory import Directory
from gapless.discovery.sources.source import source_of
from tests.integration.agent_kit import Agent
from tests.integration.test_client_sockets import answers, serving

PAGE = Path(__file__).parents[2] / "docs/discovery.md"
TEXT = PAGE.read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)[0]


def column(part: str, number: int = 0, table: int = 0) -> list[str]:
    """The cells of a table's column, without its heading."""
    tables = re.findall(r"((?:^\|.*\n)+)", part, flags=re.MULTILINE)
    return [row.split("|")[number + 1].strip() for row in tables[table].splitlines()[2:]]


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with Agent() as agent:
        yield agent


@pytest.fixture
async def inventory_http() -> AsyncIterator[int]:
    async with serving(answers) as (port,):
        yield port


@pytest.fixture
async def inventory_grpc() -> AsyncIterator[int]:
    async def say(request: Any, context: Any) -> bytes:
        return bytes(request)

    async def watch(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield bytes(request)

    server = grpc.aio.server()
    methods = {
        "Get": grpc.unary_unary_rpc_method_handler(say),
        "Reserve": grpc.unary_unary_rpc_method_handler(say),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Inventory", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
async def test_an_example_runs(block: str, agent: Agent, inventory_http: int, inventory_grpc: int) -> None:
    agent.now(inventory_grpc if "grpc" in block else inventory_http)
    line = TEXT[: TEXT.index(block)].count("\n") + 1
    here = block.replace("consul://127.0.0.1:8500", agent.address)
    assert here != block
    code = compile("\n" * (line - 1) + here, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert code.co_flags & inspect.CO_COROUTINE
    await types.FunctionType(code, {"__name__": "example"})()
    assert agent.asked[0].startswith("/v1/health/service/inventory?passing=1")


def test_the_page_lists_every_balancer_with_the_default_first() -> None:
    named = [name for cell in column(section("Which balancer")) for name in re.findall(r"`(\w+)`", cell)]
    assert set(named) == set(BALANCERS)
    assert named[0] == DEFAULT


def test_the_addresses_of_the_page_are_accepted() -> None:
    addresses = [cell.strip("`") for cell in column(section("Which source"))]
    assert addresses
    for address in [*addresses, "dns:///_http._tcp.{service}.shop.svc.cluster.local"]:
        filled = address.replace("SERVER:PORT", "10.0.0.1:53").replace("HOST:PORT", "10.0.0.1:80")
        assert source_of(filled.replace("HOST", "10.0.0.1").replace("DOMAIN", "x"), RealWorld())


def test_the_options_of_the_page_are_those_that_there_are() -> None:
    rows = zip(column(section("Which source"), 0, table=1), column(section("Which source"), 1, table=1), strict=True)
    schemes = {
        "every source": ("consul", "dns", "static"),
        "`consul`": ("consul",),
        "`consuls`": ("consuls",),
        "`dns`": ("dns",),
    }
    for option, of in rows:
        name = option.strip("`").partition("=")[0]
        for scheme in schemes[of]:
            Directory.at(f"{scheme}://10.0.0.1:80/{'x' if scheme == 'dns' else ''}?{name}=80", RealWorld())
    with pytest.raises(ConfigError, match="no option colour"):
        Directory.at("consul://10.0.0.1?colour=red", RealWorld())
