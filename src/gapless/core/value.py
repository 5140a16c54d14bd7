"""Frozen values that cost next to nothing to define.

A dataclass compiles its methods when it is defined, a third of a millisecond for each class. That is nothing for those
of a control plane; whoever imports guards into a function that shall start at once would wait for forty of them. To
type checkers a `Value` is a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Collection
from inspect import get_annotations
from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Value:
    """Subclasses list their fields as annotations, with or without defaults (never ClassVars). Fields are given by
    name, with `kw_only=False` also by place. Equal is what has the same class and the same fields."""

    _names: ClassVar[tuple[str, ...]] = ()
    _known: ClassVar[frozenset[str]] = frozenset()
    _defaults: ClassVar[dict[str, Any]] = {}
    _kw_only: ClassVar[bool] = True

    def __init_subclass__(cls, *, kw_only: bool = True) -> None:
        own = [name for name, kind in get_annotations(cls).items() if "ClassVar" not in str(kind)]
        cls._names = tuple(dict.fromkeys([*cls._names, *own]))
        cls._known = frozenset(cls._names)
        cls._defaults = {**cls._defaults, **{name: cls.__dict__[name] for name in own if name in cls.__dict__}}
        cls._kw_only = kw_only

    def __init__(self, *args: Any, **given: Any) -> None:
        fields = {**self._defaults, **given}
        if args and not self._kw_only:
            fields.update(zip(self._names, args, strict=False))
        if fields.keys() != self._known or (args and not self._fit(args, given)):
            raise TypeError(f"{type(self).__name__}({', '.join(self._names)}) was given {args} and {given}")
        self.__dict__.update(fields)

    def _fit(self, args: tuple[Any, ...], given: dict[str, Any]) -> bool:
        placed = self._names[: len(args)]
        return not self._kw_only and len(placed) == len(args) and given.keys().isdisjoint(placed)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self!r} is frozen: {name!r} cannot be set", name=name, obj=self)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self!r} is frozen: {name!r} cannot be deleted", name=name, obj=self)

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *[self.__dict__[name] for name in self._names]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self._names)})"

    def __replace__(self, **changes: Any) -> Self:
        """As `copy.replace` calls it since Python 3.13."""
        return type(self)(**{**self.__dict__, **changes})


def fields_of(value: object) -> Collection[str]:
    """The names of the fields of a Value or a dataclass; nothing for anything else."""
    return value._names if isinstance(value, Value) else getattr(value, "__dataclass_fields__", ())  # noqa: SLF001
