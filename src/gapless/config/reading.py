"""Sources to one frozen value, or everything that is wrong with them. Pure: secrets have been read before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from gapless.config.complaints import worded
from gapless.config.document import dotted
from gapless.config.layers import Layer, leaves, origin, place_of
from gapless.config.restart import find
from gapless.config.secret_references import HOW
from gapless.config.types import SECRETS, Path, is_secret

T = TypeVar("T", bound=BaseModel)
MASK = "(secret)"


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """`filled` is what the value was made of, secrets included: it is never shown."""

    value: T | None
    problems: tuple[str, ...] = ()
    """`place: path: what`, sorted."""
    filled: dict[str, Any] = field(default_factory=dict, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """Every text that must not be told: by reference, or in a field that is secret."""


def read_settings(
    kind: type[T],
    layers: Sequence[Layer],
    whole: Mapping[str, Any],
    texts: Mapping[Path, str],
    lost: Mapping[Path, str],
) -> Reading[T]:
    """`whole`: the merged layers. `texts`: the secret for each reference in it; `lost`: why there is none."""
    filled = _filled(whole, {**dict.fromkeys(lost, ""), **texts})
    value, wrong = _validated(kind, filled, {*texts, *lost})
    found = [(path, what) for path, what in wrong if not any(path[: len(each)] == each for each in lost)]
    found += [(path, what) for path, what in lost.items()]
    found += _exposed(kind, filled, texts)
    found += _kept(kind, layers, whole, texts, lost)
    secrets = frozenset({*texts.values(), *_given(kind, filled)})
    told = sorted({f"{place_of(path, layers)}: {masked(line_of(path, what), secrets)}" for path, what in found})
    return Reading(None if told else value, tuple(told), filled, secrets)


def _given(kind: type[BaseModel], filled: Any, path: Path = ()) -> Iterator[str]:
    """The texts in fields that are secret, however they came there."""
    if isinstance(filled, Mapping):
        for key, item in filled.items():
            yield from _given(kind, item, (*path, key))
    elif isinstance(filled, list):
        for index, item in enumerate(filled):
            yield from _given(kind, item, (*path, index))
    elif filled is not None and is_secret(kind, path):
        yield str(filled)


def line_of(path: Path, what: str) -> str:
    """`price.max: what`; what concerns the whole stands alone."""
    return f"{dotted(path)}: {what}" if path else what


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets: an author's own words may quote what they were given."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _validated(kind: type[T], filled: Any, secret: set[Path]) -> tuple[T | None, list[tuple[Path, str]]]:
    def hidden(path: Path) -> bool:
        return is_secret(kind, path) or any(path[: len(each)] == each for each in secret)

    try:
        return kind.model_validate(filled), []
    except ValidationError as error:
        return None, list(worded(error, kind, hidden))


def _exposed(kind: type[BaseModel], filled: Mapping[str, Any], texts: Mapping[Path, str]) -> Iterator[tuple[Path, str]]:
    """A secret in a field that shows what it holds."""
    for path in texts:
        if find(filled, path)[0] and not is_secret(kind, path):
            yield path, "a secret needs a field of the type SecretStr (pydantic); this one would be shown"


def _kept(
    kind: type[BaseModel],
    layers: Sequence[Layer],
    whole: Mapping[str, Any],
    texts: Mapping[Path, str],
    lost: Mapping[Path, str],
) -> Iterator[tuple[Path, str]]:
    """A secret itself where only a reference may be."""
    places = (place for path, value in leaves(whole) for place in _parts(path, value))
    for place in places:
        layer = origin(place, layers)
        given = place not in texts and place not in lost and find(whole, place)[1] is not None
        if given and layer and layer.kept and is_secret(kind, place):
            yield place, f"a secret itself must not be here, where a history is kept; {HOW}"


def _parts(path: Path, value: Any) -> list[Path]:
    return [(*path, index) for index in range(len(value))] if isinstance(value, list) else [path]


def _filled(whole: Any, texts: Mapping[Path, str], path: Path = ()) -> Any:
    """The same with the secrets in place of their references; nothing shared."""
    if path in texts:
        return texts[path]
    if isinstance(whole, Mapping):
        return {key: _filled(item, texts, (*path, key)) for key, item in whole.items()}
    if isinstance(whole, list):
        return [_filled(item, texts, (*path, index)) for index, item in enumerate(whole)]
    return whole


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What is different, a line for each part: `price.max: 3 → 5`."""
    old, new = dict(_told(before)), dict(_told(after))
    paths = sorted({*old, *new}, key=dotted)
    absent = "(not set)"
    return [
        f"{dotted(path)}: {_shown(old[path]) if path in old else absent} →"
        f" {_shown(new[path]) if path in new else absent}"
        for path in paths
        if (path in old) != (path in new) or old[path] != new[path]
    ]


def _told(value: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    return ((path, leaf) for path, leaf in leaves(value) if path)


def _shown(value: Any) -> str:
    if isinstance(value, SECRETS):
        return MASK
    if value is None:
        return "nothing"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"[{', '.join(_shown(each) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_shown(each)}' for key, each in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)
