"""What every command has: its options, its output, its client, and how its errors end it."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche.cli import exits
from cloche.cli.output import Mode, Output

if TYPE_CHECKING:
    from cloche.client import Client

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


@dataclass(frozen=True, slots=True)
class Session:
    """One call of the program: how it writes, and which server it talks to."""

    output: Output
    url: str = ""
    project: str = ""
    home: str = ""

    @property
    def folder(self) -> Path:
        """The data folder."""
        from cloche._config import home_folder  # noqa: PLC0415 - not every command needs it

        return Path(self.home) if self.home else home_folder()

    @property
    def named_server(self) -> bool:
        """Whether the user named a server, instead of the one of a data folder."""
        return bool(self.url) or (not self.home and bool(os.environ.get("CLOCHE_URL")))

    def client(self) -> "Client":
        """Return a client; use it as a context manager."""
        from cloche.client import Client  # noqa: PLC0415 - it brings HTTP and models: 0.2 s

        if self.home and not self.url:
            return self.client_here()
        return Client(url=self.url or None, project=self.project or None)

    def client_here(self) -> "Client":
        """Return a client of the data folder's server, whatever else the environment names."""
        from cloche._errors import not_running  # noqa: PLC0415 - not every command needs a server
        from cloche.cli.processes import running  # noqa: PLC0415 - the same
        from cloche.client import Client  # noqa: PLC0415 - the same

        server = running(self.folder)
        if server is None:
            raise not_running(str(self.folder), "No process has this data folder.")
        token = Path(server.token_file).read_text().strip()
        return Client(url=server.url, token=token, project=self.project or None)


Command = Callable[..., None]


def command(app: typer.Typer, name: str, function: Command, *, hidden: bool = False) -> None:
    """Add a command whose first parameter is the session; it gets the common options and its help from the docstring.

    A docstring's first paragraph says what the command does; an indented block shows how.
    """
    app.command(name, hidden=hidden)(_with_common(function))


def _with_common(function: Command) -> Command:
    _session, *own = inspect.signature(function).parameters.values()
    names = {parameter.name for parameter in own}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        for name, kind, default, option in COMMON
        if name not in names
    ]

    @functools.wraps(function)
    def wrapper(**values: object) -> None:
        chosen = {name: values.pop(name) for name in [parameter.name for parameter in added]}
        session = _session_from({**values, **chosen})
        with ending(session.output):
            function(session, **values)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    wrapper.__signature__ = inspect.Signature([*parameters, *added])  # type: ignore[attr-defined] # typer reads it
    wrapper.__annotations__ = {one.name: one.annotation for one in [*parameters, *added]}
    return wrapper


def _session_from(values: dict[str, object]) -> Session:
    def flag(name: str) -> bool:
        return bool(values.get(name))

    mode = Mode(json=flag("as_json"), quiet=flag("quiet"), plain=flag("plain"), debug=flag("debug"))
    url, project, home = (str(values.get(name) or "") for name in ("url", "project", "home"))
    return Session(Output(mode), url, project, home)


@contextmanager
def ending(output: Output) -> Iterator[None]:
    """Turn what goes wrong in the block into a message and an exit code; a trace only with --debug."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt as error:
        raise typer.Exit(exits.INTERRUPTED) from error
    except Exception as error:
        if output.mode.debug:
            import traceback  # noqa: PLC0415 - only for --debug

            output.stderr.write("".join(traceback.format_exception(error)))
        output.error(error)
        raise typer.Exit(exits.exit_code(error)) from error


def confirmed(session: Session, question: str, *, yes: bool) -> bool:
    """Whether to go on: asked on a terminal only, because a script that names its victim means it."""
    if yes or session.output.mode.json or not sys.stdin.isatty():
        return True
    session.output.stderr.write(f"{question} [y/N] ")
    session.output.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
