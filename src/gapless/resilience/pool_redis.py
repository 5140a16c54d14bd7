"""Redis connections (redis.asyncio) in our pool, behind redis-py's own client.

    redis = redis_client("redis://localhost", name="sessions", world=world, limits=PoolLimits(max_size=10))
    await redis.get("key")
    redis.connection_pool.statistics()

redis-py's own retries are off: they would repeat what the guard has not allowed. Subscriptions and monitors hold a
connection for as long as they live: give them a client with `leak_after_s=math.inf`. Needs the extra `redis`.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from gapless.core.ports import World
from gapless.resilience.errors import Transient, Unsent
from gapless.resilience.events import GuardHook
from gapless.resilience.pool import Pool
from gapless.resilience.pool_errors import ConnectFailed
from gapless.resilience.pool_figures import PoolFigures
from gapless.resilience.pool_limits import PoolLimits, broken_by
from gapless.resilience.pool_state import Place, Slot

Connection = Any
"""redis.asyncio.Connection."""
LOST = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
NOT_NOW = (exceptions.BusyLoadingError, exceptions.TryAgainError, exceptions.ClusterDownError, exceptions.ReadOnlyError)
"""The server refused before it did anything, and says that it will not for long."""


class RedisPool(ConnectionPool):
    """redis-py's seam for pools, on ours."""

    def __init__(
        self, *, name: str, world: World, limits: PoolLimits, hooks: tuple[GuardHook, ...] = (), **options: Any
    ):
        options.setdefault("retry", Retry(NoBackoff(), 0))
        # They would let redis-py move connections between lists that are ours here.
        options.setdefault("maint_notifications_config", MaintNotificationsConfig(enabled=False))
        super().__init__(max_connections=limits.max_size, **options)
        self.pool: Pool[Connection] = Pool(
            self._connect,
            name=name,
            world=world,
            limits=limits,
            check=_ping,
            close=_disconnect,
            broken=_broken,
            hooks=hooks,
        )
        self._slots: dict[Connection, Slot[Connection]] = {}

    def statistics(self) -> PoolFigures:
        return self.pool.statistics()

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Connection:
        place = _place(sys._getframe(1))  # noqa: SLF001 see Pool.acquire
        for _ in range(self.pool.limits.max_size + 1):
            slot = await self.pool.lend(place)
            if await self._ready(slot):
                self._slots[slot.connection] = slot
                self._in_use_connections.add(slot.connection)
                return slot.connection
        raise ConnectFailed(f"pool {self.pool.name!r}: every new connection has unread data", pool=self.pool.name)

    async def release(self, connection: Connection) -> None:
        self._in_use_connections.discard(connection)
        slot = self._slots.pop(connection, None)
        if slot is not None:
            self.pool.give_back(slot, None)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await self.pool.close(drain_s=0.0 if inuse_connections else self.pool.limits.acquire_deadline_s)

    def can_get_connection(self) -> bool:
        return True

    async def _connect(self) -> Connection:
        connection = self.make_connection()  # type: ignore[no-untyped-call, unused-ignore]
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _ready(self, slot: Slot[Connection]) -> bool:
        """An idle connection has nothing to read; if there is something, it is an old reply or the stream's end."""
        try:
            dirty = await slot.connection.can_read()
        except LOST:
            dirty = True
        except BaseException as error:
            self.pool.give_back(slot, error)
            raise
        if dirty:
            self.pool.give_back(slot, ConnectionResetError("it ended while it was idle"))
        return not dirty


class RedisClient(Redis):
    """redis-py's client, whose failures are ours: Transient when a command may have taken effect, Unsent when not."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call, unused-ignore]
        except exceptions.RedisError as error:
            raise translated(error) from error

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> RedisPipeline:
        return RedisPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class RedisPipeline(Pipeline):
    async def execute(self, raise_on_error: bool = True) -> Any:
        try:
            return await super().execute(raise_on_error)
        except exceptions.RedisError as error:
            raise translated(error) from error


def redis_client(
    url: str, *, name: str, world: World, limits: PoolLimits, hooks: tuple[GuardHook, ...] = (), **options: Any
) -> RedisClient:
    """`options` go to each connection (`socket_timeout=…`, `decode_responses=…`). Close it with `aclose`."""
    pool = RedisPool(name=name, world=world, limits=limits, hooks=hooks, **options | parse_url(url))
    client = RedisClient(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client


def translated(error: Exception) -> Exception:
    """A vendor's error → ours; what is the application's own doing (a wrong type, no such script) stays."""
    if isinstance(error, NOT_NOW):
        return Unsent(f"Redis does not serve now: {error}")
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return error
    if isinstance(error, LOST):
        return Transient(f"the connection to Redis was lost: {error}", "The command may have taken effect.")
    return error


async def _ping(connection: Connection) -> bool:
    await connection.send_command("PING", check_health=False)
    return await connection.read_response() in (b"PONG", "PONG")


async def _disconnect(connection: Connection) -> None:
    await connection.disconnect(nowait=True)


def _broken(connection: Connection, error: BaseException | None) -> bool:
    # redis-py disconnects when a command is cut off between its sending and its reply.
    return not connection.is_connected or connection.should_reconnect() or broken_by(connection, error)


def _place(frame: FrameType | None) -> Place | None:
    """The first caller outside of redis-py; None when that is the event loop itself."""
    while frame is not None and (module := frame.f_globals.get("__name__", "")).startswith(("redis.", __name__)):
        frame = frame.f_back
    return (frame.f_code, frame.f_lasti) if frame and not module.startswith("asyncio") else None
