"""`wheel`: private wheels of the project."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import command
from cloche.cli.session import Session
from cloche.cli.text import Table, age, cell, size


def install(app: typer.Typer) -> None:
    """Add the commands."""
    wheel = typer.Typer(no_args_is_help=True, help="Private wheels: upload them, look at them.")
    command(wheel, "upload", upload)
    command(wheel, "list", list_all)
    app.add_typer(wheel, name="wheel")


def upload(
    session: Session,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Wheels (.whl).")],
) -> None:
    """Upload wheels. A newer upload replaces what the name means; what is locked already keeps its own.

    A wheel's name is the one that its own metadata gives it; its RECORD is checked, nothing of it is run.
    """
    items: list[dict[str, object]] = []
    with session.client() as client:
        for file in files:
            made = client.wheels.upload(file)
            items.append(made.model_dump(mode="json"))
            if made.filename != file.name:
                session.output.note(f"{file.name} is {made.filename} by its metadata")
    if session.output.mode.json:
        session.output.document(items)
        return
    for item in items:
        session.output.line(f"{item['filename']}  {item['digest']}")


def list_all(
    session: Session, limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100
) -> None:
    """List private wheels by file name, each with its newest upload."""
    with session.client() as client:
        items = [one.model_dump(mode="json") for one in client.wheels.list(limit=limit)]
    now = datetime.now(UTC)
    rows = [
        (
            cell(item["filename"]),
            size(item.get("size")),
            str(len(item.get("digests") or ())),
            str(item["digest"])[:19],
            age(item.get("uploaded_at"), now),
        )
        for item in items
    ]
    columns = ("WHEEL", "SIZE", "UPLOADS", "DIGEST", "AGE")
    session.output.listing(items, Table(columns, rows), empty="No private wheels yet: `cloche wheel upload FILE`.")
