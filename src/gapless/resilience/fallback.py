"""`fallback(cached, on=Rejected)`: another answer in place of none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience.causes import Cause, causes
from gapless.resilience.errors import Rejected
from gapless.resilience.events import FellBack
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Kwargs, Layer, Site, Statistics


class Stale(Value):
    """The last good answer to the same arguments."""

    max_age_s: float = 60.0
    keep: int = 1000
    key: str | Callable[..., Hashable] | None = None


def stale(max_age: float = 60.0, *, keep: int = 1000, key: str | Callable[..., Hashable] | None = None) -> Stale:
    """Remembers the last `keep` good answers by `key` (default: all arguments, which must be hashable) and gives those
    that are no older than `max_age` seconds."""
    return Stale(max_age_s=max_age, keep=keep, key=key)


class Fallback(Value, kw_only=False):
    kind: ClassVar[str] = "fallback"
    substitute: Any
    on: Cause = Rejected

    def bind(self, binding: Binding) -> FallbackLayer:
        return FallbackLayer(self, binding)


def fallback(substitute: Any, *, on: Cause = Rejected) -> Fallback:
    """Answers with `substitute` when the call ends with `on` (exceptions, or a function of one).

    It is a value, a function, or `stale(…)`. A function is called with the call's own arguments, with `error=…` if it
    has a parameter of that name, or with nothing if it has no parameters; what it raises is raised from the failure.
    """
    return Fallback(substitute, on)


class _State:
    __slots__ = ("answers", "failed", "fell_back")

    def __init__(self) -> None:
        self.fell_back = self.failed = 0
        self.answers: dict[Hashable, tuple[float, Any]] = {}


class FallbackLayer(Layer):
    kind = "fallback"

    def __init__(self, policy: Fallback, binding: Binding) -> None:
        self._policy, self._binding = policy, binding
        self._kinds, self._asked = causes(policy.on)
        self._state = _State()

    def adopt(self, old: Layer) -> None:
        assert isinstance(old, FallbackLayer)
        self._state = old._state  # noqa: SLF001 its own kind

    def statistics(self) -> Statistics:
        state = self._state
        return {"fell_back": state.fell_back, "failed": state.failed, "kept": len(state.answers)}

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        kinds, asked, substitute = self._kinds, self._asked, self._substitute(site)
        remember = self._remember(site)

        async def falling(args: Args, kwargs: Kwargs) -> Any:
            try:
                result = await call(args, kwargs)
            except kinds as error:
                if asked is not None and not asked(error):
                    raise
                with self._counted(error):
                    answer = substitute(args, kwargs, error)
                    return await answer if inspect.isawaitable(answer) else answer
            if remember is not None:
                remember(args, kwargs, result)
            return result

        return falling

    def around_sync(self, call: Call, site: Site) -> Call:
        if inspect.iscoroutinefunction(self._policy.substitute):
            raise ConfigError(
                f"guard {self._binding.guard!r}: {site.name} is not async, its fallback is", "Give one that is not."
            )
        kinds, asked, substitute = self._kinds, self._asked, self._substitute(site)
        remember = self._remember(site)

        def falling(args: Args, kwargs: Kwargs) -> Any:
            try:
                result = call(args, kwargs)
            except kinds as error:
                if asked is not None and not asked(error):
                    raise
                with self._counted(error):
                    return substitute(args, kwargs, error)
            if remember is not None:
                remember(args, kwargs, result)
            return result

        return falling

    def _counted(self, error: BaseException) -> _Counted:
        return _Counted(self._state, self._binding, error)

    def _substitute(self, site: Site) -> Callable[[Args, Kwargs, BaseException], Any]:
        given = self._policy.substitute
        if isinstance(given, Stale):
            return self._recall(given, site)
        if not callable(given):
            return lambda args, kwargs, error: given
        parameters = inspect.signature(given).parameters
        if not parameters:
            return lambda args, kwargs, error: given()
        if set(parameters) == {"error"}:
            return lambda args, kwargs, error: given(error=error)
        if "error" in parameters:
            return lambda args, kwargs, error: given(*args, **kwargs, error=error)
        return lambda args, kwargs, error: given(*args, **kwargs)

    def _recall(self, given: Stale, site: Site) -> Callable[[Args, Kwargs, BaseException], Any]:
        key, state, now = _key(given, site), self._state, self._binding.now

        def recall(args: Args, kwargs: Kwargs, error: BaseException) -> Any:
            kept_at, answer = state.answers.get(key(args, kwargs), (float("-inf"), None))
            if now() - kept_at > given.max_age_s:
                raise error
            return answer

        return recall

    def _remember(self, site: Site) -> Callable[[Args, Kwargs, Any], None] | None:
        given = self._policy.substitute
        if not isinstance(given, Stale):
            return None
        key, answers, now = _key(given, site), self._state.answers, self._binding.now

        def remember(args: Args, kwargs: Kwargs, result: Any) -> None:
            name = key(args, kwargs)
            answers.pop(name, None)
            answers[name] = (now(), result)
            while len(answers) > given.keep:
                answers.pop(next(iter(answers)), None)

        return remember


class _Counted:
    """Counts a substitute that was given, or could not be: then the failure is its cause."""

    __slots__ = ("_binding", "_error", "_state")

    def __init__(self, state: _State, binding: Binding, error: BaseException) -> None:
        self._state, self._binding, self._error = state, binding, error

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, trace: object) -> None:
        if raised is None:
            self._state.fell_back += 1
            if self._binding.hooks:
                self._binding.emit(FellBack(guard=self._binding.guard, policy="fallback", error=self._error))
            return
        self._state.failed += 1
        if raised is not self._error and raised.__cause__ is None:
            raised.__cause__ = self._error


def _key(given: Stale, site: Site) -> Callable[[Args, Kwargs], Hashable]:
    if given.key is not None:
        return site.key(given.key)
    name = site.name
    return lambda args, kwargs: (name, args, tuple(sorted(kwargs.items())) if kwargs else ())
