"""Notices to real receivers: HTTP, SMTP and programs, and what they may do to us: refuse, hang, swallow."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from gapless.control.notify.notifier import Notifier
from gapless.control.records import Records
from gapless.core.model import Change
from gapless.core.model.notice import Channel, NotifyPolicy
from gapless.core.world import RealWorld
from gapless.observe.notice_sign import verified
from gapless.store.memory import MemoryStore
from tests.integration.notify_kit import receiving

LIMIT_S = 20.0


class Told:
    """A notifier with one channel, on a store in memory."""

    def __init__(self, channel: Channel, base: Path) -> None:
        self.world = RealWorld()
        self.records = Records(MemoryStore(self.world), lambda: None)
        self.notifier = Notifier(
            NotifyPolicy(channels=(channel,)), "shop", base, self.records, self.world, lambda: None
        )

    async def begin(self) -> None:
        await self.records.load()
        await self.notifier.step()

    async def change(self, what: str = "scale web from 2 to 3 instances") -> None:
        number = self.records.next_change()
        change = Change(number=number, at=self.world.time(), who="ann", what=what, service="web")
        await self.records.write(change)

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, self.status()
            await self.notifier.step()
            await asyncio.sleep(0.02)

    def status(self) -> Any:
        return self.notifier.status()[0]

    async def end(self) -> None:
        await self.notifier.jobs.cancel()


async def test_a_webhook_gets_it_signed_again_after_a_failure_and_with_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_KEY", "sesame")
    with receiving() as receiver:
        receiver.answers = [(503, {"retry-after": "1"}), (500, {})]
        channel = Channel(name="hook", webhook=f"{receiver.url}/x", secret="secret:env:HOOK_KEY")
        told = Told(channel, tmp_path)
        await told.begin()
        await told.change()
        await told.until(lambda: told.status()["delivered"] == 1)
    assert len(receiver.heard) == 3
    assert {heard.headers["x-gapless-id"] for heard in receiver.heard} == {"shop-change-1"}
    last = receiver.heard[-1]
    assert verified("sesame", last.body, last.headers["x-gapless-signature"], told.world.time())
    assert last.json["title"] == "scale web from 2 to 3 instances"
    await told.end()


async def test_slack_gets_its_form_and_what_it_refuses_for_ever_is_a_dead_letter(tmp_path: Path) -> None:
    with receiving() as receiver:
        receiver.answers = [(200, {}), (404, {})]
        told = Told(Channel(name="chat", slack=receiver.url), tmp_path)
        await told.begin()
        await told.change()
        await told.until(lambda: told.status()["delivered"] == 1)
        await told.change("the channel was deleted")
        await told.until(lambda: told.status()["died"] == 1)
    assert receiver.heard[0].json["blocks"][0]["text"]["text"] == "*scale web from 2 to 3 instances*"
    assert told.status()["dead"][0]["error"] == "it answered 404"
    await told.end()


@contextmanager
def black_hole() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["webhook", "slack", "email", "command"])
async def test_what_hangs_is_given_up_and_named(tmp_path: Path, kind: str) -> None:
    with black_hole() as hole:
        ways: dict[str, dict[str, Any]] = {
            "webhook": {"webhook": f"http://{hole}/"},
            "slack": {"slack": f"http://{hole}/"},
            "email": {"mail_to": ("a@b.example",), "mail_from": "c@d.example", "server": f"smtp://{hole}"},
            "command": {"command": ("sleep", "60")},
        }
        told = Told(Channel(name="hole", timeout_s=0.5, **ways[kind]), tmp_path)
        await told.begin()
        await told.change()
        await told.until(lambda: told.status()["attempts"] >= 1)
    assert told.status()["error"]
    assert told.status()["waiting"] == 1
    await told.end()


class Mailbox:
    """An SMTP server's handler that keeps what it gets; `refuse`: the answer to the next recipients."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.refuse: list[str] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.refuse:
            return self.refuse.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.messages.append(envelope)
        return "250 OK"


def login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"shop", b"sesame"))


async def test_mail_is_sent_with_a_login_and_again_when_the_server_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "sesame")
    mailbox = Mailbox()
    mailbox.refuse = ["451 try later"]
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(mailbox, authenticator=login, auth_require_tls=False, timeout=20), "127.0.0.1", 0
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        channel = Channel(
            name="mail",
            mail_to=("ops@shop.example",),
            mail_from="gapless@shop.example",
            server=f"smtp://127.0.0.1:{port}",
            user="shop",
            password="secret:env:SMTP_PASSWORD",
        )
        told = Told(channel, tmp_path)
        await told.begin()
        await told.change("a line\nbreak, and ümlauts")
        await told.until(lambda: told.status()["delivered"] == 1)
    (envelope,) = mailbox.messages
    assert envelope.rcpt_tos == ["ops@shop.example"]
    assert b"Message-ID: <shop-change-1@shop.example>" in envelope.content
    assert b"Bcc" not in envelope.content
    await told.end()


async def test_a_command_gets_json_on_its_standard_input_and_its_failure_is_shown(tmp_path: Path) -> None:
    script = tmp_path / "page"
    script.write_text('#!/bin/sh\n[ -e ready ] || { touch ready; echo "no line"; exit 3; }\ncat > heard.json\n')
    script.chmod(0o755)
    told = Told(Channel(name="pager", command=("./page", "--now")), tmp_path)
    await told.begin()
    await told.change()
    await told.until(lambda: told.status()["attempts"] == 1)
    assert told.status()["error"] == "./page ended with 3: no line"
    await told.until(lambda: told.status()["delivered"] == 1)
    assert json.loads((tmp_path / "heard.json").read_text())["id"] == "shop-change-1"
    await told.end()
