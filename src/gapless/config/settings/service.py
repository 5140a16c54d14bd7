"""A service: one value of `services:`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from gapless.config.base import Settings
from gapless.config.guards import ProtectSettings
from gapless.config.quantities import SHARE_SCHEMA, Duration, PositiveDuration, fraction
from gapless.config.settings.analysis import AnalysisSettings
from gapless.config.settings.fields import Command, Name, Text, Variable, app_name, route_path, text
from gapless.config.settings.gateway import CorsSettings, UpstreamSettings, Zone
from gapless.config.settings.metrics import DerivedSettings, MetricName, as_derived
from gapless.config.settings.pools import PoolSettings
from gapless.config.settings.rollout import ObjectiveSettings, RolloutSettings
from gapless.config.settings.routes import RouteSettings, as_route
from gapless.core.grpc_health import GRPC_HEALTH
from gapless.core.model import Calendar, Protocol, Service, Upstream

_SERVICE = Service(name="")


def _ready(value: str) -> str:
    return route_path(value) if value else value


def _logged(value: Any) -> float:
    """`on` and `off` are booleans to YAML. Raises ValueError."""
    if isinstance(value, bool) or value in ("on", "off"):
        return float(value in (True, "on"))
    try:
        return fraction(value)
    except ValueError as error:
        raise ValueError(f'neither "on" nor "off": {error}') from None


_LOGGED_SCHEMA = {"anyOf": [{"enum": ["on", "off"]}, {"type": "boolean"}, SHARE_SCHEMA]}
Logged = Annotated[float, BeforeValidator(_logged), WithJsonSchema(_LOGGED_SCHEMA)]


class ServiceSettings(Settings):
    app: Annotated[
        str,
        BeforeValidator(lambda value: app_name(text(value))),
        Field(
            description="`module:attribute` of an ASGI or WSGI app, with `protocol: grpc` of one that"
            " `gapless serve --grpc` takes. Either this or `command`.",
            examples=["shop.orders:app"],
        ),
    ] = ""
    command: Annotated[
        Command,
        Field(
            min_length=1,
            description="Any program that speaks HTTP; `{host}`, `{port}`, `{state}` are replaced. Or else `app`.",
            examples=[["./orders", "--port", "{port}"]],
        ),
    ] = ()
    source: Annotated[
        str,
        Field(description="Directory or wheel that releases are made of, relative to the file.", examples=["./src"]),
    ] = "."
    protocol: Annotated[
        Protocol, Field(description="What the instances speak: `http` (HTTP/1.1), `http2`, or `grpc`.")
    ] = Protocol.HTTP
    zones: Annotated[
        tuple[Zone, ...], Field(description="Where the instances run, in turn.", examples=[["a", "b"]])
    ] = ()
    instances: Annotated[int, Field(ge=1, description="Running copies.")] = _SERVICE.instances
    workers: Annotated[int, Field(ge=1, description="Worker processes in each copy; `app` only.")] = _SERVICE.workers
    routes: Annotated[
        tuple[Annotated[RouteSettings, BeforeValidator(as_route)], ...],
        Field(description="Requests that the gateway sends here; none: reachable for other services only."),
    ] = ()
    needs: Annotated[
        tuple[Name, ...], Field(description="Services that must be ready first.", examples=[["inventory"]])
    ] = ()
    env: Annotated[
        dict[Variable, Text],
        Field(
            description="Environment variables; `{state}` in a value is the state directory.",
            examples=[{"DATA": "{state}/data"}],
        ),
    ] = Field(default_factory=dict)
    ready: Annotated[
        str,
        BeforeValidator(lambda value: _ready(text(value))),
        Field(
            description="Path probed for readiness. Left out: `/readyz` for `app`, for `command` an open port. gRPC is"
            " asked by its health service: `/grpc.health.v1.Health/Check`, for `app` also when left out.",
            examples=["/readyz"],
        ),
    ] = ""
    start: Annotated[PositiveDuration, Field(description="Time to become ready.", examples=["30s"])] = _SERVICE.start_s
    drain: Annotated[Duration, Field(description="Time to finish what was begun.", examples=["30s"])] = _SERVICE.drain_s
    timeout: Annotated[
        PositiveDuration,
        Field(description="The gateway's deadline for one request, retries included.", examples=["15s"]),
    ] = _SERVICE.timeout_s
    rollout: RolloutSettings = Field(default_factory=RolloutSettings, description="How releases are moved.")
    objective: ObjectiveSettings = Field(default_factory=ObjectiveSettings, description="What users are promised.")
    gateway: UpstreamSettings = Field(
        default_factory=UpstreamSettings, description="How the gateway asks the instances."
    )
    cors: Annotated[CorsSettings | None, Field(description="Pages of other origins that may ask.")] = None
    analysis: AnalysisSettings = Field(default_factory=AnalysisSettings, description="What else they are judged by.")
    metrics: Annotated[
        dict[MetricName, Annotated[DerivedSettings, BeforeValidator(as_derived)]],
        Field(description="Rates and ratios of what its code counts.", examples=[{"paid": {"rate": "orders_paid"}}]),
    ] = Field(default_factory=dict)
    access_log: Annotated[
        Logged,
        Field(
            description="Requests that instances log: `off`, `on`, or a share, beside all that fail or take a second."
            " `app` only.",
            examples=["10%"],
            json_schema_extra={"default": "off"},
        ),
    ] = _SERVICE.access_log
    pools: Annotated[
        dict[Name, PoolSettings],
        Field(
            description="Connection pools by what they lead to, for `gapless preflight`.",
            examples=[{"orders-db": {"size": 10, "most": 100}}],
        ),
    ] = Field(default_factory=dict)
    protect: Annotated[
        ProtectSettings | None, Field(description="Policies that stand before the service, in gateway and instances.")
    ] = None

    def value(self, name: str, base: Path, system: Calendar) -> Service:
        """`system`: when anything at all may be moved."""
        calendars = (system, self.rollout.calendar(name, system.zone))
        return Service(
            name=name,
            app=self.app,
            command=self.command,
            source=str((base / self.source).resolve()),
            instances=self.instances,
            workers=self.workers,
            routes=tuple(route.value() for route in self.routes),
            needs=self.needs,
            env=dict(self.env),
            ready_path=self._ready_path(),
            start_s=self.start,
            drain_s=self.drain,
            timeout_s=self.timeout,
            rollout=replace(
                self.rollout.value(counted=bool(self.app or self.routes)),
                metrics=tuple(metric.value() for metric in self.analysis.metrics),
            ),
            calendars=tuple(calendar for calendar in calendars if calendar.openings or calendar.freezes),
            objective=self.objective.value(),
            metrics={name: derived.value(name) for name, derived in self.metrics.items()},
            pools=tuple(pool.value(name) for name, pool in self.pools.items()),
            protect=self.protect.value() if self.protect else None,
            access_log=self.access_log,
            upstream=self._upstream(),
            cors=self.cors.value() if self.cors else None,
        )

    def _upstream(self) -> Upstream:
        given = self.gateway
        return Upstream(
            protocol=self.protocol,
            connect_s=given.connect,
            idle_s=given.idle,
            connections=given.connections,
            slow_start_s=given.slow_start,
            eject_after=given.eject_after,
            eject_for_s=given.eject_for,
            eject_most=given.eject_most,
            hedge_s=given.hedge,
            zones=self.zones,
            check=self._ready_path() if self.zones else "",
        )

    def _ready_path(self) -> str:
        if "ready" in self.model_fields_set:
            return self.ready
        if not self.app:
            return ""
        return GRPC_HEALTH if self.protocol is Protocol.GRPC else "/readyz"
