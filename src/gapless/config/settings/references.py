"""Keys whose value is a secret that stands elsewhere (`config.secret_references`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from gapless.config.secret_references import PREFIX, misfit
from gapless.config.settings.fields import text


def reference(value: str) -> str:
    """Raises ValueError for what begins as a reference and is none."""
    if value.startswith(PREFIX) and (wrong := misfit(value)):
        raise ValueError(wrong)
    return value


def _secret(value: str) -> str:
    if value and not value.startswith(PREFIX):
        raise ValueError("a secret does not stand in this file; write secret:env:NAME or secret:file:/path")
    return reference(value)


Reference = Annotated[str, BeforeValidator(text), AfterValidator(_secret)]
