"""What an app meets whose client does not wait any more."""

from __future__ import annotations


class ClientGone(ConnectionError):
    """What `send` raises when nobody listens any more (ASGI 2.4)."""


def caused_by_the_client(error: BaseException | None) -> bool:
    """Whether it is, or was made of, what our own `send` raised."""
    while error is not None and not isinstance(error, ClientGone):
        error = error.__cause__ or error.__context__
    return error is not None
