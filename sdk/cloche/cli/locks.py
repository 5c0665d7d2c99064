"""`env refresh`, `drift`, `explain`, `logs`: the life of an environment's lock."""

from typing import TYPE_CHECKING, Annotated

import typer

from cloche import _locks as locks
from cloche._views import Drift, LockChanges, PackageChange
from cloche.cli import builds
from cloche.cli.options import command
from cloche.cli.parsing import parse_duration, parse_reference
from cloche.cli.session import Session
from cloche.cli.text import Table, cell, size

if TYPE_CHECKING:
    from cloche.client import Client

Referred = Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="NAME, NAME:VERSION or NAME@LABEL.")]
Timeout = Annotated[str, typer.Option("--timeout", help="Wait no longer than this: 10m.")]
_DOES = {
    "reuse": "nothing is built",
    "restore": "files are fetched again",
    "build": "a lock is made",
    "join": "it is being built",
}


def install(env: typer.Typer) -> None:
    """Add the commands."""
    command(env, "refresh", refresh)
    command(env, "drift", drift)
    command(env, "explain", explain)
    command(env, "logs", logs)


def refresh(session: Session, environment: Referred, *, timeout: Timeout = "") -> None:
    """Solve again, so that open versions may move, and show what changed. What has the old lock keeps it."""
    parse_reference(environment)
    with session.client() as client:
        started = client.builds.start(environment, refresh=True)
        built = builds.follow(session, client, started, parse_duration(timeout) if timeout else None)
        found = client.builds.changes(built.id)
    document = {"build": built.model_dump(mode="json"), **found.model_dump(mode="json")}
    _write(session, document, found, "Nothing moved: the new lock is the old one.")


def drift(
    session: Session,
    environment: Referred,
    *,
    timeout: Timeout = "",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where anything would change.")] = False,
) -> None:
    """Say what a refresh would change now. Nothing is changed."""
    parse_reference(environment)
    with session.client() as client, session.output.progress(f"Choosing packages for {environment} again"):
        found = client.environments.drift(environment, timeout=parse_duration(timeout) if timeout else None)
    document = {**found.model_dump(mode="json"), "drifted": found.drifted}
    _write(session, document, found, "A refresh would change nothing.")
    if strict and found.drifted:
        raise typer.Exit(1)


def _write(session: Session, document: dict[str, object], found: LockChanges | Drift, nothing: str) -> None:
    if session.output.mode.json:
        session.output.document(document)
        return
    before, after = found.before, found.after
    rows = [_row(one) for one in found.packages]
    if before.python and before.python != after.python:
        rows.insert(0, ("python", "python", before.python, after.python))
    session.output.listing([], Table(("KIND", "PACKAGE", "BEFORE", "AFTER"), rows), empty=nothing)
    session.output.note(f"lock {cell(before.digest)} -> {after.digest or 'not made'}")


def _row(one: PackageChange) -> tuple[str, str, str, str]:
    return (one.kind, one.name, cell(one.before), cell(one.after))


def explain(session: Session, environment: Referred) -> None:
    """Say what a build would do, and why: reuse a lock, fetch its files again, or make one. Nothing is built."""
    parse_reference(environment)
    with session.client() as client:
        found = client.environments.explain(environment)
    pairs = [
        ("environment", found.environment),
        ("definition", found.definition_hash),
        ("a build", _DOES.get(found.action, found.action)),
        ("why", found.text),
        ("whose", found.scope_text),
        ("lock", cell(found.lock_digest)),
    ]
    if found.lock_digest:
        pairs.append(("files", f"{found.artefacts}, {size(found.bytes)}"))
    if found.steps:
        pairs.append(("it would", "\n".join(found.steps)))
    session.output.record(found.model_dump(mode="json"), pairs)


def logs(
    session: Session,
    environment: Referred,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the build ends.")] = False,
) -> None:
    """Write the log of an environment's newest build."""
    with session.client() as client:
        for piece in client.builds.log(_build_of(client, environment), follow=follow):
            session.output.raw(piece.encode())


def _build_of(client: "Client", environment: str) -> str:
    wanted = parse_reference(environment)
    version = client.environments.get(wanted.name, version=wanted.version, label=wanted.label)
    found = client.environments.build_of(version.name, version.version)
    if found is None:
        raise locks.never_built(version)
    return found.id
