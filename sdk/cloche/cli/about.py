"""`version`, `config`, `completion`."""

import os
from typing import Annotated

import typer

from cloche import __version__
from cloche._errors import ClocheError, Invalid
from cloche.cli.options import command
from cloche.cli.processes import running
from cloche.cli.session import Session
from cloche.cli.text import Table, cell

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "version", version)
    config = typer.Typer(no_args_is_help=True, help="Settings.")
    command(config, "show", show_config)
    app.add_typer(config, name="config")
    command(app, "completion", completion)


def version(session: Session) -> None:
    """Show the version of this program and of the server."""
    server = _server_version(session)
    found = {"client": __version__, "server": server.get("version") if server else None}
    lines = [f"cloche {__version__}"]
    if server is not None and server.get("version") != __version__:
        lines.append(f"server {server.get('version')}")
    session.output.result(found, "\n".join(lines))


def _server_version(session: Session) -> dict[str, object] | None:
    if not session.named_server and running(session.folder) is None:
        return None
    try:
        with session.client() as client:
            return client.version()
    except (ClocheError, OSError):
        return None


def show_config(
    session: Session,
    *,
    sources: Annotated[bool, typer.Option("--sources", help="Show where each value comes from.")] = False,
) -> None:
    """Show the settings of the embedded process: defaults, config.toml of the data folder, environment."""
    from cloche._embedded import settings  # noqa: PLC0415 - the services' settings: 0.3 s that only this needs

    session.about_this_machine()
    found = settings(session.folder, os.environ).shown()
    items = [{"name": one.name, "value": one.value, "source": one.source} for one in found]
    columns = ("SETTING", "VALUE", "SOURCE") if sources else ("SETTING", "VALUE")
    rows = [(one.name, cell(one.value), one.source)[: len(columns)] for one in found]
    session.output.listing(items, Table(columns, rows))


def completion(
    session: Session, shell: Annotated[str, typer.Argument(help="bash, zsh, fish or powershell.")] = ""
) -> None:
    """Write the script that completes commands in a shell.

    Use it as `eval "$(cloche completion bash)"`; without an argument it is for the shell that runs.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined] # noqa: PLC0415 - only here; typer exports it by use

    chosen = shell or os.environ.get("SHELL", "bash").rpartition("/")[2]
    if chosen not in SHELLS:
        raise Invalid("unknown_shell", f"There is no completion for {chosen!r}.", todo=f"Name {', '.join(SHELLS)}.")
    script = get_completion_script(prog_name="cloche", complete_var="_CLOCHE_COMPLETE", shell=chosen)
    session.output.result({"shell": chosen, "script": script}, script)
