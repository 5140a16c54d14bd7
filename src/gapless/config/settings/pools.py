"""`pools:` of a service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gapless.config.base import Settings
from gapless.core.model.pools import DeclaredPool


class PoolSettings(Settings):
    size: Annotated[int, Field(ge=1, description="Connections of each worker, at most.", examples=[10])]
    most: Annotated[
        int, Field(ge=0, description="What the other side allows all workers of all services together.", examples=[100])
    ] = 0

    def value(self, name: str) -> DeclaredPool:
        return DeclaredPool(name=name, size=self.size, most=self.most)
