"""An app of Litestar, in a module of its own: the import takes longer than the tests of many a file."""

from __future__ import annotations

import litestar
from litestar.params import FromPath


@litestar.get("/orders/{number:int}")
async def order(number: FromPath[int]) -> str:
    return str(number)


def app() -> litestar.Litestar:
    return litestar.Litestar([order])
