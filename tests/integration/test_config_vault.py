"""Secrets from Vault's HTTP API, asked of a real HTTP server that keeps to the documented contract of the key/value
engine, version 2 (developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2): Vault itself cannot be installed here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from gapless.config import Settings, live
from gapless.config.layers import Layer
from gapless.config.secret_references import VAULT_EVERY_S
from gapless.config.vault import HttpVault, data_path
from gapless.core.errors import ConfigError
from gapless.testing import FakeWorld

TOKEN = "hvs.a-token"


class KeyValues:
    """Reads of `/v1/MOUNT/data/PATH`; `versions` holds each secret's versions, None for one that was deleted."""

    def __init__(self) -> None:
        self.mount = "secret"
        self.namespace = ""
        self.sealed = False
        self.versions: dict[str, list[dict[str, Any] | None]] = {}

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, Any]:
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if method != "GET" or headers.get("x-vault-request") != "true":
            return 405, {"errors": ["1 error occurred:\n\t* unsupported operation\n\n"]}
        if headers.get("x-vault-token") != TOKEN or headers.get("x-vault-namespace", "") != self.namespace:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        name = path.removeprefix(f"/v1/{self.mount}/data/")
        versions = self.versions.get(name) if name != path else None
        if not versions:
            return 404, {"errors": []}
        metadata = {"created_time": "2026-01-01T00:00:00Z", "destroyed": False, "version": len(versions)}
        if versions[-1] is None:
            deleted = {**metadata, "deletion_time": "2026-01-02T00:00:00Z"}
            return 404, {"data": {"data": None, "metadata": deleted}}
        data = {"data": versions[-1], "metadata": {**metadata, "deletion_time": "", "custom_metadata": None}}
        return 200, {"request_id": "0", "lease_id": "", "renewable": False, "lease_duration": 0, "data": data}

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in head.splitlines()[1:])}
        status, body = self.answer(method, path, headers)
        content = json.dumps(body).encode()
        fields = f"content-type: application/json\r\ncontent-length: {len(content)}\r\nconnection: close"
        writer.write(f"HTTP/1.1 {status} Status\r\n{fields}\r\n\r\n".encode() + content)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def serving(keys: KeyValues) -> AsyncIterator[dict[str, str]]:
    """The environment with which it is found."""
    server = await asyncio.start_server(keys.talk, "127.0.0.1", 0)
    async with server:
        yield {"VAULT_ADDR": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "VAULT_TOKEN": TOKEN}


async def refused(env: dict[str, str], path: str, key: str = "password") -> str:
    with pytest.raises(ConfigError) as caught:
        await HttpVault(env).read(path, key)
    assert caught.value.remedy
    return caught.value.what


async def test_a_secret_is_read_and_every_refusal_is_explained() -> None:
    keys = KeyValues()
    keys.versions = {"team/orders": [{"password": "old"}, {"password": "new", "port": 5}], "gone": [{"a": "b"}, None]}
    async with serving(keys) as env:
        assert await HttpVault(env).read("secret/team/orders", "password") == "new"
        assert await HttpVault(env).read("/secret/data/team/orders", "password") == "new"
        assert "no text under 'user'; its keys are: password, port" in await refused(env, "secret/team/orders", "user")
        assert "no text under 'port'" in await refused(env, "secret/team/orders", "port")
        assert "404" in await refused(env, "secret/none")
        assert "newest version was deleted" in await refused(env, "secret/gone")
        assert "VAULT_TOKEN may not read it" in await refused({**env, "VAULT_TOKEN": "hvs.other"}, "secret/team/orders")
        keys.namespace = "shop"
        assert await HttpVault({**env, "VAULT_NAMESPACE": "shop"}).read("secret/team/orders", "password") == "new"
        keys.sealed = True
        assert "sealed" in await refused(env, "secret/team/orders")
    assert "does not answer" in await refused(env, "secret/team/orders")
    assert "not both set" in await refused({}, "secret/team/orders")
    assert "VAULT_ADDR is 'vault:8200'" in await refused({"VAULT_ADDR": "vault:8200", "VAULT_TOKEN": "t"}, "a/b")


async def test_settings_follow_a_secret_in_vault_and_keep_the_last_one_while_it_is_sealed() -> None:
    class Shop(Settings):
        password: SecretStr = SecretStr("")

    keys, world = KeyValues(), FakeWorld()
    keys.versions = {"orders": [{"password": "first"}]}
    async with serving(keys) as env:
        settings = live(Shop, env=env, world=world)
        layer = Layer(name="store", value={"password": "secret:vault:secret/orders#password"}, kept=True)
        await settings.load(layer)
        assert settings.current.password.get_secret_value() == "first"
        keys.versions["orders"].append({"password": "second"})
        await settings.take(layer)
        assert settings.current.password.get_secret_value() == "first"  # it was read a moment ago
        await world.advance(VAULT_EVERY_S)
        await settings.take(layer)
        assert settings.current.password.get_secret_value() == "second"
        keys.sealed = True
        await world.advance(VAULT_EVERY_S)
        with pytest.raises(ConfigError, match="sealed"):
            await settings.take(layer)
        assert settings.current.password.get_secret_value() == "second"


@pytest.mark.parametrize(
    ("written", "asked"),
    [("secret/a", "secret/data/a"), ("secret/a/b c", "secret/data/a/b%20c"), ("t/kv/data/a", "t/kv/data/a")],
)
def test_the_path_of_the_api_is_made_of_the_one_that_people_write(written: str, asked: str) -> None:
    assert data_path(written) == asked
