"""`/v1/kv`: keys with flags, check-and-set, locks, prefixes, and watches of either."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from gapless.api.consul.answer import FALSE, TEXT, TRUE, Answer, bad_request, encode, failed
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route
from gapless.api.consul.watches import Watches
from gapless.discovery.kv.draft import Draft, InvalidSession
from gapless.discovery.kv.kv import KeyValues
from gapless.discovery.kv.rows import Row

RAW = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox"),
)
"""A browser must not take a value for a page of ours."""
MISSING = "Missing key name"
KEPT, KEPT_BYTES = 1024, 32 * 1024 * 1024
"""Answers about prefixes that are kept."""


class Kv:
    def __init__(self, keys: KeyValues, watches: Watches) -> None:
        self._keys = keys
        self._state = keys.state
        self._watches = watches
        self._bodies = Bodies()

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/kv/", {"GET": self.get, "PUT": self.put, "DELETE": self.delete})

    async def get(self, request: Request) -> Answer:
        if request.has("recurse") or request.has("keys"):
            return await self._below(request)
        key = request.rest
        if not key:
            raise bad_request(MISSING)
        state = self._state
        if request.query:
            await self._watches.until(request, state.topics, ("key", key), lambda: state.index_of(key))
        row = state.get(key)
        if row is None:
            return Answer(b"", 404, state.index_of(key), TEXT)
        if request.has("raw"):
            return Answer(row.value, index=row.modified, kind=TEXT, extra=RAW)
        return Answer(encode([shown(row)]), index=row.modified)

    async def _below(self, request: Request) -> Answer:
        prefix, state = request.rest, self._state
        await self._watches.until(request, state.topics, ("prefix", prefix), lambda: state.index_below(prefix))
        index = state.index_below(prefix)
        rows = request.has("recurse")
        separator = "" if rows else request.text("separator")
        body = self._bodies.get((prefix, rows, separator), index)
        if body is None:
            found = [shown(row) for row in state.below(prefix)] if rows else state.keys(prefix, separator)
            body = encode(found) if found else b""
            self._bodies.put((prefix, rows, separator), index, body)
        return Answer(body, index=index) if body else Answer(b"", 404, index, TEXT)

    async def put(self, request: Request) -> Answer:
        _one_of(request, "cas", "acquire", "release")
        if not request.rest:
            raise bad_request(MISSING)
        verb = self._verb(request)
        try:
            done, _ = await self._keys.write(verb)
        except InvalidSession as error:
            raise failed(f'invalid session "{error}"') from error
        return TRUE if done else FALSE

    def _verb(self, request: Request) -> Callable[[Draft], bool]:
        key, value = request.rest, request.body
        flags = request.number("flags", "Invalid flags") or 0
        index = request.number("cas", "Invalid cas")
        if index is not None:
            return lambda draft: draft.set_if(key, value, flags, index)
        if request.has("acquire"):
            return lambda draft: draft.lock(key, value, flags, request.text("acquire"))
        if request.has("release"):
            return lambda draft: draft.unlock(key, value, flags, request.text("release"))
        return lambda draft: draft.set(key, value, flags)

    async def delete(self, request: Request) -> Answer:
        _one_of(request, "recurse", "cas")
        key = request.rest
        if request.has("recurse"):
            await self._keys.write(lambda draft: draft.delete_below(key))
            return TRUE
        if not key:
            raise bad_request(MISSING)
        index = request.number("cas", "Invalid cas")
        if index is None:
            await self._keys.write(lambda draft: draft.delete(key))
            return TRUE
        done, _ = await self._keys.write(lambda draft: draft.delete_if(key, index))
        return TRUE if done else FALSE


class Bodies:
    """The last answers about prefixes: when something changes, all who wait for a prefix are told the same."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: dict[Hashable, tuple[int, bytes]] = {}

    def get(self, what: Hashable, index: int) -> bytes | None:
        """As it was at exactly that index."""
        kept = self._kept.get(what)
        return kept[1] if kept is not None and kept[0] == index else None

    def put(self, what: Hashable, index: int, body: bytes) -> None:
        self._drop(what)
        if len(body) > self._most_bytes // 4:
            return
        while self._kept and (self._bytes + len(body) > self._most_bytes or len(self._kept) >= KEPT):
            self._drop(next(iter(self._kept)))
        self._kept[what] = index, body
        self._bytes += len(body)

    def _drop(self, what: Hashable) -> None:
        if what in self._kept:
            self._bytes -= len(self._kept.pop(what)[1])


def _one_of(request: Request, *names: str) -> None:
    """Raises Refusal (400)."""
    given = [name for name in names if request.has(name)]
    if len(given) > 1:
        raise bad_request(f"Conflicting flags: {', '.join(given)}")


def shown(row: Row, *, value: bool = True) -> dict[str, Any]:
    """A row in Consul's words. An empty value is null."""
    data = b64encode(row.value).decode() if value and row.value else None
    fields = {"LockIndex": row.lock_index, "Key": row.key, "Flags": row.flags, "Value": data}
    if row.session:
        fields["Session"] = row.session
    return {**fields, "CreateIndex": row.created, "ModifyIndex": row.modified}
