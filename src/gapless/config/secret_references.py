"""Secrets by reference: a setting says where its secret is, and only the instance that needs it reads it.

secret:env:NAME             a variable of the instance's environment
secret:file:/path           the content of a file, without the line break at its end
secret:vault:mount/path#key a key of a secret in Vault (`vault`)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from gapless.config.layers import leaves
from gapless.config.types import Path
from gapless.core.errors import ConfigError, GaplessError
from gapless.core.ports import World
from gapless.core.watched import content_of

PREFIX = "secret:"
_REFERENCE = re.compile(r"secret:(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|vault:[^#]+#[^#]+)", re.DOTALL)
HOW = "write secret:env:NAME, secret:file:/path or secret:vault:mount/path#key"

VAULT_EVERY_S = 60.0
"""Between two readings of the same secret in Vault: it pushes nothing, and has other clients."""


def token_of(content: str) -> str:
    """What is shown as a token: one word of printable ASCII. Envoy takes `%` for the beginning of a format. Raises
    ValueError, which does not tell it."""
    token = content.strip()
    if not token or not token.isascii() or not token.isprintable() or set(token) & {" ", "%"}:
        raise ValueError("a token is one word of printable ASCII without %")
    return token


class Vault(Protocol):
    """Where `secret:vault:…` is read."""

    async def read(self, path: str, key: str) -> str:
        """Raises ConfigError."""
        ...


class Known(NamedTuple):
    """A secret that was read, and until when it is not read again."""

    text: str
    until: float

    def __repr__(self) -> str:
        return "Known(…)"


def references(value: Any) -> dict[Path, str]:
    """Every text that begins as a reference does, by its path; also inside of lists."""
    found: dict[Path, str] = {}
    for path, leaf in leaves(value):
        if isinstance(leaf, str) and leaf.startswith(PREFIX):
            found[path] = leaf
        elif isinstance(leaf, list):
            for index, item in enumerate(leaf):
                found.update({(*path, index, *more): text for more, text in references(item).items()})
    return found


def misfit(reference: str) -> str:
    """Why it is no reference; empty when it is one. It is not shown: somebody may have put the secret itself there."""
    return "" if _REFERENCE.fullmatch(reference) else f"begins as a reference to a secret, but is none; {HOW}"


class Secrets:
    """Reads references: variables and files each time, Vault now and then."""

    def __init__(self, env: Mapping[str, str], vault: Vault, world: World) -> None:
        self._env = env
        self._vault = vault
        self._world = world
        self._known: dict[str, Known] = {}

    async def read(self, reference: str) -> str:
        """Raises ConfigError, which does not tell the secret."""
        kind, _, rest = reference.removeprefix(PREFIX).partition(":")
        match kind:
            case "env":
                return self._variable(rest)
            case "file":
                return content_of(rest).removesuffix("\n").removesuffix("\r")
            case _:
                return await self._in_vault(rest)

    def _variable(self, name: str) -> str:
        if name not in self._env:
            raise ConfigError(f"there is no variable {name}", "Set it where the instance is started.")
        return self._env[name]

    async def _in_vault(self, rest: str) -> str:
        known = self._known.get(rest)
        if known is None or self._world.now() >= known.until:
            path, _, key = rest.partition("#")
            text = await self._vault.read(path, key)
            known = self._known[rest] = Known(text, self._world.now() + VAULT_EVERY_S)
        return known.text


async def resolved(found: Mapping[Path, str], secrets: Secrets) -> tuple[dict[Path, str], dict[Path, str]]:
    """The secrets, and what is wrong with those that could not be had; each by its path."""
    texts: dict[Path, str] = {}
    problems: dict[Path, str] = {}

    async def resolve(path: Path, reference: str) -> None:
        if wrong := misfit(reference):
            problems[path] = wrong
            return
        try:
            texts[path] = await secrets.read(reference)
        except GaplessError as error:
            problems[path] = f"{reference}: {error.what}"

    await asyncio.gather(*(resolve(path, reference) for path, reference in found.items()))
    return texts, problems
