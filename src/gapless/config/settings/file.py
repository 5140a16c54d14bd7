"""The whole of `gapless.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from gapless.config.base import Settings
from gapless.config.settings.alerts import AlertSettings
from gapless.config.settings.calendar import CalendarSettings
from gapless.config.settings.console import ConsoleSettings, console_or_off
from gapless.config.settings.fields import Name, text
from gapless.config.settings.gateway import GatewaySettings
from gapless.config.settings.metrics import MetricsSettings
from gapless.config.settings.network import NetworkSettings
from gapless.config.settings.notify import NotifySettings
from gapless.config.settings.registry import RegistrySettings
from gapless.config.settings.service import ServiceSettings
from gapless.config.settings.tracing import TracingSettings
from gapless.config.stores import store_address


class FileSettings(Settings):
    """A system of services behind one gateway."""

    system: Annotated[Name, Field(description="Name of the system.", examples=["shop"])]
    gateway: GatewaySettings = Field(default_factory=GatewaySettings, description="The way in.")
    network: NetworkSettings = Field(default_factory=NetworkSettings, description="Where instances listen.")
    store: Annotated[
        str,
        BeforeValidator(lambda value: store_address(text(value))),
        Field(
            description="Where all state is kept. Left out: a file in the state directory. `etcd://HOST:PORT/PREFIX/` "
            "and `consul://HOST:PORT/PREFIX/` let several control planes take turns; `sqlite:PATH` is another file.",
            examples=["etcd://10.0.0.1:2379,10.0.0.2:2379/shop/"],
        ),
    ] = ""
    console: Annotated[
        ConsoleSettings | None,
        BeforeValidator(console_or_off),
        Field(description="The web console. `off`: none.", examples=["off"]),
    ] = Field(default_factory=ConsoleSettings)
    registry: Annotated[
        RegistrySettings | None,
        BeforeValidator(lambda value: {} if value is None else value),
        Field(
            description="Serve a registry that the instances are in. A bare `registry:` is one at the usual addresses."
        ),
    ] = None
    rollout: CalendarSettings = Field(
        default_factory=CalendarSettings, description="When any service's releases may be moved."
    )
    alerts: AlertSettings = Field(default_factory=AlertSettings, description="When to alert, and what to do then.")
    notify: Annotated[NotifySettings | None, Field(description="Who is told of changes, alerts and incidents.")] = None
    metrics: MetricsSettings = Field(default_factory=MetricsSettings, description="Where metrics are read and offered.")
    tracing: TracingSettings = Field(default_factory=TracingSettings, description="What is traced, and where it goes.")
    services: Annotated[
        dict[Name, ServiceSettings], Field(min_length=1, description="The services by name: DNS labels.")
    ]
