"""The way in: TLS with certificates that are renewed live, HTTP/2, the redirect to https, CORS."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import trustme

from gapless.core.errors import CertificateRefused
from gapless.core.events import CertificatesChanged
from gapless.core.model import Address, Certificate, Cors, Entrance, Route
from gapless.gateway.envoy import admin
from tests.integration.envoy_kit import HOST, Rig, ask, eventually, gateway, running, service, table
from tests.integration.tls_kit import Authority
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


@asynccontextmanager
async def secured() -> AsyncIterator[tuple[Rig, Authority, int]]:
    """A gateway with a certificate for localhost, another one for shop.example, and a redirect from the port."""
    state = Path(tempfile.mkdtemp(prefix="g-"))
    (state / "tls").mkdir()
    authority, events = Authority(state / "tls"), []
    other = authority.ca.issue_cert("shop.example")
    (state / "tls" / "shop.pem").write_bytes(b"".join(b.bytes() for b in other.cert_chain_pems))
    (state / "tls" / "shop.key").write_bytes(other.private_key_pem.bytes())
    listen, plain = Address(host=HOST, port=free_port(HOST)), Address(host=HOST, port=free_port(HOST))
    certificates = (
        Certificate(cert=str(authority.cert), key=str(authority.key)),
        Certificate(cert=str(state / "tls" / "shop.pem"), key=str(state / "tls" / "shop.key")),
    )
    entrance = Entrance(listen=listen, certificates=certificates, redirect=plain)
    rig = Rig(gateway(listen.port, state, events, entrance), listen.port, state, events)
    try:
        await rig.traffic.start()
        yield rig, authority, plain.port
    finally:
        for upstream in rig.upstreams:
            await upstream.stop()
        await rig.traffic.stop(drain_s=1)
        shutil.rmtree(state)


async def peer(port: int, context: ssl.SSLContext, name: str = "localhost") -> tuple[int, str]:
    """(serial number of the certificate that a new connection gets, protocol that was agreed on)."""
    _, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname=name)
    tls = writer.get_extra_info("ssl_object")
    found = tls.getpeercert()
    writer.close()
    return int(found["serialNumber"], 16), tls.selected_alpn_protocol() or ""


async def modified(rig: Rig) -> str:
    """How often a listener was changed, in Envoy's own count."""
    return await admin.ask(rig.state / "envoy" / "admin.sock", "GET", "/stats?filter=listener_(modified|removed)$")


async def test_tls_with_both_protocols_names_and_certificates_renewed_under_a_long_request() -> None:
    async with secured() as (rig, authority, plain):
        upstream = await rig.upstream("old")
        await rig.traffic.apply(table(service([upstream.endpoint()])))
        context = authority.client("h2", "http/1.1")
        first, protocol = await peer(rig.port, context)
        assert protocol == "h2"
        assert await peer(rig.port, authority.client("http/1.1"), "shop.example") != (first, "http/1.1")
        before = await modified(rig)
        async with httpx.AsyncClient(http2=True, verify=context) as client:
            reply = await client.get(f"https://localhost:{rig.port}/orders")
            assert (reply.status_code, reply.http_version, reply.text) == (200, "HTTP/2", "old")
            slow = asyncio.create_task(client.get(f"https://localhost:{rig.port}/orders?wait=3"))
            await eventually(lambda: any("wait=3" in path for _, path, _ in upstream.seen))
            authority.issue()
            await renewed(rig.port, context, first)
            assert rig.events[-1] == CertificatesChanged(text="new connections get the new certificate")
            assert (await slow).text == "old", "what was under way was not cut off"
        assert await modified(rig) == before, "no listener was touched"
        await redirected(plain, rig.port)
        await refused_pairs(rig, authority, context)


async def renewed(port: int, context: ssl.SSLContext, first: int) -> None:
    async with asyncio.timeout(15):
        while (await peer(port, context))[0] == first:
            await asyncio.sleep(0.1)


async def redirected(plain: int, port: int) -> None:
    async with httpx.AsyncClient() as client:
        reply = await client.post(f"http://localhost:{plain}/orders?x=1")
    assert (reply.status_code, reply.headers["location"]) == (308, f"https://localhost:{port}/orders?x=1")


async def refused_pairs(rig: Rig, authority: Authority, context: ssl.SSLContext) -> None:
    """Whatever is wrong with a new pair: it is said, and the old one serves on."""
    serial, _ = await peer(rig.port, context)
    for spoil, why in ((mismatch, "is not the key of"), (nonsense, "no certificate and key in PEM"), (old, "expired")):
        known = len(rig.events)
        spoil(authority)
        await eventually(lambda known=known: len(rig.events) > known)  # type: ignore[misc]
        said = rig.events[-1]
        assert isinstance(said, CertificatesChanged)
        assert not said.ok
        assert why in said.text
        assert (await peer(rig.port, context))[0] == serial
        assert (await rig.traffic.apply(table(version=5))) == 5, "the routes go on changing"
    authority.issue()
    await renewed(rig.port, context, serial)


def mismatch(authority: Authority) -> None:
    authority.issue(key=False)


def nonsense(authority: Authority) -> None:
    authority.spoil()


def old(authority: Authority) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    pair = authority.ca.issue_cert("localhost", not_after=yesterday)
    authority.cert.write_bytes(b"".join(b.bytes() for b in pair.cert_chain_pems))
    authority.key.write_bytes(pair.private_key_pem.bytes())


async def test_a_gateway_does_not_start_with_a_pair_that_is_none(short_dir: Path) -> None:
    ca = trustme.CA()
    one, other = ca.issue_cert("localhost"), ca.issue_cert("localhost")
    (short_dir / "c").write_bytes(one.cert_chain_pems[0].bytes())
    (short_dir / "k").write_bytes(other.private_key_pem.bytes())
    pair = Certificate(cert=str(short_dir / "c"), key=str(short_dir / "k"))
    entrance = Entrance(listen=Address(host=HOST, port=free_port(HOST)), certificates=(pair,))
    with pytest.raises(CertificateRefused, match="is not the key of"):
        await gateway(0, short_dir, [], entrance).start()


async def test_http_2_without_tls(rig: Rig) -> None:
    upstream = await rig.upstream("old")
    await rig.traffic.apply(table(service([upstream.endpoint()])))
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        replies = await asyncio.gather(*(client.get(f"http://127.0.0.1:{rig.port}/orders?n={n}") for n in range(50)))
    assert {(r.status_code, r.http_version) for r in replies} == {(200, "HTTP/2")}


async def test_pages_of_other_origins(rig: Rig) -> None:
    upstream = await rig.upstream("old")
    policy = Cors(origins=("https://shop.example", "https://*.shop.example"), headers=("x-user-id",), credentials=True)
    own = Route(path="/orders/open", cors=Cors(origins=("*",)))
    found = service([upstream.endpoint()], routes=[Route(path="/orders"), own])
    await rig.traffic.apply(table(replace(found, cors=policy)))
    preflight = {"access-control-request-method": "PUT"}
    for origin, path, allowed in (
        ("https://shop.example", "/orders", True),
        ("https://a.shop.example", "/orders", True),
        ("https://shop.example.evil", "/orders", False),
        ("https://else.example", "/orders/open", True),
    ):
        reply = await ask(rig.port, path, method="OPTIONS", headers={"origin": origin, **preflight})
        assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)
        reply = await ask(rig.port, path, headers={"origin": origin})
        assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)
    asked = {"origin": "https://shop.example", **preflight}
    reply = await ask(rig.port, "/orders", method="OPTIONS", headers=asked)
    assert "PUT" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-allow-credentials"] == "true"
    assert (await ask(rig.port, "/orders", headers={"origin": "https://x.test"})).status == 200, "browsers refuse"


async def test_no_deploy_touches_a_listener(rig: Rig) -> None:
    old_, new = await rig.upstream("old"), await rig.upstream("new")
    both = [old_.endpoint("1"), new.endpoint("2")]
    await rig.traffic.apply(table(service(both)))
    before = await modified(rig)
    for version, canary in enumerate((100, 5_000, 10_000, 0), start=2):
        await rig.traffic.apply(table(service(both, canary=canary), service(both, name=f"n{version}"), version=version))
    assert await modified(rig) == before
