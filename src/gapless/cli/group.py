"""Verbs that have verbs of their own."""

from __future__ import annotations

from typing import Any

import typer.core

SHOW = "show"


class OrShow(typer.core.TyperGroup):
    """Without a verb of its own, `gapless metrics orders` is `gapless metrics show orders`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = [SHOW, *args]
        return super().parse_args(ctx, args)
