"""Notices by mail: SMTP (RFC 5321) by Python's own client, in a thread, because it blocks."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
import threading
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from email.utils import format_datetime
from urllib.parse import urlsplit

from gapless.core.model.notice import Channel
from gapless.core.ports import World
from gapless.observe.notice_queue import Attempt, Batch
from gapless.observe.notice_words import as_mail

PORTS = {"smtp": 25, "smtps": 465}


def message_of(channel: Channel, batch: Batch) -> EmailMessage:
    """The id of the message is that of the notice: mail programs show a double once."""
    from datetime import UTC, datetime

    told = batch.message
    subject, text = as_mail(told)
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = channel.mail_from
    message["To"] = ", ".join(channel.mail_to)
    message["Date"] = format_datetime(datetime.fromtimestamp(told.at, UTC))
    message["Message-ID"] = f"<{told.id}@{channel.mail_from.rpartition('@')[2].strip('> ') or 'gapless'}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message.set_content(text)
    return message


async def send_mail(channel: Channel, batch: Batch, secrets: Mapping[str, str], world: World) -> Attempt:
    """To all addresses of the channel at once."""
    message = message_of(channel, batch)
    return await in_thread(lambda: _send(channel, message, secrets["password"]))


async def in_thread(work: Callable[[], Attempt]) -> Attempt:
    """In a thread that the end of the process does not wait for: a server that hangs must not keep us."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Attempt] = loop.create_future()

    def tell(attempt: Attempt) -> None:
        if not done.done():  # else the channel's limit has passed
            done.set_result(attempt)

    def run() -> None:
        attempt = work()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits for it
            loop.call_soon_threadsafe(tell, attempt)

    threading.Thread(target=run, name="gapless-mail", daemon=True).start()
    return await done


def _send(channel: Channel, message: EmailMessage, password: str) -> Attempt:
    server = urlsplit(channel.server)
    port = server.port or PORTS[server.scheme]
    try:
        with _connected(server.scheme, server.hostname or "", port, channel.timeout_s) as client:
            if server.scheme == "smtp" and client.has_extn("starttls"):
                client.starttls(context=ssl.create_default_context())
                client.ehlo()
            if channel.user:
                client.login(channel.user, password)
            client.send_message(message)
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return Attempt(ok=False, error=f"it answered {error.smtp_code}: {said}", final=error.smtp_code >= 500)
    except smtplib.SMTPRecipientsRefused as error:
        return Attempt(ok=False, error=f"recipients refused: {', '.join(error.recipients)}", final=_for_ever(error))
    except (smtplib.SMTPException, OSError, ValueError) as error:
        return Attempt(ok=False, error=f"{type(error).__name__}: {error}".rstrip(": "))
    return Attempt(ok=True)


def _connected(scheme: str, host: str, port: int, timeout_s: float) -> smtplib.SMTP:
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=timeout_s, context=ssl.create_default_context())
    client = smtplib.SMTP(host, port, timeout=timeout_s)
    client.ehlo()
    return client


def _for_ever(error: smtplib.SMTPRecipientsRefused) -> bool:
    return all(code >= 500 for code, _ in error.recipients.values())
