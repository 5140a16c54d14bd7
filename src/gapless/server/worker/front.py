"""What a worker's life on its loop (`serving.py`) drives: the part that speaks with clients, whatever they speak."""

from __future__ import annotations

from typing import Protocol


class Front(Protocol):
    """`probe` until it is ready, `open`, then `tell`, `stop_accepting`, `gone`, and `cut` when that took too long."""

    @property
    def count(self) -> int:
        """Connections now."""

    async def probe(self) -> bool:
        """Ask ourselves whether the service is ready, through the real protocol but no listener: the first client
        finds everything imported and in place."""

    def open(self) -> None:
        """Accept from now on. Also after `pause`."""

    async def pause(self) -> None:
        """Accept no more, for now. Connections that can be handed over go to those that serve, the others stay, and so
        do the listeners: `open` makes it as it was."""

    def share(self, workers: int) -> None:
        """So many workers serve from now on, this one counted."""

    def beat(self) -> None:
        """Called once a second, from the first readiness on."""

    def tell(self, idle_s: float, *, hand_over: bool) -> None:
        """This worker leaves: each response is its connection's last, and connections that are quiet for `idle_s` are
        closed. `hand_over`: others serve on, and take what can be handed to them instead. Called again when there is
        less time, or nobody left to take over."""

    async def stop_accepting(self, *, last: bool) -> None:
        """`last`: nobody else accepts either, so what is queued by now is taken."""

    def parted(self) -> None:
        """None of those that leave accepts any more: clients that will come back at once (WebSockets, event streams)
        can be sent away. Without this word they are, some time after we stopped accepting."""

    async def gone(self, limit_s: float) -> bool:
        """Wait until all connections have ended; False when the limit passed first. After `tell`."""

    async def cut(self) -> int:
        """The deadline has passed: end what is left; returns how many connections that were."""
