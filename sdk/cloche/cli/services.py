"""`deploy`, `service`, `score`: scoring services."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche._errors import ClocheError, Failed, Invalid, NotFound
from cloche._views import Service
from cloche.cli import exits
from cloche.cli.follow import pauses
from cloche.cli.options import command
from cloche.cli.parsing import check_references, parse_duration, parse_gpus, parse_pairs, parse_size
from cloche.cli.session import Session
from cloche.cli.text import Table, cell, named, size

if TYPE_CHECKING:
    from cloche.cli.output import Step
    from cloche.client import Client

Named = Annotated[str, typer.Argument(metavar="NAME", help="The service's name.")]


def install(app: typer.Typer) -> None:
    """Add the commands."""
    service = typer.Typer(no_args_is_help=True, help="Scoring services: deploy, score, look at them.")
    command(service, "deploy", deploy)
    command(service, "list", list_all)
    command(service, "show", show)
    command(service, "logs", logs)
    command(service, "keys", keys)
    command(service, "score", score)
    command(service, "delete", delete)
    app.add_typer(service, name="service")
    command(app, "deploy", deploy)
    command(app, "score", score)


def deploy(  # noqa: PLR0913 - one parameter for each option
    session: Session,
    script: Annotated[
        Path, typer.Argument(metavar="SCRIPT", help="A script with init() and run(); its folder is sent.")
    ],
    *,
    name: Annotated[str, typer.Option("--name", help="The service's name.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="What it serves: NAME[:VERSION]. Repeatable.")
    ] = None,
    env: Annotated[
        str, typer.Option("--env", "-e", help="NAME, NAME:VERSION or NAME@LABEL; else the default environment.")
    ] = "",
    source: Annotated[
        Path | None, typer.Option("--source", help="The folder to send, instead of the script's.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Give an existing service a new revision.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes.")] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", min=0, help="CPUs that it gets for itself.")] = None,
    memory: Annotated[str, typer.Option("--memory", help="Memory that it gets: 2GiB.")] = "",
    gpus: Annotated[str, typer.Option("--gpus", help="GPUs that it gets for itself.")] = "",
    var: Annotated[list[str] | None, typer.Option("--var", help="A variable for it: KEY=VALUE. Repeatable.")] = None,
    timeout: Annotated[str, typer.Option("--request-timeout", help="The longest that run() may take: 60s.")] = "",
    init_timeout: Annotated[str, typer.Option("--init-timeout", help="The longest that init() may take: 5m.")] = "",
    queue: Annotated[int | None, typer.Option("--queue", min=1, help="Requests that may wait; more get 429.")] = None,
    description: Annotated[str, typer.Option("--description", help="What it is.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is up or has failed.")] = True,
    wait_timeout: Annotated[str, typer.Option("--timeout", help="Wait no longer than this: 10m.")] = "",
) -> None:
    """Deploy a scoring service.

    Waits until a worker has passed its health check, and prints the scoring URL. With --update, requests
    are answered by the former revision until the new one is healthy.
    """
    check_references(env, *(model or ()))
    wanted = parse_gpus(gpus)
    with session.client() as client:
        found: Service = client.services.deploy(
            name,
            script,
            source=source,
            model=model or None,
            environment=env or None,
            update=update,
            workers=workers,
            cpus=cpus,
            memory=parse_size(memory) if memory else None,
            gpus=wanted.count,
            variables=parse_pairs(var or (), "--var", variables=True),
            timeout_ms=int(parse_duration(timeout) * 1000) if timeout else None,
            init_timeout=parse_duration(init_timeout) if init_timeout else None,
            queue=queue,
            description=description or None,
        )
        if wait:
            title = f"Deploying {name}, revision {found.revision}"
            with _leaving(session, name), session.output.progress(title) as step:
                found = _settled(client, name, step, parse_duration(wait_timeout) if wait_timeout else None)
    _deployed(session, found, waited=wait)


@contextmanager
def _leaving(session: Session, name: str) -> Iterator[None]:
    """Let Ctrl-C end the waiting and not the deployment."""
    try:
        yield
    except KeyboardInterrupt:
        session.output.note(
            f"\nThe deployment goes on. Look at it:  cloche service show {name}\n"
            f"                        Give it up:  cloche service delete {name}"
        )
        raise typer.Exit(exits.INTERRUPTED) from None


def _settled(client: "Client", name: str, step: "Step", timeout: float | None) -> Service:
    """Return the service when its newest revision is up or has failed, telling what goes on."""
    end = None if timeout is None else time.monotonic() + timeout
    told = ""
    for pause in pauses():
        found = client.services.get(name)
        if found.settled:
            return found
        if end is not None and time.monotonic() >= end:
            raise TimeoutError(f"The service {name} is {found.status} still")
        says = _stage(found)
        if says != told:
            step.say(says)
            told = says
        time.sleep(pause)
    raise AssertionError("pauses never end")


def _stage(found: Service) -> str:
    """Return what a revision on its way waits for."""
    item = found.model_dump(mode="json")
    head = f"Deploying {found.name}, revision {found.revision}"
    if found.environment is None:
        return head
    return f"{head}: {'starting workers' if item.get('lock_digest') else 'preparing its environment'}"


def _deployed(session: Session, found: Service, *, waited: bool) -> None:
    item = found.model_dump(mode="json")
    if waited and found.error is not None and found.active_revision != found.revision:
        raise _failed(found)
    session.output.result(item, cell(found.scoring_uri) if waited else found.name)
    if not waited:
        session.output.note(f"`cloche service show {found.name}` tells when it is up")
        return
    models = ", ".join(named(one) for one in item.get("models") or ())
    session.output.note(
        f"{found.name} is {found.status}: revision {found.revision}, environment {named(item.get('environment'))}"
        + (f", model {models}" if models else "")
    )


def _failed(found: Service) -> Failed | NotFound:
    """Return the error of a revision that did not come up; the traceback of init() is part of it."""
    problem = found.error
    if problem is None:
        return Failed("deployment_failed", f"The service {found.name} failed.")
    extra = problem.model_dump(mode="json").get("extra")
    trace = extra.get("traceback") or extra.get("log") if isinstance(extra, dict) else None
    kind = NotFound if exits.exit_code_of_problem(problem.code) == exits.MISSING else Failed
    kept = f" Revision {found.active_revision} goes on serving." if found.active_revision else ""
    return kind(
        problem.code,
        f"The service {found.name} did not come up: {problem.message}{kept}",
        why=str(trace or ""),
        todo=problem.todo or f"See what it wrote: `cloche service logs {found.name}`.",
        extra={"service": found.name, "revision": found.revision},
    )


def list_all(
    session: Session, *, limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100
) -> None:
    """List the services."""
    with session.client() as client:
        items = [one.model_dump(mode="json") for one in client.services.list(limit=limit)]
    rows = [
        (
            cell(item["name"]),
            cell(item["status"]),
            cell(item.get("active_revision")),
            ", ".join(named(one) for one in item.get("models") or ()) or "-",
            named(item.get("environment")),
            cell(item.get("scoring_uri")),
        )
        for item in items
    ]
    columns = ("NAME", "STATUS", "REVISION", "MODEL", "ENVIRONMENT", "URL")
    session.output.listing(items, Table(columns, rows), empty="No services yet: `cloche deploy score.py --name NAME`.")


def show(session: Session, name: Named) -> None:
    """Show a service."""
    with session.client() as client:
        item = client.services.get(name).model_dump(mode="json")
    workers, problem, resources = item.get("workers"), item.get("error"), item.get("resources")
    ready, wanted = (workers.get("ready"), workers.get("wanted")) if isinstance(workers, dict) else (None, None)
    pairs = [
        ("service", str(item["name"])),
        ("status", str(item["status"])),
        ("url", cell(item.get("scoring_uri"))),
        ("revision", f"{cell(item.get('active_revision'))} active, {item.get('revision')} newest"),
        ("script", cell(item.get("entry_script"))),
        ("models", ", ".join(named(one) for one in item.get("models") or ()) or "-"),
        ("environment", named(item.get("environment"))),
        ("lock", cell(item.get("lock_digest"))),
        ("workers", f"{cell(ready)} of {cell(wanted)} ready"),
        ("memory", size(resources.get("memory")) if isinstance(resources, dict) else "-"),
        ("gpus", cell(item.get("gpus"))),
        ("description", cell(item.get("description"))),
    ]
    if isinstance(problem, dict):
        pairs += [("problem", str(problem.get("message"))), ("code", str(problem.get("code")))]
        pairs.append(("do", cell(problem.get("todo"))))
    session.output.record(item, pairs)


def logs(
    session: Session,
    name: Named,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what the workers write.")] = False,
) -> None:
    """Write what the workers of a service wrote."""
    with session.client() as client:
        for piece in client.services.log(name, follow=follow):
            session.output.raw(piece.encode() if piece.endswith("\n") or not follow else f"{piece}\n".encode())


def keys(
    session: Session,
    name: Named,
    *,
    regenerate: Annotated[str, typer.Option("--regenerate", help="Replace this one: primary or secondary.")] = "",
) -> None:
    """Show the two keys of a service; each opens its scoring and nothing else."""
    if regenerate not in {"", "primary", "secondary"}:
        raise Invalid("invalid_key", f"There is no key {regenerate!r}.", todo="Write primary or secondary.")
    with session.client() as client:
        found = client.services.regenerate(name, regenerate) if regenerate else client.services.keys(name)
    session.output.record(found.model_dump(mode="json"), [("primary", found.primary), ("secondary", found.secondary)])


def score(
    session: Session,
    name: Named,
    data: Annotated[str, typer.Argument(metavar="DATA|@FILE|-", help="What run() gets: text, a file, or stdin.")],
    *,
    key: Annotated[str, typer.Option("--key", envvar="CLOCHE_SERVICE_KEY", help="A key of the service.")] = "",
) -> None:
    """Send data to a service and write what run() returned."""
    body = _payload(data)
    with session.client() as client:
        try:
            answer = client.services.score(name, body, key=key or None)
        except ClocheError as error:
            raise _scoring_failed(name, error) from error
    if isinstance(answer, bytes):
        session.output.stdout.flush()
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    else:
        session.output.document(answer)


def _scoring_failed(name: str, error: ClocheError) -> ClocheError:
    """Return the error with where to look: what a script answers for itself is no problem document of ours."""
    if error.code != "unexpected_answer":
        return error
    todo = f"See what the script wrote: `cloche service logs {name}`."
    return Failed("scoring_failed", f"The service {name} did not score. {error.what}", why=error.why, todo=todo)


def _payload(data: str) -> str | bytes:
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise NotFound("file_not_found", f"{data[1:]} cannot be read.", why=str(error), todo="Name a file.") from error


def delete(
    session: Session, name: Named, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete a service: its workers end and its keys open nothing any more."""
    session.confirm(f"Delete the service {name}?", yes=yes)
    with session.client() as client:
        client.services.delete(name)
    session.output.result({"name": name, "deleted": True}, f"{name} is deleted")
