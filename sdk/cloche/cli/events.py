"""`events`: what happens, as it happens."""

from collections.abc import Sequence
from typing import Annotated

import typer

from cloche.cli.options import command
from cloche.cli.session import Session
from cloche.cli.text import event_line


def install(app: typer.Typer) -> None:
    """Add the commands."""
    events = typer.Typer(no_args_is_help=True, help="Events: the facts of all services.")
    command(events, "tail", tail)
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


def full_types(names: Sequence[str]) -> list[str]:
    """Return event types as they are named on the wire: `RunCompleted` is `cloche.RunCompleted.v1`."""
    return [name if "." in name else f"cloche.{name}.v1" for name in names]
