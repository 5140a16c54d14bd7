"""From `module:attribute` to the app; what goes wrong is told with the user's own last frames."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

from gapless.core.errors import AppError
from gapless.service.interface import Interface, interface_of

OWN_FRAMES = ("<frozen importlib", importlib.__file__, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Frames in these files are ours, not the user's."""
MOST_LINES = 20


def tail(error: BaseException) -> str:
    """The user's part of a traceback, last lines only."""
    described = traceback.TracebackException.from_exception(error, capture_locals=False)
    described.stack = traceback.StackSummary.from_list(
        [frame for frame in described.stack if not frame.filename.startswith(OWN_FRAMES)]
    )
    described.__context__ = described.__cause__ = None
    lines = "".join(described.format()).rstrip().splitlines()
    if lines[:1] == ["Traceback (most recent call last):"] and not described.stack:
        lines = lines[1:]
    return "\n".join(lines[-MOST_LINES:])


def load_target(target: str, factory: bool) -> Any:
    """The attribute that `module:attribute` names, called when it is a factory. Raises AppError."""
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise AppError(f"{target!r} does not name an app", "write module:attribute, for example shop.orders:app")
    cwd = os.getcwd()
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    found = _attribute(_import(module_name, target, cwd), path, target)
    if factory:
        found = _call(found, target)
    if not callable(found):
        raise AppError(
            f"{target!r} is a {type(found).__name__}, not an ASGI or WSGI app", "name a callable (scope, receive, send)"
        )
    return found


def recognized(found: Any, target: str) -> Interface:
    """What kind of app was found there. Raises AppError."""
    try:
        return interface_of(found)
    except AppError as error:
        raise AppError(f"{target!r} is no app: {error.what}", error.remedy) from error


def _import(name: str, target: str, cwd: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise AppError(f"{target!r}: there is no module {error.name!r} in {cwd} or on the path") from error
        raise AppError(f"{target!r} could not be imported:\n{tail(error)}") from error
    except (Exception, SystemExit) as error:
        raise AppError(f"{target!r} could not be imported:\n{tail(error)}") from error


def _attribute(module: Any, path: str, target: str) -> Any:
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            names = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
            near = f"callables in the module: {', '.join(names[:8])}" if names else "the module defines no callable"
            raise AppError(f"{target!r}: {module.__name__!r} has no attribute {part!r}", near)
        found = getattr(found, part)
    return found


def _call(found: Any, target: str) -> Any:
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise AppError(f"the factory {target!r} failed:\n{tail(error)}") from error
