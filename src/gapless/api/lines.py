"""A stream of JSON lines that ends with its reader, or with the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import suppress

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Lines(StreamingResponse):
    """Starlette relies on the next write to fail, and a stream on which nothing happens has none: it would hold what it
    follows after its reader has gone, and have to be cancelled when the server ends."""

    def __init__(self, content: AsyncIterable[bytes]) -> None:
        super().__init__(content, media_type="application/x-ndjson")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                with suppress(OSError):  # the reader has gone
                    sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
