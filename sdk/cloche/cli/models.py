"""`model`: models, their versions and files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cloche._errors import Invalid
from cloche._views import Model
from cloche.cli.options import command
from cloche.cli.parsing import parse_pairs, parse_reference
from cloche.cli.session import Session
from cloche.cli.text import Table, age, cell, size

Named = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
Referred = Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="The latest version, unless one is named.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]


def install(app: typer.Typer) -> None:
    """Add the commands."""
    model = typer.Typer(no_args_is_help=True, help="Models: register, download, look at them.")
    command(model, "register", register)
    command(model, "list", list_all)
    command(model, "show", show)
    command(model, "versions", versions)
    command(model, "download", download)
    command(model, "delete", delete)
    app.add_typer(model, name="model")


def register(
    session: Session,
    name: Named,
    *,
    path: Annotated[str, typer.Option("--path", help="A local file or folder; with --from-run what lies there.")],
    from_run: Annotated[str, typer.Option("--from-run", help="A run (or @last) whose outputs are meant.")] = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag: KEY=VALUE. Repeatable.")] = None,
    description: Annotated[str, typer.Option("--description", help="What it is.")] = "",
) -> None:
    """Register files, or outputs of a run, as the next version of a model."""
    tags = parse_pairs(tag or (), "--tag")
    with session.client() as client:
        run_id = client.runs.find(from_run).id if from_run else None
        made = client.models.register(name, path=path, from_run=run_id, tags=tags, description=description)
    item = made.model_dump(mode="json")
    session.output.result(item, f"{made.name}:{made.version}")
    source = f" from run {item['run_id']}" if item.get("run_id") else ""
    session.output.note(f"registered, {size(item.get('size'))}{source}")


def list_all(session: Session, *, limit: Limit = 100) -> None:
    """List models by name, each with its latest version."""
    with session.client() as client:
        found = client.models.list(limit=limit)
    _table(session, found, "No models yet: `cloche model register NAME --from-run @last --path outputs/…`.")


def versions(session: Session, name: Named, *, limit: Limit = 100) -> None:
    """List the versions of a model, newest first."""
    with session.client() as client:
        found = client.models.versions(name, limit=limit)
    _table(session, found, "")


def _table(session: Session, found: list[Model], empty: str) -> None:
    now = datetime.now(UTC)
    items = [one.model_dump(mode="json") for one in found]
    rows = [
        (
            cell(item["name"]),
            cell(item["version"]),
            size(item.get("size")),
            cell(item.get("run_id")),
            _environment(item),
            age(item.get("created_at"), now),
        )
        for item in items
    ]
    session.output.listing(items, Table(("NAME", "VERSION", "SIZE", "RUN", "ENVIRONMENT", "AGE"), rows), empty=empty)


def _environment(item: dict[str, object]) -> str:
    name = item.get("environment_name")
    return f"{name}:{item.get('environment_version')}" if name else "-"


def show(session: Session, model: Referred) -> None:
    """Show a version of a model and its files."""
    reference = parse_reference(model)
    if reference.label is not None:
        raise Invalid("invalid_reference", "Models have no labels.", todo="Write NAME or NAME:VERSION.")
    with session.client() as client:
        item = client.models.get(reference.name, version=reference.version).model_dump(mode="json")
    files = item.get("files")
    pairs = [
        ("model", f"{item['name']}:{item['version']}"),
        ("description", cell(item.get("description"))),
        ("size", size(item.get("size"))),
        ("tags", cell(item.get("tags"))),
        ("run", cell(item.get("run_id"))),
        ("environment", _environment(item)),
        ("registered", f"{cell(item.get('created_at'))} by {cell(item.get('created_by'))}"),
        ("files", "\n".join(f"{one['path']}  {size(one['size'])}" for one in files or ())),
    ]
    session.output.record(item, pairs)


def download(
    session: Session,
    model: Referred,
    *,
    to: Annotated[Path, typer.Option("--to", "-o", help="The folder to write to.")] = Path(),
) -> None:
    """Download the files of a version."""
    reference = parse_reference(model)
    with session.client() as client:
        written = [str(one) for one in client.models.download(reference.name, reference.version, to)]
    session.output.result({"paths": written}, "\n".join(written))


def delete(
    session: Session, name: Named, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Refuse new references to a model. What uses a version keeps it; the name stays taken."""
    session.confirm(f"Delete the model {name}?", yes=yes)
    with session.client() as client:
        client.models.delete(name)
    session.output.result({"name": name, "deleted": True}, f"{name} is deleted")
