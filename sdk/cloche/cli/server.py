"""`up`, `down`, `status`: the embedded process of this machine."""

import time
from contextlib import closing
from typing import Annotated, Final

import typer

from cloche._errors import ClocheError, Conflict, Failed
from cloche.cli import launch, processes, state
from cloche.cli.options import command
from cloche.cli.parsing import parse_duration
from cloche.cli.session import Session
from cloche.cli.text import counted

LISTING_SECONDS: Final = 5.0
"""So long `down` waits for the list of runs; a server that hangs is ended without it."""


def install(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "up", up)
    command(app, "down", down)
    command(app, "status", status)


def up(
    session: Session,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready; it runs on in the background.")
    ] = False,
    host: Annotated[str, typer.Option("--host", help="The address to listen on; else the setting http.host.")] = "",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="The port; 0 takes any free one.")
    ] = None,
) -> None:
    """Start Cloche on this machine.

    All four services run in one process. In the foreground, Ctrl-C stops the services; active runs go
    on and are listed. A second Ctrl-C cancels them.
    """
    session.about_this_machine()
    number = "" if port is None else str(port)
    if detach:
        launch.detach(session, host, number)
    else:
        _foreground(session, host or None, port)


def _foreground(session: Session, host: str | None, port: int | None) -> None:
    here = processes.running(session.folder)
    if here is not None:
        raise Conflict(
            "already_running",
            f"Cloche runs already on {session.folder}, at {here.url} (process {here.pid}).",
            todo="Use it as it is, or end it first with `cloche down`.",
        )
    from cloche import _embedded  # noqa: PLC0415 - the services: 0.5 s that only the server needs

    def ready(started: "_embedded.Started") -> None:
        server = processes.Running(started.url, started.pid, started.token_file, started.started, started.version)
        session.output.result(server.shown(), launch.sentence(server, started=True))
        session.output.note("Ctrl-C stops it; active runs go on.")

    _embedded.serve(_embedded.Options(session.folder, host, port), ready, session.output.note)


def down(
    session: Session,
    *,
    cancel_runs: Annotated[
        bool, typer.Option("--cancel-runs", help="Cancel the active runs first; without it they go on.")
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait for the end: 30s, 5m.")] = "60s",
) -> None:
    """Stop Cloche on this machine.

    Active runs go on, and are taken up again by the next `cloche up`.
    """
    seconds = parse_duration(timeout)
    session.about_this_machine()
    server = processes.running(session.folder)
    if server is None:
        session.output.result({"stopped": False, "active_runs": []}, f"Cloche does not run on {session.folder}.")
        return
    limit = time.monotonic() + seconds
    active = _settle_runs(session, server, cancel=cancel_runs, seconds=seconds)
    with session.output.progress("Stopping Cloche"):
        gone = processes.end(server.pid, session.folder, max(0.0, limit - time.monotonic()))
    if not gone:
        raise Failed(
            "timed_out",
            f"Cloche (process {server.pid}) has not ended within {seconds:g} s.",
            why="It was asked to; it ends when what it is doing has ended, unless it hangs.",
            todo=f"Wait longer with --timeout. If it hangs: `kill -9 {server.pid}`; runs go on, and nothing is lost.",
        )
    session.output.result(
        {"stopped": True, "pid": server.pid, "active_runs": active}, f"Cloche on {session.folder} has stopped."
    )


def _settle_runs(session: Session, server: processes.Running, *, cancel: bool, seconds: float) -> list[str]:
    """Cancel the active runs or tell that they go on; return those that do."""
    try:
        patience = min(LISTING_SECONDS, seconds / 2)
        with closing(state.Asked(server.url, state.token_here(server), seconds=patience)) as asked:
            active = state.active_runs(asked)
    except ClocheError as error:
        if cancel:
            raise
        session.output.warn(f"The runs could not be listed: {error.what}")
        return []
    if cancel and active:
        _cancel(session, active, seconds)
        return []
    for run_id in active:
        session.output.note(f"run {run_id} goes on")
    if active:
        session.output.note("`cloche up` takes them up again; `cloche down --cancel-runs` would have ended them.")
    return active


def _cancel(session: Session, active: list[str], seconds: float) -> None:
    with session.client_here() as client, session.output.progress(f"Canceling {counted(len(active), 'run')}") as step:
        for run_id in active:
            client.runs.cancel(run_id)
        for run_id in active:
            ended = client.runs.wait(run_id, timeout=seconds)
            step.say(f"run {run_id} is {ended.status}")


def status(session: Session) -> None:
    """Show whether Cloche runs here, and what it is doing. Exits with 1 when it is not ready."""
    code = state.show(session)
    if code:
        raise typer.Exit(code)
