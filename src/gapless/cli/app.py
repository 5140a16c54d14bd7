"""The command line: one verb per file, all of them in this table.

A verb's module imports at its top no more than typer and the standard library, so that `gapless --help` and the start
of `gapless serve` stay quick; what is heavy is imported by the verb when it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
import typer.core

VERBS = {
    "On one app": ("serve", "reload"),
    "On a system (gapless.yaml)": ("up", "down", "status", "route", "scale", "logs", "gateway"),
    "Changing it": (
        "apply",
        "preflight",
        "deploy",
        "rollout",
        "split",
        "gate",
        "rollback",
        "changes",
        "undo",
        "config",
        "fault",
    ),
    "When something is wrong": ("alerts", "alert", "incidents", "incident", "notify"),
    "Finding each other": ("registry",),
    "Looking inside": ("metrics", "traces", "profile"),
    "Tools": ("load", "export", "schema", "version"),
}

HELP = """Keep Python services answering while everything about them changes.

\b
Begin with the ASGI app that you have:
  gapless serve shop.orders:app
or with several services behind a gateway, described in gapless.yaml:
  gapless up
"""


class Verbs(typer.core.TyperGroup):
    """Shows the verbs in the groups of the table."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for group, verbs in VERBS.items():
            room = formatter.width - 6 - max(map(len, self.commands))
            with formatter.section(group):
                formatter.write_dl([(verb, self.commands[verb].get_short_help_str(room)) for verb in verbs])


def build(only: str = "") -> typer.Typer:
    """The app with every verb, or with one of them: reading the options of all takes longer than running most. Plain
    help: rich would take longer than all the rest."""
    app = typer.Typer(
        name="gapless",
        cls=Verbs,
        help=HELP,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(lambda: None)  # a group, even of one
    verbs = [verb for verbs in VERBS.values() for verb in verbs]
    for verb in [only] if only in verbs else verbs:
        module = import_module(f"gapless.cli.{verb}")
        if group := getattr(module, f"{verb}_group", None):  # a verb with verbs of its own
            app.add_typer(group, name=verb)
        else:
            app.command(verb)(getattr(module, f"{verb}_command"))
    return app
