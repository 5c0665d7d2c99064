"""`events`: what happens, as it happens."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from cloche.cli.options import command
from cloche.cli.session import Session
from cloche.cli.text import Table, cell, event_line, one_line

REASON: Final = 80


def install(app: typer.Typer) -> None:
    """Add the commands."""
    events = typer.Typer(no_args_is_help=True, help="Events: the facts of all services.")
    command(events, "tail", tail)
    dead = typer.Typer(no_args_is_help=True, help="Dead letters: messages that no handler could take.")
    command(dead, "list", list_dead)
    command(dead, "resend", resend)
    events.add_typer(dead, name="dead")
    app.add_typer(events, name="events")


def tail(
    session: Session,
    *,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f/-F", help="Go on until Ctrl-C.")] = True,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the first event there is.")] = False,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only this type: RunCompleted. Repeatable.")] = None,
    correlation: Annotated[str, typer.Option("--correlation", help="Only one chain, by its correlation id.")] = "",
    subject: Annotated[str, typer.Option("--subject", help="Only one aggregate: its subject as shown.")] = "",
) -> None:
    """Show events: the newest as they come, with --from-start all. With --json a CloudEvent on each line."""
    with session.client() as client:
        for event in client.events(
            follow=follow,
            from_start=from_start,
            types=full_types(kind or ()),
            correlation=correlation or None,
            subject=subject or None,
        ):
            item = event.model_dump(mode="json")
            session.output.result(item, event_line(item))


def list_dead(
    session: Session, limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100
) -> None:
    """List the messages that were put aside, oldest first, with the reason. Needs an administrator's token."""
    with session.client() as client:
        items = [one.model_dump(mode="json") for one in client.letters.list(limit=limit)]
    names = ("id", "group", "type", "subject", "attempts")
    rows = [(*(cell(item.get(name)) for name in names), one_line(str(item.get("reason")), REASON)) for item in items]
    columns = ("LETTER", "GROUP", "TYPE", "SUBJECT", "ATTEMPTS", "REASON")
    session.output.listing(items, Table(columns, rows), empty="No message was put aside.")


def resend(
    session: Session, letters: Annotated[list[str], typer.Argument(metavar="LETTER...", help="Their ids, as listed.")]
) -> None:
    """Deliver messages again to the group that could not take them, after its fault was mended."""
    with session.client() as client:
        for letter in letters:
            found = client.letters.resend(letter).model_dump(mode="json")
            session.output.result(found, f"{found['id']} goes to {found['group']} again.")


def full_types(names: Sequence[str]) -> list[str]:
    """Return event types as they are named on the wire: `RunCompleted` is `cloche.RunCompleted.v1`."""
    return [name if "." in name else f"cloche.{name}.v1" for name in names]
