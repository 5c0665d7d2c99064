"""`build`, and `env build`: builds of environments and their logs."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cloche._errors import Failed, NotFound
from cloche._views import Build, Problem
from cloche.cli.exits import MISSING, exit_code_of_problem
from cloche.cli.follow import pauses
from cloche.cli.options import command
from cloche.cli.parsing import parse_duration, parse_reference
from cloche.cli.session import Session
from cloche.cli.text import Table, age, cell, duration, size

if TYPE_CHECKING:
    from cloche.client import Client

BuildId = Annotated[str, typer.Argument(metavar="ID", help="The id, as `build list` shows it.")]


def install(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Builds of environments: their state, log and lock.")
    command(group, "list", list_all)
    command(group, "show", show)
    command(group, "logs", logs)
    command(group, "lock", lock)
    app.add_typer(group, name="build")


def build(
    session: Session,
    environment: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="NAME, NAME:VERSION or NAME@LABEL.")],
    *,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Solve again, so that unpinned packages may move. The old lock is kept.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end and show the log.")] = True,
    timeout: Annotated[str, typer.Option("--timeout", help="Wait no longer than this: 10m.")] = "",
) -> None:
    """Build an environment. Runs and services do it by themselves; what is built already is not built again."""
    parse_reference(environment)
    with session.client() as client:
        found = client.builds.start(environment, refresh=refresh)
        if wait:
            found = follow(session, client, found, parse_duration(timeout) if timeout else None)
    item = found.model_dump(mode="json")
    session.output.result(item, f"{found.id}  {found.status}  {cell(item.get('lock_digest'))}")
    session.output.note(_told(item))


def _told(item: dict[str, object]) -> str:
    if item.get("status") != "Completed":
        return f"`cloche build logs {item['id']} -f` follows it"
    if item.get("reused"):
        return f"{item.get('environment')}: nothing had to be built"
    seconds = item.get("seconds")
    took = duration(seconds) if isinstance(seconds, float) and seconds else ""
    artefacts = f"{item['artefacts']} packages, {size(item.get('bytes'))}" if item.get("artefacts") else ""
    return f"{item.get('environment')}: " + (", ".join(part for part in (artefacts, took) if part) or "built")


def follow(session: Session, client: "Client", found: Build, timeout: float | None = None) -> Build:
    """Show a build's log on stderr until its end. Raises the problem of one that failed."""
    found = _begun(client, found)
    if not found.ended:
        if timeout is None and not session.output.mode.quiet:
            for piece in client.builds.log(found.id, follow=True):
                session.output.note(piece.rstrip("\n"))
        found = client.builds.wait(found.id, timeout=timeout)
    if found.status == "Failed":
        raise failed(found)
    return found


def _begun(client: "Client", found: Build) -> Build:
    """Return the build once it is known whether anything has to be built: an old log is no news."""
    for pause in pauses():
        if found.status != "NotStarted":
            break
        time.sleep(pause)
        found = client.builds.get(found.id)
    return found


def problem_of(found: Build) -> Problem | None:
    """Return why a build failed."""
    told = found.model_dump(mode="json")
    said = told.get("problem") or told.get("error")
    return Problem.model_validate(said) if isinstance(said, dict) else None


def failed(found: Build) -> Failed | NotFound:
    """Return the error for a build that failed."""
    problem = problem_of(found)
    if problem is None:
        return Failed("build_failed", "The build failed.", todo=f"See its log: `cloche build logs {found.id}`.")
    kind = NotFound if exit_code_of_problem(problem.code) == MISSING else Failed
    return kind(
        problem.code,
        f"The build failed: {problem.message}",
        todo=problem.todo or f"See its log: `cloche build logs {found.id}`.",
        extra={"build": found.id},
    )


def list_all(
    session: Session, limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50
) -> None:
    """List the builds that the project asked for, newest first."""
    now = datetime.now(UTC)
    with session.client() as client:
        items = [one.model_dump(mode="json") for one in client.builds.list(limit=limit)]
    rows = [
        (
            cell(item["id"]),
            cell(item.get("environment")),
            cell(item["status"]),
            size(item.get("bytes") or None),
            duration(item.get("seconds") or None),
            age(item.get("created_at"), now),
        )
        for item in items
    ]
    columns = ("ID", "ENVIRONMENT", "STATUS", "SIZE", "TOOK", "AGE")
    session.output.listing(items, Table(columns, rows), empty="No builds yet.")


def show(session: Session, build_id: BuildId) -> None:
    """Show a build."""
    with session.client() as client:
        item = client.builds.get(build_id).model_dump(mode="json")
    names = ("id", "status", "environment", "definition_hash", "lock_digest", "image", "artefacts", "reused", "builder")
    pairs = [(name.replace("_", " "), cell(item.get(name))) for name in names]
    pairs.append(("size", size(item.get("bytes") or None)))
    pairs.append(("took", duration(item.get("seconds") or None)))
    problem = item.get("problem")
    if isinstance(problem, dict):
        pairs += [("problem", str(problem.get("message"))), ("do", cell(problem.get("todo")))]
    session.output.record(item, pairs)


def logs(
    session: Session,
    build_id: BuildId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the build ends.")] = False,
) -> None:
    """Write the log of a build."""
    with session.client() as client:
        for piece in client.builds.log(build_id, follow=follow):
            session.output.raw(piece.encode())


def lock(session: Session, build_id: BuildId) -> None:
    """Write the lock of a build: pylock.toml (PEP 751), or pixi.lock where conda packages are part of it."""
    with session.client() as client:
        text = client.builds.lock(build_id)
    session.output.result({"lock": text}, text.rstrip("\n"))
