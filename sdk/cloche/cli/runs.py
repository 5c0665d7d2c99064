"""`submit`, `run`, and the short ways `ps`, `queue`, `logs`, `stop`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche._views import Run
from cloche.cli import follow as following
from cloche.cli.options import command
from cloche.cli.parsing import check_references, parse_duration, parse_gpus, parse_pairs, parse_size
from cloche.cli.session import Session
from cloche.cli.state import ACTIVE
from cloche.cli.text import Table, age, cell, duration, named, one_line, seconds_between, size

if TYPE_CHECKING:
    from cloche.client import Client

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id, the beginning of it, or @last.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]
WAITING = ("NotStarted", "Preparing", "Queued")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    run = typer.Typer(no_args_is_help=True, help="Runs: submit, follow, cancel, look at what they left.")
    command(run, "submit", submit)
    command(run, "list", list_all)
    command(run, "show", show)
    command(run, "logs", logs)
    command(run, "wait", wait)
    command(run, "cancel", cancel)
    command(run, "why", why)
    command(run, "metrics", metrics)
    command(run, "outputs", outputs)
    command(run, "download", download)
    app.add_typer(run, name="run")
    command(app, "submit", submit)
    command(app, "ps", active)
    command(app, "queue", queue)
    command(app, "logs", logs)
    command(app, "stop", cancel)


def submit(  # noqa: PLR0913 - one parameter for each option
    session: Session,
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="The script; its folder is sent along.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGS...]", help="Its arguments; those with dashes after `--`.")
    ] = None,
    *,
    env: Annotated[
        str, typer.Option("--env", "-e", help="NAME, NAME:VERSION or NAME@LABEL; else the default environment.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="A name to show.")] = "",
    source: Annotated[
        Path | None, typer.Option("--source", help="The folder to send, instead of the script's.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model that it uses: NAME[:VERSION]. Repeatable.")
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", min=0, help="CPUs that it gets for itself.")] = None,
    memory: Annotated[str, typer.Option("--memory", help="Memory that it gets and is held to: 2GiB.")] = "",
    gpus: Annotated[str, typer.Option("--gpus", help="GPUs that it gets for itself: 2, or 1:H200.")] = "",
    priority: Annotated[int | None, typer.Option("--priority", help="-100 to 100; higher goes first.")] = None,
    deadline: Annotated[str, typer.Option("--deadline", help="It is ended after this time: 90s, 2h.")] = "",
    grace: Annotated[str, typer.Option("--grace", help="Between asking it to end and killing it: 10s.")] = "",
    retries: Annotated[int | None, typer.Option("--retries", min=0, help="Further attempts if it fails.")] = None,
    var: Annotated[list[str] | None, typer.Option("--var", help="A variable for it: KEY=VALUE. Repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag: KEY=VALUE. Repeatable.")] = None,
    experiment: Annotated[str, typer.Option("--experiment", help="What it belongs to.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show build and log; end with its exit code.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; end with its exit code.")] = False,
) -> None:
    """Submit a run of a script.

    It starts as soon as its environment is built and there is room for it. With --follow or --wait,
    Ctrl-C ends only the watching; the run goes on.
    """
    check_references(env, *(model or ()))
    wanted = parse_gpus(gpus)
    with session.client() as client:
        run = client.runs.submit(
            script,
            source=source,
            arguments=arguments or (),
            environment=env or None,
            models=model or (),
            cpus=cpus,
            memory=parse_size(memory) if memory else None,
            gpus=wanted.count,
            gpu_kind=wanted.kind,
            priority=priority,
            deadline=parse_duration(deadline) if deadline else None,
            grace=parse_duration(grace) if grace else None,
            retries=retries,
            variables=parse_pairs(var or (), "--var", variables=True),
            tags=parse_pairs(tag or (), "--tag"),
            experiment=experiment or None,
            display_name=name or None,
        )
        with following.detaching(session.output, run.id):
            _submitted(session, client, run, follow=follow, wait=wait)


def _submitted(session: Session, client: "Client", run: Run, *, follow: bool, wait: bool) -> None:
    """Tell the run's id at once, then what it took, and go along with it as far as was asked."""
    output = session.output
    only_id = not (follow or wait or output.mode.json)
    if only_id:
        output.line(run.id)
    taken = following.resolved(output, client, run)
    if taken.environment is not None:
        output.note(f"run {run.id} · {following.environment_note(taken)}")
    if follow:
        _finish(session, client, following.to_the_end(output, client, taken))
    elif wait:
        with output.progress(f"Waiting for run {run.id}"):
            ended = client.runs.wait(run.id)
        _finish(session, client, ended)
    else:
        if not only_id:
            output.document(taken.model_dump(mode="json"))
        _fail_early(taken)
        output.note("`cloche logs -f` follows it")


def _fail_early(run: Run) -> None:
    error = following.why_failed(run)
    if error is not None:
        raise error


def _finish(session: Session, client: "Client", run: Run) -> None:
    """Tell how the run ended, and end with its exit code."""
    following.tell_end(session.output, client, run)
    if session.output.mode.json:
        session.output.document(run.model_dump(mode="json"))
    error = following.why_failed(run)
    if error is not None:
        session.output.error(error)
    code = following.end_code(run)
    if code:
        raise typer.Exit(code)


def list_all(
    session: Session,
    *,
    status: Annotated[str, typer.Option("--status", help="Only these: Running, Queued, Failed …")] = "",
    limit: Limit = 50,
) -> None:
    """List runs, newest first."""
    with session.client() as client:
        found = client.runs.list(status=status or None, limit=limit)
    _table(session, found, "No runs yet: `cloche submit train.py --follow`.")


def active(session: Session, *, limit: Limit = 50) -> None:
    """List the runs that have not ended."""
    with session.client() as client:
        found = [run for status in ACTIVE for run in client.runs.list(status=status, limit=limit)]
    _table(session, sorted(found, key=lambda run: run.id, reverse=True)[:limit], "No run is active.")


def queue(session: Session, *, limit: Limit = 50) -> None:
    """List the runs that wait, and what for."""
    with session.client() as client:
        found = [run for status in WAITING for run in client.runs.list(status=status, limit=limit)][:limit]
        told = {run.id: client.runs.why(run.id) for run in found}
    items = [{**run.model_dump(mode="json"), "why": told[run.id]} for run in found]
    rows = [
        (run.id, run.status, str(run.model_dump().get("priority", 0)), str(told[run.id]["reason"])) for run in found
    ]
    session.output.listing(items, Table(("RUN", "STATUS", "PRIORITY", "WHY"), rows), empty="No run waits.")


def _table(session: Session, found: Sequence[Run], empty: str) -> None:
    now = datetime.now(UTC)
    items = [run.model_dump(mode="json") for run in found]
    rows = [
        (
            cell(item["id"]),
            cell(item["status"]),
            one_line(str(item.get("display_name") or item.get("script") or ""), 32),
            named(item.get("environment")),
            duration(seconds_between(item.get("started_at"), item.get("ended_at") or now.isoformat())),
            age(item.get("created_at"), now),
        )
        for item in items
    ]
    session.output.listing(items, Table(("RUN", "STATUS", "NAME", "ENVIRONMENT", "TOOK", "AGE"), rows), empty=empty)


def show(session: Session, run: RunId) -> None:
    """Show a run."""
    with session.client() as client:
        item = client.runs.find(run).model_dump(mode="json")
    session.output.record(item, _fields(item))


def _fields(item: dict[str, object]) -> list[tuple[str, str]]:
    problem, resources = item.get("problem"), item.get("resources")
    pairs = [
        ("run", str(item["id"])),
        ("status", str(item["status"])),
        ("name", cell(item.get("display_name"))),
        ("script", " ".join([str(item.get("script")), *_texts(item.get("arguments"))])),
        ("experiment", cell(item.get("experiment"))),
        ("environment", named(item.get("environment"))),
        ("lock", cell(item.get("lock_digest"))),
        ("resources", _resources(resources)),
        ("node", cell(item.get("node"))),
        ("gpus", cell(item.get("gpus"))),
        ("attempt", cell(item.get("attempt"))),
        ("submitted", f"{cell(item.get('created_at'))} by {cell(item.get('created_by'))}"),
        ("started", cell(item.get("started_at"))),
        ("ended", cell(item.get("ended_at"))),
        ("took", following.took_of(item)),
        ("exit", following.ending_of(item.get("exit")) or "-"),
        ("tags", cell(item.get("tags"))),
        ("properties", cell(item.get("properties"))),
    ]
    pairs += [("not kept", one) for one in _texts(item.get("left_out"))]
    if isinstance(problem, dict):
        pairs += [("problem", str(problem.get("message"))), ("code", str(problem.get("code")))]
        pairs.append(("do", cell(problem.get("todo"))))
    return pairs


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _resources(value: object) -> str:
    if not isinstance(value, dict):
        return "-"
    gpus = f", {value.get('gpus')} GPUs {value.get('gpu_kind') or ''}".rstrip() if value.get("gpus") else ""
    return f"{value.get('cpus')} CPUs, {size(value.get('memory'))}{gpus}"


def logs(session: Session, run: RunId = "@last", *, follow: Follow = False) -> None:
    """Write the log of a run; the last one if none is named."""
    with session.client() as client:
        found = client.runs.find(run)
        with following.detaching(session.output, found.id):
            for piece in client.runs.log(found.id, follow=follow):
                session.output.raw(piece)


def wait(
    session: Session,
    run: RunId = "@last",
    *,
    timeout: Annotated[str, typer.Option("--timeout", help="Wait no longer than this: 10m; then exit with 124.")] = "",
) -> None:
    """Wait for the end of a run, and exit with its exit code."""
    with session.client() as client:
        found = client.runs.find(run)
        with following.detaching(session.output, found.id), session.output.progress(f"Waiting for run {found.id}"):
            ended = client.runs.wait(found.id, timeout=parse_duration(timeout) if timeout else None)
        _finish(session, client, ended)


def cancel(
    session: Session,
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, beginnings of ids, or @last.")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they have ended.")] = False,
) -> None:
    """Cancel runs.

    Their whole process group is asked to end, and killed after the grace period.
    """
    with session.client() as client:
        found = [client.runs.cancel(client.runs.find(run).id) for run in runs]
        if wait:
            found = [client.runs.wait(run.id) for run in found]
    items = [run.model_dump(mode="json") for run in found]
    if session.output.mode.json:
        session.output.document(items)
    for run in [] if session.output.mode.json else found:
        session.output.line(f"{run.id}  {run.status}")


def why(session: Session, run: RunId = "@last") -> None:
    """Tell what a run waits for, or what became of it."""
    with session.client() as client:
        told = client.runs.why(client.runs.find(run).id)
    session.output.result(told, f"{told['status']}: {told['reason']}")


def metrics(session: Session, run: RunId = "@last") -> None:
    """Show what a run logged: metrics, tags, properties."""
    with session.client() as client:
        told = client.runs.metrics(client.runs.find(run).id)
    groups = [(name, told.get(name)) for name in ("metrics", "tags", "properties")]
    rows = [
        (name.removesuffix("s") if name != "properties" else "property", str(key), one_line(cell(value), 100))
        for name, group in groups
        if isinstance(group, dict)
        for key, value in group.items()
    ]
    if session.output.mode.json:
        session.output.document(told)
    else:
        session.output.listing([], Table(("KIND", "NAME", "VALUE"), rows), empty="The run logged nothing.")
    if told.get("truncated"):
        session.output.warn("the run logged more than is kept")


def outputs(session: Session, run: RunId = "@last") -> None:
    """List the files that a run left below outputs/ and logs/."""
    with session.client() as client:
        items = client.runs.outputs(client.runs.find(run).id)
    rows = [(str(item["path"]), size(item["size"]), str(item["digest"])[:19]) for item in items]
    session.output.listing(items, Table(("PATH", "SIZE", "DIGEST"), rows), empty="The run left no files.")


def download(
    session: Session,
    run: RunId,
    path: Annotated[str | None, typer.Argument(help="A file of the run, or a folder; all if left out.")] = None,
    *,
    to: Annotated[Path, typer.Option("--to", "-o", help="The folder to write to.")] = Path(),
) -> None:
    """Download files that a run left."""
    from cloche._errors import NotFound  # noqa: PLC0415 - beside its only use
    from cloche._files import safe_join  # noqa: PLC0415 - the same

    with session.client() as client:
        found = client.runs.find(run)
        names = [str(item["path"]) for item in client.runs.outputs(found.id)]
        wanted = [name for name in names if path is None or name == path or name.startswith(f"{path.rstrip('/')}/")]
        if not wanted:
            raise NotFound(
                "output_not_found",
                f"The run left no {path!r}." if path else "The run left no files.",
                why=f"It left: {', '.join(names[:20]) or 'nothing'}.",
                todo="Name one of these.",
            )
        written = [client.runs.download(found.id, name, safe_join(to, name)) for name in wanted]
    session.output.result({"paths": [str(one) for one in written]}, "\n".join(str(one) for one in written))
