"""The first moments of a TLS connection: handshake, choice of the protocol by ALPN, a word to who speaks no TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from gapless.server.tls.certificates import H2

_log = logging.getLogger("gapless.server")

HANDSHAKE_S = 10.0
SHUTDOWN_S = 1.0
"""How long a client gets to answer our close; few do."""
_BODY = b"This port speaks TLS: use https://\n"
PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)

Make = Callable[[], asyncio.Protocol]


class Entry(asyncio.Protocol):
    """Gives its place to the protocol that the handshake has chosen."""

    def __init__(self, http1: Make, http2: Make) -> None:
        self._http1 = http1
        self._http2 = http2

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol = self._http2() if chosen == H2 else self._http1()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


async def greet(entry: Make, connection: socket.socket, context: ssl.SSLContext) -> None:
    """The handshake. Whoever begins with plain HTTP gets an answer that he can read."""
    loop = asyncio.get_running_loop()
    with connection.dup() as spare:
        try:
            await loop.connect_accepted_socket(
                entry, connection, ssl=context, ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=SHUTDOWN_S
            )
        except ssl.SSLError as error:
            _log.debug("a TLS handshake failed: %s", error)
            if error.reason == "HTTP_REQUEST":
                _say(spare, PLAIN_HTTP)
        except OSError as error:
            connection.close()
            _log.debug("a client was gone before its TLS handshake ended: %s", error)


def _say(sock: socket.socket, text: bytes) -> None:
    """What was sent by then is read away, so that closing does not take our word back."""
    try:
        sock.send(text)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65_536)
    except OSError as error:
        _log.debug("and it was gone then: %s", error)
