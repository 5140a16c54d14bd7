"""XML reports."""

from __future__ import annotations

from xml.etree import ElementTree


def parse(text: str) -> ElementTree.Element:
    """The root element. Raises ValueError with the place that is no XML."""
    try:
        return ElementTree.fromstring(text)  # noqa: S314  expat ends entity expansion itself since 2.4.1
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from None
