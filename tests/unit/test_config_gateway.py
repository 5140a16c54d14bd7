"""What gapless.yaml says to the gateway, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapless.config import load
from gapless.core.errors import ConfigError
from gapless.core.model import Address, Certificate, Cors, Protocol, Upstream

HEAD = "system: shop\n"
SERVICE = "services:\n  orders:\n    command: [run]\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "gapless.yaml"
    path.write_text(text)
    return path


def test_every_key_becomes_its_value(tmp_path: Path) -> None:
    system = load(
        written(
            tmp_path,
            HEAD
            + 'gateway: {listen: ":8443", zone: a, tls: {certificates: {cert: c.pem, key: k.pem}, redirect: ":8080"}}\n'
            + SERVICE
            + "    protocol: http2\n    zones: [a, b]\n    ready: /up\n"
            + "    gateway: {connect: 200ms, idle: 3s, connections: 9, slow_start: 30s, eject_after: 0, hedge: 1s}\n"
            + '    cors: {origins: "https://*.shop.example", headers: x-user-id, credentials: true, max_age: 1m}\n'
            + '    routes: [{path: /open, cors: {origins: "*"}}]\n',
        )
    )
    entrance = system.gateway.entrance
    assert entrance.certificates == (Certificate(cert=str(tmp_path / "c.pem"), key=str(tmp_path / "k.pem")),)
    assert (entrance.redirect, entrance.zone) == (Address(host="127.0.0.1", port=8080), "a")
    service = system.services["orders"]
    assert service.upstream == Upstream(
        protocol=Protocol.HTTP2,
        connect_s=0.2,
        idle_s=3.0,
        connections=9,
        slow_start_s=30.0,
        eject_after=0,
        hedge_s=1.0,
        zones=("a", "b"),
        check="/up",
    )
    assert service.cors == Cors(
        origins=("https://*.shop.example",), headers=("x-user-id",), credentials=True, max_age_s=60
    )
    assert service.routes[0].cors == Cors(origins=("*",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("    protocol: soap\n", "orders.protocol"),
        ('    cors: {origins: "shop.example"}\n', "not an origin"),
        ('    cors: {origins: "*", credentials: true}\n', "credentials for any origin"),
        ('    cors: {origins: "*", methods: [get]}\n', "not a method"),
        ("    gateway: {eject_most: 200}\n", "eject_most"),
        ("    gateway: {conect: 1s}\n", 'did you mean "connect"'),
        ("    protocol: grpc\n    ready: /up\n", "write /grpc.health.v1.Health/Check"),
        ("    protocol: grpc\n    rollout: {mirror: 10%}\n", "only answers of HTTP are mirrored"),
        ("    protocol: grpc\n    rollout: {gates: [{smoke: {path: /}}]}\n", "smoke asks by HTTP"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, HEAD + SERVICE + text))
    assert why in caught.value.what


def test_tls_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.tls\.certificates"):
        load(written(tmp_path, HEAD + "gateway: {tls: {certificates: []}}\n" + SERVICE))
