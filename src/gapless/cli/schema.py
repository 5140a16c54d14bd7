"""`gapless schema`: the JSON Schema of gapless.yaml."""

from __future__ import annotations


def schema_command() -> None:
    """Print the JSON Schema of gapless.yaml, for editors and checks.

    An editor uses it when the first line of gapless.yaml is
    `# yaml-language-server: $schema=gapless.schema.json`.

    Example: gapless schema > gapless.schema.json
    """
    from gapless.cli.output import emit
    from gapless.config import schema

    emit(schema(), json=True)
