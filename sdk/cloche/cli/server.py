"""`up`, `down`, `status`: the embedded process of this machine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche._errors import ClocheError, Conflict
from cloche.cli import exits, launch, processes
from cloche.cli.options import Session, command
from cloche.cli.parsing import parse_duration
from cloche.cli.text import age, seconds_between

if TYPE_CHECKING:
    from cloche.client import Client

ACTIVE = ("NotStarted", "Preparing", "Queued", "Starting", "Running", "CancelRequested", "Finalizing")


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
    """Start Cloche on this machine: all four services in one process.

    In the foreground, Ctrl-C stops the services; active runs go on and are listed. A second Ctrl-C
    cancels them.
    """
    wanted = launch.Wanted(detach=detach, home=str(session.folder), host=host, port="" if port is None else str(port))
    if detach:
        with session.output.progress("Starting Cloche"):
            server, started = launch.detach(wanted)
        session.output.result(server.shown(), launch.sentence(server, started=started))
        return
    _foreground(session, wanted)


def _foreground(session: Session, wanted: launch.Wanted) -> None:
    here = processes.running(wanted.folder)
    if here is not None:
        raise Conflict(
            "already_running",
            f"Cloche runs already on {wanted.folder}, at {here.url} (process {here.pid}).",
            todo="Use it as it is, or end it first with `cloche down`.",
        )
    from cloche import _embedded  # noqa: PLC0415 - the services: 0.5 s that only the server needs

    def ready(started: "_embedded.Started") -> None:
        server = processes.Running(started.url, started.pid, started.token_file, started.started, started.version)
        session.output.result(server.shown(), launch.sentence(server, started=True))
        session.output.note("Ctrl-C stops it; active runs go on.")

    options = _embedded.Options(home=wanted.folder, host=wanted.host or None, port=_number(wanted.port))
    _embedded.serve(options, ready, session.output.note)


def _number(text: str) -> int | None:
    return int(text) if text else None


def down(
    session: Session,
    *,
    cancel_runs: Annotated[
        bool, typer.Option("--cancel-runs", help="Cancel the active runs first; without it they go on.")
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait for the end: 30s, 5m.")] = "60s",
) -> None:
    """Stop Cloche on this machine. Active runs go on, and are taken up again by the next `cloche up`."""
    seconds = parse_duration(timeout)
    server = processes.running(session.folder)
    if server is None:
        session.output.result({"stopped": False, "active_runs": []}, f"Cloche does not run on {session.folder}.")
        return
    active = _settle_runs(session, cancel=cancel_runs, seconds=seconds)
    with session.output.progress("Stopping Cloche"):
        gone = processes.end(server.pid, session.folder, seconds)
    if not gone:
        raise TimeoutError(f"Cloche (process {server.pid}) has not ended within {seconds:g} s")
    session.output.result({"stopped": True, "pid": server.pid, "active_runs": active}, "Cloche has stopped.")


def _settle_runs(session: Session, *, cancel: bool, seconds: float) -> list[str]:
    """Cancel the active runs or tell that they go on; return those that do."""
    try:
        with session.client_here() as client:
            active = active_runs(client)
            if cancel:
                _cancel(session, client, active, seconds)
                return []
    except ClocheError as error:
        if cancel:
            raise
        session.output.warn(f"The runs could not be listed: {error.what}")
        return []
    for run_id in active:
        session.output.note(f"run {run_id} goes on")
    if active:
        session.output.note("`cloche up` takes them up again; `cloche down --cancel-runs` would have ended them.")
    return active


def _cancel(session: Session, client: "Client", active: list[str], seconds: float) -> None:
    for run_id in active:
        client.runs.cancel(run_id)
    with session.output.progress(f"Canceling {len(active)} runs") as step:
        for run_id in active:
            ended = client.runs.wait(run_id, timeout=seconds)
            step.say(f"run {run_id} is {ended.status}")


def active_runs(client: "Client") -> list[str]:
    """Return the ids of the runs that have not ended."""
    return [run.id for status in ACTIVE for run in client.runs.list(status=status)]


def status(session: Session) -> None:
    """Show whether Cloche runs here, and what it is doing. Exits with 1 when it is not ready."""
    home = session.folder
    server = None if session.named_server else processes.running(home)
    if server is None and not session.named_server:
        session.output.record(
            {"running": False, "ready": False, "home": str(home)},
            [("status", "not running"), ("home", str(home)), ("start it", "cloche up -d")],
        )
        raise typer.Exit(exits.FAILURE)
    with session.client() as client:
        _show_status(session, client, server, home)


def _show_status(session: Session, client: "Client", server: processes.Running | None, home: Path) -> None:
    ready, version = client.ready(), client.version()
    well = ready.get("status") == "ok"
    runs = {name: len(client.runs.list(status=name)) for name in ACTIVE} if well else {}
    active = {name: count for name, count in runs.items() if count}
    services = [one.model_dump(mode="json") for one in client.services.list()] if well else []
    found = {
        "running": True,
        "ready": well,
        "failing": ready.get("failing", {}),
        "url": client.endpoint.url,
        "version": version.get("version"),
        "installation": version.get("installation"),
        "pid": server.pid if server else None,
        "started": server.started if server else None,
        "home": str(home) if server else None,
        "runs": active,
        "services": {one["name"]: one["status"] for one in services},
    }
    session.output.record(found, _status_fields(found, server))
    if not well:
        raise typer.Exit(exits.FAILURE)


def _status_fields(found: dict[str, object], server: processes.Running | None) -> list[tuple[str, str]]:
    pairs = [("status", "ready" if found["ready"] else f"not ready: {found['failing']}"), ("url", str(found["url"]))]
    if server is not None:
        now = datetime.now(UTC)
        up_for = f", up for {age(server.started, now)}" if seconds_between(server.started, now.isoformat()) else ""
        pairs += [("process", f"{server.pid}{up_for}"), ("home", str(found["home"])), ("token", server.token_file)]
    pairs.append(("version", str(found["version"])))
    pairs.append(("active runs", _counts(found["runs"])))
    pairs.append(("services", _counts(found["services"])))
    return pairs


def _counts(table: object) -> str:
    found = table if isinstance(table, dict) else {}
    return ", ".join(f"{name} {value}" for name, value in found.items()) or "none"
