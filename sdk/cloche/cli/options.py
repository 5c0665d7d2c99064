"""What every command has: the common options, and a session made from them."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from cloche.cli.output import Mode, Output
from cloche.cli.session import Session

COMMON = (
    ("as_json", bool, False, typer.Option("--json", help="Write JSON with stable keys.")),
    ("quiet", bool, False, typer.Option("--quiet", "-q", help="Write no notes and no progress.")),
    ("plain", bool, False, typer.Option("--plain", help="Write no colours and nothing that moves.")),
    ("debug", bool, False, typer.Option("--debug", help="Show the trace of an error.")),
    ("url", str, "", typer.Option("--url", help="The server; else CLOCHE_URL, else the one of the data folder.")),
    ("project", str, "", typer.Option("--project", help="The project, where the token opens several.")),
    ("home", str, "", typer.Option("--home", help="The data folder; else CLOCHE_HOME, else ~/.cloche.")),
)
"""Name, type, default and description of the options that every command takes."""

Command = Callable[..., None]


def command(app: typer.Typer, name: str, function: Command) -> None:
    """Add a command whose first parameter is the session; it gets the common options."""
    app.command(name)(_with_common(function))


def _with_common(function: Command) -> Command:
    _session, *own = inspect.signature(function).parameters.values()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        for name, kind, default, option in COMMON
    ]

    @functools.wraps(function)
    def wrapper(**values: object) -> None:
        session = _session_from({name: values.pop(name) for name, *_ in COMMON})
        try:
            function(session, **values)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(session.failed(error)) from error

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in [*own, *added]]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # typer reads it
    wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapper


def _session_from(values: dict[str, object]) -> Session:
    mode = Mode(
        json=bool(values["as_json"]),
        quiet=bool(values["quiet"]),
        plain=bool(values["plain"]),
        debug=bool(values["debug"]),
    )
    url, project, home = (str(values[name] or "") for name in ("url", "project", "home"))
    return Session(Output(mode), url, project, home)
