"""Whether an answer is one that the OpenAPI document promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gapless.core.errors import ConfigError
from gapless.rollout.contract.spec import Operation, Spec

SHOWN = 3
"""Places of one body that are told."""

Json = Any


def probes(spec: Spec) -> tuple[list[tuple[Operation, str]], list[str]]:
    """The GETs that can be asked, with path and query; and the names of those without examples for what they need."""
    asked, left = [], []
    for operation in spec.operations():
        if operation.method == "get":
            if (example := operation.example()) is not None:
                asked.append((operation, example))
            else:
                left.append(operation.name)
    return asked, left


def problems(operation: Operation, status: int, content_type: str, body: bytes) -> list[str]:
    """What of an answer was not promised, one sentence each. Raises ConfigError without jsonschema."""
    if status >= 500:
        return [f"{operation.name} answers {status}"]
    responses = operation.responses()
    promised = next((k for k in (str(status), f"{status // 100}XX", "default") if k in responses), "")
    if not promised:
        return [f"{operation.name} answers {status}, which is not in its responses ({', '.join(sorted(responses))})"]
    content = responses[promised].get("content", {})
    kind = content_type.partition(";")[0].strip().lower()
    if not content or not body:
        return []
    if kind not in content:
        return [f"{operation.name} answers {status} as {kind or 'nothing'}, not as {', '.join(sorted(content))}"]
    if not (kind == "application/json" or kind.endswith("+json")):
        return []
    return [
        f"{operation.name} {status} {told}" for told in _body(operation.spec, content[kind].get("schema", {}), body)
    ]


def _body(spec: Spec, schema: Json, body: bytes) -> list[str]:
    try:
        value = json.loads(body)
    except ValueError:
        return ["is not JSON"]
    return list(_invalid(spec, schema, value))[:SHOWN]


def _invalid(spec: Spec, schema: Json, value: Json) -> Iterator[str]:
    """Places without values: they may be somebody's data."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ImportError:
        raise ConfigError("a contract is checked by jsonschema", "pip install 'gapless[contract]'") from None
    whole = {**modern(schema), "components": modern(spec.root.get("components", {}))}
    try:
        Draft202012Validator.check_schema(modern(schema))
    except SchemaError as wrong:
        yield f"has no valid schema: {wrong.message[:200]}"
        return
    for error in Draft202012Validator(whole).iter_errors(value):
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        yield f"${place}: not as promised by {error.validator} ({_wanted(error.validator_value)})"


def _wanted(value: Json) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def modern(schema: Json) -> Json:
    """A schema of OpenAPI 3.0 as JSON Schema 2020-12: `nullable` is a type, exclusive bounds are numbers."""
    if isinstance(schema, list):
        return [modern(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: modern(each) for key, each in schema.items() if (key, type(each)) != ("nullable", bool)}
    if schema.get("nullable") is True and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
        if isinstance(found.get("enum"), list):
            found["enum"] = [*found["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(found.get(exclusive), bool) and found.pop(exclusive) and bound in found:
            found[exclusive] = found.pop(bound)
    return found
