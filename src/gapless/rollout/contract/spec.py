"""An OpenAPI 3.0 or 3.1 document: operations with their references followed. Source: OpenAPI 3.1.0."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
DEEPEST = 50
"""References that lead to references; more are a ring."""

Json = Any


@dataclass(frozen=True, slots=True)
class Spec:
    """`root`: the document."""

    root: Mapping[str, Json]

    @classmethod
    def parse(cls, text: str) -> Spec:
        """JSON or YAML. Raises ValueError."""
        try:
            found = json.loads(text) if text.lstrip().startswith("{") else _yaml(text)
        except ValueError as error:
            raise ValueError(f"neither JSON nor YAML: {error}") from None
        if not isinstance(found, dict) or not isinstance(found.get("paths"), dict):
            raise ValueError("no OpenAPI document: there are no `paths`")
        if not str(found.get("openapi", "")).startswith("3."):
            raise ValueError(f"OpenAPI {found.get('openapi', found.get('swagger', '?'))} is not read; 3.0 and 3.1 are")
        return cls(found)

    def follow(self, value: Json) -> Json:
        """What a `$ref` leads to; anything else as it is. Raises ValueError for one that leads nowhere."""
        for _ in range(DEEPEST):
            if not isinstance(value, dict) or not isinstance(value.get("$ref"), str):
                return value
            value = self._at(value["$ref"])
        raise ValueError("references lead in a ring")

    def _at(self, reference: str) -> Json:
        if not reference.startswith("#/"):
            raise ValueError(f"the reference {reference} leads out of the document")
        value: Json = self.root
        for part in reference[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(value, dict) or key not in value:
                raise ValueError(f"the reference {reference} leads nowhere")
            value = value[key]
        return value

    def operations(self) -> Iterator[Operation]:
        """Every method of every path."""
        for path, found in self.root["paths"].items():
            item = self.follow(found)
            for method in METHODS:
                if isinstance(operation := item.get(method), dict):
                    shared = item.get("parameters", ())
                    yield Operation(self, path, method, operation, tuple(shared))


@dataclass(frozen=True, slots=True)
class Operation:
    spec: Spec
    path: str
    method: str
    value: Mapping[str, Json]
    shared: tuple[Json, ...]

    @property
    def name(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def key(self) -> str:
        """The same for callers, whatever the parameters in the path are called."""
        return f"{self.method} {re.sub(r'{[^}]*}', '{}', self.path)}"

    def parameters(self) -> dict[tuple[str, str], Mapping[str, Json]]:
        """By place and name; the operation's own win."""
        found = [self.spec.follow(each) for each in (*self.shared, *self.value.get("parameters", ()))]
        return {(each["in"], each["name"]): each for each in found}

    def body(self) -> Mapping[str, Json]:
        """The request body; empty when there is none."""
        found: Mapping[str, Json] = self.spec.follow(self.value.get("requestBody", {}))
        return found

    def responses(self) -> dict[str, Mapping[str, Json]]:
        """By status: `200`, `2XX`, `default`."""
        return {str(status): self.spec.follow(each) for status, each in self.value.get("responses", {}).items()}

    def example(self) -> str | None:
        """Path and query to ask it by, from the document's own examples; None when a required value has none."""
        path, query = self.path, {}
        for (place, name), parameter in self.parameters().items():
            value = _example(self.spec, parameter)
            needed = place == "path" or parameter.get("required")
            if needed and (value is None or place not in ("path", "query")):
                return None
            if place == "path":
                path = path.replace(f"{{{name}}}", quote(_text(value), safe=""))
            elif needed:
                query[name] = _text(value)
        return f"{path}?{urlencode(query)}" if query else path


def _example(spec: Spec, parameter: Mapping[str, Json]) -> Json:
    """The first that is given: of the parameter, or of its schema."""
    if "example" in parameter:
        return parameter["example"]
    for each in parameter.get("examples", {}).values():
        return spec.follow(each).get("value")
    schema = spec.follow(parameter.get("schema", {}))
    for key in ("example", "default"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    return None


def _text(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _yaml(text: str) -> Json:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
