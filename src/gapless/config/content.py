"""A settings file as plain data with the line of each part: YAML, JSON or TOML, by its suffix.

YAML's plain values stay the text that was written, and the settings' own types decide what they mean (see `document`).
JSON and TOML say themselves what is a number.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from gapless.config.document import Document, Path, Problem, read

_TABLE = re.compile(r"^\s*\[(\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-.\"' ]+?)\s*=")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)|\(at end of document\)")


def parsed(text: str, name: str) -> Document:
    """The document in a file of this name. What is wrong with it, also that it is no mapping, is in its `problems`."""
    if name.endswith(".toml"):
        document = _toml(text)
    elif name.endswith(".json"):
        document = _json(text)
    else:
        document = read(text)
    if document.value is None and not document.problems:
        document.value = {}
    if not document.problems and not isinstance(document.value, dict):
        document.problems.append(Problem(1, "", "not a mapping (key: value)"))
    return document


def _json(text: str) -> Document:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return Document(problems=[Problem(error.lineno, "", f"this is not JSON: {error.msg}")])
    document = read(text.replace("\t", " "))  # JSON is YAML but for tabs, which are never inside of its strings
    document.value = value
    return document


def _toml(text: str) -> Document:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _TOML_LINE.search(str(error))
        line = int(found[1]) if found and found[1] else len(text.splitlines())
        return Document(problems=[Problem(line, "", f"this is not TOML: {_TOML_LINE.sub('', str(error)).strip()}")])
    return Document(value=value, lines=_toml_lines(text, value))


def _toml_lines(text: str, value: Any) -> dict[Path, int]:
    """The line of each key, found by its look: tomllib tells no positions. What stands inside of a string of several
    lines is passed over."""
    lines: dict[Path, int] = {(): 1}
    table: Path = ()
    quote = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not quote and (found := _TABLE.match(line)):
            table = _table(found[2], bool(found[1]), lines)
            lines.setdefault(table, number)
        elif not quote and (found := _KEY.match(line)):
            lines.setdefault((*table, *_keys(found[1])), number)
        quote = _open_quote(line, quote)
    return lines


def _table(name: str, is_item: bool, lines: dict[Path, int]) -> Path:
    path: Path = _keys(name)
    if not is_item:
        return path
    index = 0
    while (*path, index) in lines:
        index += 1
    return (*path, index)


def _keys(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _open_quote(line: str, quote: str) -> str:
    """Which string of several lines is open behind this line."""
    for found in re.findall(r'"""|\'\'\'', line):
        quote = "" if found == quote else quote or found
    return quote
