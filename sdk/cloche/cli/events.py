"""`events`: what happens, as it happens."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from cloche._errors import Invalid
from cloche.cli.options import command
from cloche.cli.parsing import parse_duration
from cloche.cli.session import Session
from cloche.cli.text import Item, Table, age, cell, event_line, one_line

REASON: Final = 80
SERVICES: Final = ("registry", "builder", "runner", "deployer")
Since = Annotated[str, typer.Option("--since", help="Only what happened since: a time, or 2h ago as 2h.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count.")]


def install(app: typer.Typer) -> None:
    """Add the commands."""
    events = typer.Typer(no_args_is_help=True, help="Events: the facts of all services.")
    command(events, "tail", tail)
    dead = typer.Typer(no_args_is_help=True, help="Dead letters: messages that no handler could take.")
    command(dead, "list", list_dead)
    command(dead, "resend", resend)
    command(events, "send", send)
    command(events, "groups", list_groups)
    command(events, "replay", replay)
    command(events, "republish", republish)
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
    session.output.listing(items, letter_table(items, datetime.now(UTC)), empty="No message was put aside.")


def letter_table(items: Sequence[Item], now: datetime) -> Table:
    """Return dead letters as a table; how old each is, is by the time of what it is about."""
    names = ("id", "group", "type", "subject", "attempts")
    rows = [
        (
            *(cell(item.get(name)) for name in names),
            age(item.get("time"), now),
            one_line(str(item.get("reason")), REASON),
        )
        for item in items
    ]
    return Table(("LETTER", "GROUP", "TYPE", "SUBJECT", "ATTEMPTS", "AGE", "REASON"), rows)


def resend(
    session: Session, letters: Annotated[list[str], typer.Argument(metavar="LETTER...", help="Their ids, as listed.")]
) -> None:
    """Deliver messages again to the group that could not take them, after its fault was mended."""
    with session.client() as client:
        for letter in letters:
            found = client.letters.resend(letter).model_dump(mode="json")
            session.output.result(found, f"{found['id']} goes to {found['group']} again.")


def send(
    session: Session,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A CloudEvent as JSON (structured mode); - reads stdin.")
    ],
) -> None:
    """Send a command by message: it acts once, however often it is sent. Its answer is an event of its own."""
    command = read_document(file)
    with session.client() as client:
        taken = client.commands.send(command).model_dump(mode="json")
    follow = f"cloche events tail --from-start --correlation {taken['correlationid']}"
    session.output.result(taken, f"Sent to {taken['topic']}. What becomes of it: {follow}")


def list_groups(session: Session) -> None:
    """List the consumer groups of the services, and what each reads."""
    with session.client() as client:
        items = [one.model_dump(mode="json") for one in client.groups.list()]
    rows = [(item["group"], item["service"], ", ".join(item["topics"])) for item in items]
    session.output.listing(items, Table(("GROUP", "SERVICE", "TOPICS"), rows), empty="There are no groups.")


def replay(
    session: Session,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="As `cloche events groups` shows it.")],
    *,
    since: Since = "",
    dry_run: DryRun = False,
) -> None:
    """Deliver to a group again what its topics hold. What it did already it does not do twice."""
    moment = parse_moment(since)
    with session.client() as client, session.output.progress(f"Replaying {group}") as step:
        count = client.groups.replay(
            group, since=moment, dry_run=dry_run, told=lambda name, so_far: step.say(f"{name}: {so_far} messages")
        )
    done = "would come again" if dry_run else "come again"
    session.output.result({"group": group, "messages": count}, f"{count} messages {done} to {group}.")


def republish(  # noqa: PLR0913 - what may be selected
    session: Session,
    services: Annotated[
        list[str] | None, typer.Argument(metavar="[SERVICE...]", help="registry, builder, runner, deployer; else all.")
    ] = None,
    *,
    stream: Annotated[str, typer.Option("--stream", help="One aggregate: its subject as events show it.")] = "",
    first: Annotated[int, typer.Option("--first", min=1, help="With --stream: from this number on.")] = 1,
    last: Annotated[int | None, typer.Option("--last", min=1, help="With --stream: up to this number.")] = None,
    since: Since = "",
    until: Annotated[str, typer.Option("--until", help="Only what happened before: a time, or 2h ago as 2h.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Send facts from the journals to the bus again, for a broker that lost them. Who had them does nothing twice."""
    unknown = sorted(set(services or ()) - set(SERVICES))
    if unknown:
        raise Invalid(
            "unknown_service",
            f"There is no service {unknown[0]!r}.",
            why=f"There are: {', '.join(SERVICES)}.",
            todo="Name one of them, or none for all.",
        )
    begin, end = parse_moment(since), parse_moment(until)
    with session.client() as client, session.output.progress("Republishing") as step:
        counts = client.journals.republish(
            *(services or ()),
            stream=stream or None,
            first=first,
            last=last,
            since=begin,
            until=end,
            dry_run=dry_run,
            told=lambda name, so_far: step.say(f"{name}: {so_far} events"),
        )
    named = ", ".join(f"{name} {count}" for name, count in counts.items())
    session.output.result(counts, f"{'Would send' if dry_run else 'Sent'} again: {named}.")


def parse_moment(text: str) -> datetime | None:
    """Read an RFC 3339 time, a date, or how long ago (`2h`); empty: none. Raises `Invalid` (`invalid_time`)."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
        except (Invalid, OverflowError):
            raise Invalid(
                "invalid_time",
                f"{text!r} is no time.",
                todo="Write a time (2027-01-31T18:00:00Z), a date, or how long ago (90m, 2h, 3d).",
            ) from None
    return found.astimezone()


def read_document(file: Path) -> dict[str, object]:
    """Return the JSON object in a file, `-` for stdin. Raises `Invalid` (`unreadable_file`, `malformed_json`)."""
    import orjson  # noqa: PLC0415 - not every command reads JSON

    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Invalid("unreadable_file", f"{file} cannot be read.", why=error.strerror or "") from None
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid("malformed_json", f"{file} is not JSON.", why=f"{error}.") from None
    if not isinstance(found, dict):
        raise Invalid("malformed_json", f"{file} holds no JSON object.", todo="Write one CloudEvent.")
    return found


def full_types(names: Sequence[str]) -> list[str]:
    """Return event types as they are named on the wire: `RunCompleted` is `cloche.RunCompleted.v1`."""
    return [name if "." in name else f"cloche.{name}.v1" for name in names]
