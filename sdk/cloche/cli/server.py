"""`up`, `down`, `status`: the embedded process of this machine."""

from contextlib import closing
from typing import Annotated

import typer

from cloche._errors import ClocheError, Conflict
from cloche.cli import launch, processes, state
from cloche.cli.options import command
from cloche.cli.parsing import parse_duration
from cloche.cli.session import Session


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
    server = processes.running(session.folder)
    if server is None:
        session.output.result({"stopped": False, "active_runs": []}, f"Cloche does not run on {session.folder}.")
        return
    active = _settle_runs(session, server, cancel=cancel_runs, seconds=seconds)
    with session.output.progress("Stopping Cloche"):
        gone = processes.end(server.pid, session.folder, seconds)
    if not gone:
        raise TimeoutError(f"Cloche (process {server.pid}) has not ended within {seconds:g} s")
    session.output.result({"stopped": True, "pid": server.pid, "active_runs": active}, "Cloche has stopped.")


def _settle_runs(session: Session, server: processes.Running, *, cancel: bool, seconds: float) -> list[str]:
    """Cancel the active runs or tell that they go on; return those that do."""
    try:
        with closing(state.Asked(server.url, state.token_of(session, server))) as asked:
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
    with session.client_here() as client, session.output.progress(f"Canceling {len(active)} runs") as step:
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
