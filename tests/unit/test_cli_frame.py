"""The frame around the verbs: errors become messages and exit codes, values become tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import typer

from gapless import __main__ as cli
from gapless.cli import app, output
from gapless.cli.output import Json
from gapless.core.errors import Busy, ConfigError, GaplessError, GatewayMissing

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb `act` that raises what it is given."""

    def with_error(error: BaseException | None, *argv: str) -> int:
        def build(only: str) -> typer.Typer:
            built = typer.Typer(rich_markup_mode=None, add_completion=False)

            @built.command("act")
            def act(json: Json = False) -> None:
                if error:
                    raise error

            @built.command("other")
            def other() -> None:
                """Two verbs make a group."""

            return built

        monkeypatch.setattr(app, "build", build)
        return cli.run(["act", *argv])

    monkeypatch.delenv("GAPLESS_DEBUG", raising=False)
    return with_error


def test_an_error_is_a_message_a_remedy_and_a_code(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Busy("orders is being deployed", "Wait, or `gapless rollout abort orders`.")) == Busy.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: orders is being deployed\n→ Wait, or `gapless rollout abort orders`.\n"


def test_with_json_it_is_an_object_on_stdout(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ConfigError("wrong", "right"), "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "wrong", "remedy": "right", "code": 2}
    assert err == ""


def test_after_two_hyphens_json_is_not_ours() -> None:
    assert cli._wants_json(["act", "--json"])
    assert not cli._wants_json(["act", "--", "--json"])


def test_errors_of_several_lines_keep_them(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(ConfigError("a:1: x\na:2: y", "Begin:\n\n  app"))
    assert capsys.readouterr().err == "error: a:1: x\na:2: y\n→ Begin:\n\n    app\n"


def test_an_error_inside_a_task_group_is_found(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    group = BaseExceptionGroup("tasks", [ValueError("x"), BaseExceptionGroup("inner", [Busy("taken")])])
    assert run(group) == Busy.exit_code
    assert "taken" in capsys.readouterr().err


def test_a_defect_says_how_to_report_it(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(KeyError("x")) == 1
    assert "GAPLESS_DEBUG=1" in capsys.readouterr().err


def test_without_the_extra_its_name_is_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    missing = ModuleNotFoundError("No module named 'grpc.aio'", name="grpc.aio")
    assert run(missing) == GatewayMissing.exit_code
    assert capsys.readouterr().err.endswith("→ pip install 'gapless[gateway]'\n")
    assert run(ModuleNotFoundError("No module named 'shop'", name="shop")) == 1


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLESS_DEBUG", "1")
    with pytest.raises(KeyError):
        run(KeyError("x"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (typer.Exit(7), 7),
        (KeyboardInterrupt(), output.INTERRUPTED),
        (typer.Abort(), output.INTERRUPTED),
        (GaplessError(), 1),
    ],
)
def test_exit_codes(run: Run, error: BaseException | None, code: int) -> None:
    assert run(error) == code


def test_wrong_usage_is_code_2(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None, "--nothing") == 2
    assert "No such option" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    silenced: list[bool] = []
    monkeypatch.setattr(cli, "_invoke", lambda argv, first: (_ for _ in ()).throw(BrokenPipeError()))
    monkeypatch.setattr(cli, "_silence_stdout", lambda: silenced.append(True))
    assert cli.run(["act"]) == output.PIPE_CLOSED
    assert silenced == [True]


def test_values_become_tables(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit([{"name": "orders", "ready": True, "share": 0.5}, {"name": "x", "ready": False, "share": None}])
    assert capsys.readouterr().out == "NAME    READY  SHARE\norders  yes    0.5\nx       no     -\n"
    output.emit({"name": "orders", "needs": ["a", "b"]})
    assert capsys.readouterr().out == "name   orders\nneeds  a, b\n"
    output.emit(["a", 1])
    assert capsys.readouterr().out == "a\n1\n"
    output.emit("text")
    assert capsys.readouterr().out == "text\n"
    output.emit([])
    assert capsys.readouterr().out == ""


def test_values_become_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"a": (1, 2)}, json=True)
    assert json.loads(capsys.readouterr().out) == {"a": [1, 2]}


def test_on_a_terminal_tables_are_drawn_and_errors_red(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda stream=None: True)
    output.table(["name"], [["[orders]"]])
    assert "[orders]" in capsys.readouterr().out
    output.table([], [["a", "b"]])
    assert capsys.readouterr().out.split() == ["a", "b"]
    output.complain("wrong", "right")
    assert capsys.readouterr().err.startswith("\x1b[31merror: wrong\x1b[0m")


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.on_terminal(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.on_terminal(Terminal())  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not output.on_terminal(Terminal())  # type: ignore[arg-type]


def test_version_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    from gapless import __version__

    assert cli.run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gapless"] == __version__
    assert cli.run(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"gapless {__version__} ")
    assert cli.run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "gapless.yaml"
