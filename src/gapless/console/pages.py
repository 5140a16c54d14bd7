"""The pages: where each is, what makes its view, and how its template is rendered, whole or region by region.

A template is a file `templates/NAME.html`. Its blocks `region_…` are what changes: the stream sends a region again when
its HTML has.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapless.console import words
from gapless.console.sight import Sight

if TYPE_CHECKING:
    from jinja2 import Environment

Params = Mapping[str, str]
"""Of the path and of the query together."""
View = Callable[[Sight, Params], Awaitable[Any]]
REGION = "region_"
BASE, PIECES = "base.html", "pieces.html"
HERE = Path(__file__).parent
_CODE = re.compile("`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`tab`: the entry of the menu that it belongs to. `path` is starlette's."""

    name: str
    path: str
    title: str
    view: View
    tab: str


@cache
def _environment(assets: Callable[[str], str]) -> Environment:
    """One for each way to name assets: what it has compiled serves every console of the process."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = ("rate", "took", "percent", "weight", "lasted", "count", "evidence", "times", "iso", "clock", "day")
    environment.filters |= {name: getattr(words, name) for name in shown}
    environment.filters["said"] = _said
    environment.globals["asset"] = assets
    # Regions are rendered alone, without what their template imports: macros are known everywhere.
    pieces = environment.get_template(PIECES).module
    environment.globals |= {name: piece for name, piece in vars(pieces).items() if not name.startswith("_")}
    return environment


class Templates:
    """Nothing is loaded before the first page is asked for."""

    def __init__(self, assets: Callable[[str], str]) -> None:
        self._assets = assets

    @property
    def _environment(self) -> Environment:
        return _environment(self._assets)

    def whole(self, name: str, values: Mapping[str, Any]) -> str:
        """A page as HTML."""
        return self._environment.get_template(name).render(values)

    def regions(self, name: str, values: Mapping[str, Any]) -> dict[str, str]:
        """The parts of a page that change, by the id of the element that they are in."""
        template = self._environment.get_template(name)
        blocks = {**self._environment.get_template(BASE).blocks, **template.blocks}
        context = template.new_context(dict(values))
        return {
            block.removeprefix(REGION): "".join(render(context)).strip()
            for block, render in blocks.items()
            if block.startswith(REGION)
        }


def _said(text: str) -> str:
    """A sentence as HTML: what it has in backticks is code."""
    from markupsafe import Markup, escape

    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - it was escaped just now
