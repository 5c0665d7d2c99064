"""`project` and `token`: what is kept apart, and who may do what in it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from cloche._errors import Invalid
from cloche.cli.options import command
from cloche.cli.parsing import parse_duration
from cloche.cli.session import Session
from cloche.cli.text import Item, Table, age, cell

EVERY = "*"
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]
About = Annotated[str, typer.Option("--description", help="What it is for.")]


class Role(StrEnum):
    """What a token may do."""

    viewer = "viewer"
    submitter = "submitter"
    admin = "admin"


def install(app: typer.Typer) -> None:
    """Add the commands."""
    project = typer.Typer(no_args_is_help=True, help="Projects: what one sees nothing of in another.")
    command(project, "create", create_project)
    command(project, "list", list_projects)
    app.add_typer(project, name="project")
    token = typer.Typer(no_args_is_help=True, help="Tokens: who may do what in a project. For administrators.")
    command(token, "create", create_token)
    command(token, "list", list_tokens)
    command(token, "revoke", revoke)
    app.add_typer(token, name="token")


def create_project(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and `-`, at most 63.")],
    *,
    description: About = "",
) -> None:
    """Create a project. Needs a token that opens every project."""
    with session.client() as client:
        made = client.projects.create(name, description=description).model_dump(mode="json")
    session.output.result(made, str(made["name"]))
    session.output.note(f"Let somebody in: cloche token create --project {made['name']} --role submitter")


def list_projects(session: Session, *, limit: Limit = 100) -> None:
    """List the projects that the token opens."""
    with session.client() as client:
        items = [one.model_dump(mode="json") for one in client.projects.list(limit=limit)]
    now = datetime.now(UTC)
    rows = [(cell(one["name"]), cell(one["description"]), age(one["created_at"], now)) for one in items]
    session.output.listing(items, Table(("NAME", "DESCRIPTION", "AGE"), rows), empty="The token opens no project.")


def create_token(
    session: Session,
    *,
    role: Annotated[Role, typer.Option("--role", help="viewer reads, submitter also works, admin also gives tokens.")],
    expires: Annotated[
        str, typer.Option("--expires", help="How long it holds (12h, 90d), or until when (2027-01-31).")
    ] = "",
    also: Annotated[
        list[str] | None, typer.Option("--also", metavar="NAME", help="A further project; `*`: every. Repeatable.")
    ] = None,
    description: About = "",
) -> None:
    """Create a token for the project (--project). It is written once, and cannot be shown again."""
    until = parse_expiry(expires)
    with session.client() as client:
        made = client.tokens.create(role.value, projects=also or (), expires=until, description=description)
    session.output.result(made.model_dump(mode="json"), str(made.token))
    ends = f" until {made.expires}" if made.expires else ""
    session.output.note(f"{made.id}: {made.role} of {_projects(made.projects)}{ends}. Keep it: it is not shown again.")


def list_tokens(
    session: Session,
    *,
    revoked: Annotated[bool, typer.Option("--revoked", help="Those that were revoked, instead of the others.")] = False,
    limit: Limit = 100,
) -> None:
    """List the tokens of the project, newest first; never the tokens themselves."""
    with session.client() as client:
        items = [one.model_dump(mode="json") for one in client.tokens.list(limit=limit, revoked=revoked)]
    now = datetime.now(UTC)
    columns = ("ID", "ROLE", "PROJECTS", "STATUS", "EXPIRES", "LAST USED", "AGE", "DESCRIPTION")
    session.output.listing(items, Table(columns, [_row(one, now) for one in items]), empty="No tokens.")


def _row(item: Item, now: datetime) -> Sequence[str]:
    projects, used = item["projects"], item["last_used"]
    return (
        cell(item["id"]),
        cell(item["role"]),
        _projects(projects if isinstance(projects, list) else []),
        cell(item["status"]),
        cell(item["expires"]),
        f"{age(used, now)} ago" if used else "never",
        age(item["created_at"], now),
        cell(item["description"]),
    )


def _projects(names: Sequence[str]) -> str:
    return "every project" if EVERY in names else ", ".join(names)


def revoke(
    session: Session,
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN...", help="Their ids, as listed.")],
) -> None:
    """Revoke tokens: within a second they open nothing any more. What they started goes on."""
    with session.client() as client:
        for token in tokens:
            found = client.tokens.revoke(_id_of(token)).model_dump(mode="json")
            session.output.result(found, f"{found['id']} is revoked")


def _id_of(text: str) -> str:
    """Return the id of a token: who has only the token itself may give that."""
    parts = text.split("_")
    return parts[1] if len(parts) > 2 and parts[0] == "cloche" else text  # noqa: PLR2004 - prefix, id, secret


def parse_expiry(text: str) -> datetime | timedelta | None:
    """Read a duration (`90d`), a date (`2027-01-31`: until its end, here) or an RFC 3339 time; empty: never.

    Raises `Invalid` (`invalid_expiry`).
    """
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found + timedelta(days=1) if len(text) == len("2027-01-31") else found).astimezone()
    except (ValueError, OverflowError):
        return _duration(text)


def _duration(text: str) -> timedelta:
    try:
        return timedelta(seconds=parse_duration(text))
    except (Invalid, OverflowError):
        raise Invalid(
            "invalid_expiry",
            f"{text!r} is no time.",
            todo="Write how long it holds (12h, 90d), or until when (2027-01-31, 2027-01-31T18:00:00Z).",
        ) from None
