"""`gapless` and `python -m gapless`: run a verb; turn what it raises into a message and an exit code (docs/cli.md)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from gapless.core.errors import GaplessError, GatewayMissing

TYPE_CHECKING = False  # as in gapless/__init__.py
if TYPE_CHECKING:
    from gapless.server.early import Early

GATEWAY_EXTRA = frozenset({"envoy", "google", "grpc", "starlette"})
"""What `gapless[gateway]` brings, by the names of the modules."""


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Raises SystemExit."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run a verb; returns the exit code. With GAPLESS_DEBUG set, errors come with their traceback."""
    first = _first_worker(argv)
    from gapless.cli import output

    try:
        code = _invoke(argv, first)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return output.INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return output.PIPE_CLOSED
    except Exception as error:
        if os.environ.get("GAPLESS_DEBUG"):
            raise
        return _report(error, argv)
    finally:
        if first:
            first.end()


def _first_worker(argv: list[str]) -> Early | None:
    """A server's first worker loads while we do: before anything else is imported."""
    from gapless.server import early

    if not early.wanted(argv):
        return None
    early.open_standard_descriptors()
    return early.start(argv[1:])


def _invoke(argv: list[str], first: Early | None) -> int:
    import typer

    from gapless.cli.app import build

    try:
        verb = typer.main.get_command(build(argv[0] if argv else ""))
        code = verb.main(argv, prog_name="gapless", standalone_mode=False, obj=first)
    except typer.TyperException as error:  # wrong usage, in its own words
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return error.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    return code if isinstance(code, int) else 0


def _report(error: Exception, argv: list[str]) -> int:
    from gapless.cli import output

    return output.fail(next(_known(error), None) or _defect(error), _wants_json(argv))


def _defect(error: Exception) -> GaplessError:
    remedy = "This should not happen: run it again with GAPLESS_DEBUG=1 and report the traceback."
    return GaplessError(f"{type(error).__name__}: {error}", remedy)


def _known(error: BaseException) -> Iterator[GaplessError]:
    """The errors of ours in what was raised; task groups wrap theirs."""
    if isinstance(error, GaplessError):
        yield error
    elif isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in GATEWAY_EXTRA:
        yield GatewayMissing(f"the package {error.name} is not installed", "pip install 'gapless[gateway]'")
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _known(inner)


def _wants_json(argv: list[str]) -> bool:
    options = argv[: argv.index("--")] if "--" in argv else argv
    return "--json" in options


def _silence_stdout() -> None:
    """The interpreter flushes stdout once more at its end; that must not complain again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
