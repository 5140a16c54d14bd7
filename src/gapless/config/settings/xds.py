"""`gateway.xds:`: where gateways elsewhere are told their routes."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from gapless.config.base import Settings
from gapless.config.settings.fields import AddressSchema, address
from gapless.config.settings.references import Reference
from gapless.core.model import Address, Door


class XdsTlsSettings(Settings):
    cert: Annotated[str, Field(min_length=1, description="PEM file: the chain, leaf first.", examples=["tls/xds.pem"])]
    key: Annotated[str, Field(min_length=1, description="PEM file: its key.", examples=["tls/xds.key"])]
    client_ca: Annotated[
        str, Field(description="PEM file: gateways must show a certificate of one of these.", examples=["tls/ca.pem"])
    ] = ""


class XdsSettings(Settings):
    listen: Annotated[
        Address,
        BeforeValidator(address),
        AddressSchema,
        Field(description="Address at which `gapless gateway run` asks.", examples=["127.0.0.1:9901", "0.0.0.0:9901"]),
    ]
    token: Annotated[
        Reference,
        Field(description="A reference to what every gateway must show.", examples=["secret:file:/etc/gapless/token"]),
    ] = ""
    tls: Annotated[XdsTlsSettings | None, Field(description="Speak TLS to gateways.")] = None

    @model_validator(mode="after")
    def _kept(self) -> Self:
        mutual = bool(self.tls and self.tls.client_ca)
        if not ipaddress.ip_address(self.listen.host).is_loopback and not self.token and not mutual:
            raise ValueError(
                f"{self.listen} can be reached from other machines: give a token (secret:file:/path), or tls with "
                "client_ca; or listen on 127.0.0.1"
            )
        return self

    def value(self, base: Path) -> Door:
        if self.tls is None:
            return Door(listen=self.listen, token=self.token)
        ca = str(base / self.tls.client_ca) if self.tls.client_ca else ""
        cert, key = str(base / self.tls.cert), str(base / self.tls.key)
        return Door(listen=self.listen, token=self.token, cert=cert, key=key, client_ca=ca)
