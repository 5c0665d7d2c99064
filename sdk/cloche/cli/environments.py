"""`env`: environments, their versions and labels."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cloche._errors import Invalid, NotFound
from cloche._imports import read_file
from cloche._views import Environment
from cloche.cli import builds, definitions, locks
from cloche.cli.options import command
from cloche.cli.parsing import parse_pairs, parse_reference
from cloche.cli.session import Session
from cloche.cli.text import Table, age, cell

Named = Annotated[str, typer.Argument(metavar="NAME", help="The environment's name.")]
Referred = Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="NAME, NAME:VERSION or NAME@LABEL.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def install(app: typer.Typer) -> None:
    """Add the commands."""
    env = typer.Typer(no_args_is_help=True, help="Environments: register, build, label, look at them.")
    command(env, "register", register)
    command(env, "list", list_all)
    command(env, "show", show)
    command(env, "versions", versions)
    command(env, "build", builds.build)
    command(env, "lock", lock)
    command(env, "label", label)
    command(env, "unlabel", unlabel)
    command(env, "archive", archive)
    command(env, "restore", restore)
    command(env, "delete", delete)
    locks.install(env)
    definitions.install(env)
    app.add_typer(env, name="env")


def register(  # noqa: PLR0913 - one parameter for each option
    session: Session,
    name: Named,
    *,
    requirements: Annotated[
        Path | None, typer.Option("--requirements", "-r", help="A pip requirements file (its -r and -c are read too).")
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option("--package", "-p", help="A requirement, as pip takes it. Repeatable.")
    ] = None,
    python: Annotated[str, typer.Option("--python", help="The Python version: 3.12.")] = "",
    var: Annotated[
        list[str] | None, typer.Option("--var", help="A variable of runs and services: KEY=VALUE. Repeatable.")
    ] = None,
    wheel: Annotated[
        list[str] | None,
        typer.Option("--wheel", help="A private wheel: a file, which is uploaded, or the name of one. Repeatable."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A definition: cloche.yaml, JSON, conda, pyproject.toml …")
    ] = None,
    empty: Annotated[bool, typer.Option("--empty", help="No packages but Python itself.")] = False,
) -> None:
    """Register an environment. What equals the latest version is that version; anything else is the next one."""
    if requirements is not None and package:
        raise Invalid("two_sources", "Packages were given twice.", todo="Use -r or -p.")
    if requirements is None and not package and not wheel and file is None and not empty:
        raise Invalid(
            "no_packages",
            f"Nothing says which packages {name} has.",
            why="A version without packages would be the latest from now on.",
            todo="Give -r FILE, -p PACKAGE, --wheel FILE or --file FILE; --empty, if it is to have none.",
        )
    if requirements is not None and not requirements.is_file():
        raise NotFound("file_not_found", f"There is no file {requirements}.", todo="Name a requirements file.")
    variables = parse_pairs(var or (), "--var", variables=True)
    with session.client() as client:
        made = client.environments.register(
            name,
            requirements_file=requirements,
            requirements="\n".join(package) if package else None,
            definition=_definition(session, file),
            python=python or None,
            variables=variables or None,
            wheels=wheel or (),
        )
    session.output.result(made.model_dump(mode="json"), f"{made.name}:{made.version}")
    created = bool((made.model_extra or {}).get("created"))
    session.output.note(
        f"registered, definition {made.definition_hash[:15]}…"
        if created
        else "unchanged: this version is there already"
    )


def _definition(session: Session, file: Path | None) -> dict[str, object] | None:
    if file is None:
        return None
    found = read_file(file)
    definitions.tell(session, found.notes)
    return definitions.said(found)


def list_all(
    session: Session,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    *,
    archived: Annotated[bool, typer.Option("--archived", help="Those that were archived, instead.")] = False,
    curated: Annotated[bool, typer.Option("--curated", help="The starters that every project has, instead.")] = False,
) -> None:
    """List environments by name, each with its latest version."""
    with session.client() as client:
        found = client.environments.list(limit=limit, archived=archived, curated=curated)
    _table(session, found, "No environments yet: `cloche env register NAME -r requirements.txt`.")


def versions(
    session: Session, name: Named, limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100
) -> None:
    """List the versions of an environment, newest first."""
    with session.client() as client:
        found = client.environments.versions(name, limit=limit)
    _table(session, found, "")


def _table(session: Session, found: list[Environment], empty: str) -> None:
    now = datetime.now(UTC)
    items = [one.model_dump(mode="json") for one in found]
    rows = [
        (
            cell(item["name"]),
            cell(item["version"]),
            cell(item.get("python")),
            str(len(_packages(item))),
            cell(item.get("labels")),
            age(item.get("created_at"), now),
        )
        for item in items
    ]
    columns = ("NAME", "VERSION", "PYTHON", "PACKAGES", "LABELS", "AGE")
    session.output.listing(items, Table(columns, rows), empty=empty)


def _section(item: dict[str, object]) -> dict[str, object]:
    definition = item.get("definition")
    return definition if isinstance(definition, dict) else {}


def _packages(item: dict[str, object]) -> list[str]:
    python = _section(item).get("python")
    found = python.get("pip") if isinstance(python, dict) else None
    return [str(one) for one in found] if isinstance(found, list) else []


def show(session: Session, environment: Referred) -> None:
    """Show a version of an environment: the latest, unless one is named."""
    reference = parse_reference(environment)
    with session.client() as client:
        item = client.environments.get(reference.name, version=reference.version, label=reference.label).model_dump(
            mode="json"
        )
    variables = _section(item).get("variables")
    pairs = [
        ("environment", f"{item['name']}:{item['version']}"),
        ("definition", str(item["definition_hash"])),
        ("python", cell(item.get("python"))),
        ("packages", "\n".join(_packages(item)) or "none"),
        ("variables", "\n".join(f"{key}={value}" for key, value in (variables or {}).items()) or "none")
        if isinstance(variables, dict | None)
        else ("variables", "none"),
        ("labels", cell(item.get("labels"))),
        ("registered", f"{cell(item.get('created_at'))} by {cell(item.get('created_by'))}"),
        ("archived", cell(item.get("archived"))),
    ]
    session.output.record(item, pairs)


def lock(
    session: Session,
    environment: Referred,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of stdout.")] = None,
) -> None:
    """Write the lock of an environment (pylock.toml, or pixi.lock with conda), building it first if need be."""
    parse_reference(environment)
    with session.client() as client:
        built = builds.follow(session, client, client.builds.start(environment))
        text = client.builds.lock(built.id)
    if output is not None:
        output.write_text(text)
        session.output.result({"path": str(output)}, str(output))
    else:
        session.output.result({"lock": text}, text.rstrip("\n"))


def label(
    session: Session,
    name: Named,
    label: Annotated[str, typer.Argument(help="The label: production.")],
    version: Annotated[str, typer.Argument(help="The version that it names from now on.")],
) -> None:
    """Let a label name a version; NAME@LABEL then means that version."""
    with session.client() as client:
        item = client.environments.label(name, label, version).model_dump(mode="json")
    session.output.result(item, f"{name}@{label} -> {name}:{version}")


def unlabel(session: Session, name: Named, label: Annotated[str, typer.Argument(help="The label.")]) -> None:
    """Take a label away."""
    with session.client() as client:
        client.environments.unlabel(name, label)
    session.output.result({"name": name, "label": label, "removed": True}, f"{name}@{label} is gone")


def archive(session: Session, name: Named) -> None:
    """Hide an environment from lists; references keep working."""
    with session.client() as client:
        item = client.environments.archive(name).model_dump(mode="json")
    session.output.result(item, f"{name} is archived")


def restore(session: Session, name: Named) -> None:
    """Show an archived environment in lists again."""
    with session.client() as client:
        item = client.environments.restore(name).model_dump(mode="json")
    session.output.result(item, f"{name} is restored")


def delete(
    session: Session,
    name: Named,
    *,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Also where runs, services or models use it.")] = False,
) -> None:
    """Delete an environment that nothing uses. The name stays taken; with --force what uses it keeps it."""
    session.confirm(f"Delete the environment {name}?", yes=yes)
    with session.client() as client:
        client.environments.delete(name, force=force)
    session.output.result({"name": name, "deleted": True}, f"{name} is deleted")
