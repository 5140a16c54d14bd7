"""`by:`, `override:`, `always:` and `never:` of `rollout:`: who meets which release."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, WithJsonSchema

from gapless.config.base import Settings
from gapless.config.settings.fields import text
from gapless.config.settings.routes import header_name, token
from gapless.core.model import Exceptions, Group, Override, SplitBy
from gapless.core.model.routing import ANYWHERE, LOCAL
from gapless.core.networks import network

_OVERRIDE = Override()
OFF = "off"
_WORDS = {"anyone": ANYWHERE, "local": LOCAL, "nobody": ()}
_NAMED = {SplitBy.HEADER: header_name, SplitBy.COOKIE: token}
MOST_USERS, LONGEST_USER = 1_000, 128
"""All of them are one expression of the gateway's."""


class By(NamedTuple):
    """What decides, and its name if it has one."""

    by: SplitBy
    name: str = ""


def as_by(value: Any) -> By:
    """`user`, or `{cookie: session}`. Raises ValueError."""
    if isinstance(value, By):
        return value
    kind, name = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (value, None)
    try:
        by = SplitBy(kind)
    except ValueError:
        raise ValueError(f"neither {_CHOICES}") from None
    if by in _NAMED:
        if name is None:
            raise ValueError(f"which {by}? Write {{{by}: NAME}}")
        return By(by, _NAMED[by](name))
    if name is not None:
        raise ValueError(f"`{by}` has no name; write by: {by}")
    return By(by)


_CHOICES = " nor ".join([*(by for by in SplitBy if by not in _NAMED), *(f"{{{by}: NAME}}" for by in _NAMED)])
_NAME_SCHEMA = {"type": "object", "additionalProperties": False, "minProperties": 1, "maxProperties": 1}
BY_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"enum": [by.value for by in SplitBy if by not in _NAMED]},
            {**_NAME_SCHEMA, "properties": {by.value: {"type": "string"} for by in _NAMED}},
        ]
    }
)


def _named(read: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: "" if value == OFF else read(value))


def _networks(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f'neither {", ".join(_WORDS)} nor a list of networks such as "10.0.0.0/8"')
    return tuple(network(text(each)) for each in value)


_NetworksSchema = WithJsonSchema(
    {"anyOf": [{"enum": list(_WORDS)}, {"type": "array", "items": {"type": "string"}}], "default": "local"}
)


class OverrideSettings(Settings):
    header: Annotated[
        str, _named(header_name), Field(description="Header with the release; `off`: none.", examples=[OFF])
    ] = _OVERRIDE.header
    cookie: Annotated[
        str, _named(token), Field(description="Cookie with the release; `off`: none.", examples=[OFF])
    ] = _OVERRIDE.cookie
    allow: Annotated[
        tuple[str, ...],
        BeforeValidator(_networks),
        _NetworksSchema,
        Field(
            description="From where: `local` (this machine), `anyone`, `nobody`, or networks.",
            examples=["anyone", ["10.0.0.0/8"]],
            json_schema_extra={"default": "local"},
        ),
    ] = _OVERRIDE.allow

    def value(self) -> Override:
        return Override(header=self.header, cookie=self.cookie, allow=self.allow)


def as_group(value: Any) -> Any:
    """A plain list is short for users."""
    return {"users": value} if isinstance(value, (list, tuple)) else value


class GroupSettings(Settings):
    users: Annotated[
        tuple[Annotated[str, BeforeValidator(text), Field(min_length=1, max_length=LONGEST_USER)], ...],
        Field(max_length=MOST_USERS, description="By their `x-user-id`.", examples=[["7", "alice"]]),
    ] = ()
    addresses: Annotated[
        tuple[Annotated[str, BeforeValidator(lambda value: network(text(value)))], ...],
        Field(max_length=MOST_USERS, description="Networks.", examples=[["10.1.0.0/16"]]),
    ] = ()

    def value(self) -> Group:
        return Group(users=self.users, addresses=self.addresses)


class SharingSettings(Settings):
    by: Annotated[
        By,
        BeforeValidator(as_by),
        BY_SCHEMA,
        Field(
            description="Whose release is the same: `user` (`x-user-id`), `id` (`x-user-id % 100`), `address`, "
            "`{header: NAME}`, `{cookie: NAME}`; `request`: a die each time.",
            examples=["user", {"cookie": "session"}],
            json_schema_extra={"default": "user"},
        ),
    ] = By(SplitBy.USER)
    override: OverrideSettings = Field(
        default_factory=OverrideSettings, description="By what a request chooses its release, and from where."
    )
    always: Annotated[
        GroupSettings,
        BeforeValidator(as_group),
        Field(description="Who has the new release as soon as anybody has.", examples=[["7", "alice"]]),
    ] = Field(default_factory=GroupSettings)
    never: Annotated[
        GroupSettings, BeforeValidator(as_group), Field(description="Who has it last: when it is the stable one.")
    ] = Field(default_factory=GroupSettings)

    def exceptions(self) -> Exceptions:
        return Exceptions(override=self.override.value(), always=self.always.value(), never=self.never.value())
