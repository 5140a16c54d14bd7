"""YAML as text, lists and mappings, with the line of each part.

Plain values are not guessed at: `1.10`, `no` and `0755` stay the text that was written, and the settings' own types
decide what they mean. Duplicate keys, tags and recursive aliases are errors (YAML 1.2, §3.2.1.3 demands unique keys).
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]

_NULL = "tag:yaml.org,2002:null"
_KNOWN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq", "null", "merge"))


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong at a place of the file. `line` counts from 1."""

    line: int
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.path else self.what


@dataclass(slots=True)
class Document:
    """The content of a file, and where its parts stand."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of a part, or of the nearest thing around it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: Path, what: str) -> Problem:
        return Problem(self.line(path), dotted(path), what)


def dotted(path: Path) -> str:
    """`services.orders.routes[0].path`."""
    return re.sub(r"\.\[", "[", ".".join(f"[{part}]" if isinstance(part, int) else part for part in path))


class _Loader(yaml.SafeLoader):
    """The safe loader, without its guesses about plain values: only null and the merge key are told from text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML declares it as an instance's)
        first: [(tag, pattern) for tag, pattern in pairs if tag in _KNOWN_TAGS]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read(text: str) -> Document:
    """The document in `text`; what is wrong with its syntax is in `problems`."""
    document = Document()
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"this is not YAML: {error.problem or error.context}"
        document.problems.append(Problem(mark.line + 1 if mark else 1, "", what))
    except yaml.YAMLError as error:
        document.problems.append(Problem(1, "", f"this is not YAML: {' '.join(str(error).split())}"))
    else:
        if root is not None:
            document.value = _Builder(loader, document).build(root, ())
    return document


@dataclass(slots=True)
class _Builder:
    """Walks the nodes once: plain values out, lines and problems noted on the way."""

    loader: _Loader
    document: Document
    _open: set[int] = field(default_factory=set)

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag not in _KNOWN_TAGS:
            self._complain(node, path, f"the tag {node.tag} has no meaning here; remove it")
            return None
        if id(node) in self._open:
            self._complain(node, path, "this alias contains itself")
            return None
        self._open.add(id(node))
        try:
            return self._content(node, path)
        finally:
            self._open.discard(id(node))

    def _content(self, node: yaml.Node, path: Path) -> Any:
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path)
            case yaml.SequenceNode():
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
            case _:
                return None if node.tag == _NULL else node.value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Hashable, Any]:
        self._check_keys(node, path)
        try:
            self.loader.flatten_mapping(node)
        except yaml.MarkedYAMLError as error:
            self._complain(node, path, f"{error.problem}")
            return {}
        result: dict[Hashable, Any] = {}
        for key, value in node.value:  # merged entries come first, so that the mapping's own ones win
            place = (*path, str(key.value))
            self.document.lines[place] = key.start_mark.line + 1
            result[str(key.value)] = self.build(value, place)
        return result

    def _check_keys(self, node: yaml.MappingNode, path: Path) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._complain(key, path, "a key must be plain text")
            elif key.value in seen:
                self._complain(key, (*path, key.value), f"this key is already there in line {seen[key.value]}")
            else:
                seen[key.value] = line

    def _complain(self, node: yaml.Node, path: Path, what: str) -> None:
        self.document.problems.append(Problem(node.start_mark.line + 1, dotted(path), what))
