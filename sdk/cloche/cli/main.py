"""The program `cloche`. Only what a command needs is imported: start-up time is part of every command."""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import typer

HELP: Final = """Cloche keeps the environments that models are trained and served in.

Start with `cloche up -d`, then `cloche submit train.py --follow`.
"""

MODULES: Final = {
    "up": "server",
    "down": "server",
    "status": "server",
    "doctor": "doctor",
    "version": "about",
    "config": "about",
    "completion": "about",
    "env": "environments",
    "build": "builds",
    "wheel": "wheels",
    "submit": "runs",
    "run": "runs",
    "ps": "runs",
    "queue": "runs",
    "logs": "runs",
    "stop": "runs",
    "model": "models",
    "deploy": "services",
    "service": "services",
    "score": "services",
    "node": "nodes",
    "project": "access",
    "token": "access",
    "events": "events",
}
"""The module of each first word."""


def make_app(word: str | None = None) -> "typer.Typer":
    """Return the program with the commands of the module that a first word belongs to; with all if none does."""
    import typer  # noqa: PLC0415 - `up -d` does without

    app = typer.Typer(
        name="cloche",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root() -> None:
        """Hold the commands together, however few were loaded."""

    wanted = [MODULES[word]] if word in MODULES else list(dict.fromkeys(MODULES.values()))
    for name in wanted:
        import_module(f"cloche.cli.{name}").install(app)
    return app


def first_word(arguments: list[str]) -> str | None:
    """Return the command's name; None when an option comes first or completion is asked for."""
    return arguments[0] if arguments and not arguments[0].startswith("-") else None


def run() -> None:
    """Run the program with the process's arguments; ends the process."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        arguments = ["version"]
    completing = "_CLOCHE_COMPLETE" in os.environ
    if not completing and arguments[:1] in (["up"], ["status"]):
        from cloche.cli.launch import quick  # noqa: PLC0415 - spares these the parser, 0.1 s

        code = quick(arguments)
        if code is not None:
            sys.exit(code)
    app = make_app(None if completing else first_word(arguments))
    if completing:
        from typer.main import get_command  # noqa: PLC0415 - only while a shell completes

        sys.exit(get_command(app)(prog_name="cloche", complete_var="_CLOCHE_COMPLETE"))
    app(arguments, prog_name="cloche")


if __name__ == "__main__":
    run()
