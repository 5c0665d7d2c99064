"""`env check`, `diff`, `clone`, `history`, `uses`, `import`, `export`, `schema`: definitions and their life."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche._errors import Invalid
from cloche._imports import read_conda_environment, read_file
from cloche.cli.options import command
from cloche.cli.parsing import Reference, parse_reference
from cloche.cli.session import Session
from cloche.cli.text import Table, age, cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloche.client import Client
    from cloche.formats.reading import Exported, Imported, Note
    from cloche_shared.contracts.definition import Definition

Referred = Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="NAME, NAME:VERSION or NAME@LABEL.")]
Format = Annotated[str, typer.Option("--format", help="Its format, where name and content do not tell it.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]
WRITERS = ("cloche", "conda", "requirements", "azure-v1")


def install(env: typer.Typer) -> None:
    """Add the commands."""
    command(env, "check", check)
    command(env, "diff", diff)
    command(env, "clone", clone)
    command(env, "history", history)
    command(env, "uses", uses)
    command(env, "import", import_file)
    command(env, "export", export)
    command(env, "schema", schema)


def said(imported: "Imported") -> dict[str, object]:
    """Return what an import says, as a request has it."""
    return imported.definition.model_dump(mode="json", exclude_defaults=True)


def tell(session: Session, notes: "tuple[Note, ...]") -> None:
    """Write what was left out."""
    for note in notes:
        session.output.note(f"{note.pointer}: {note.text}" if note.pointer else note.text)


def check(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A definition in any format that is read.")],
    *,
    kind: Format = "",
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
) -> None:
    """Say what is wrong with a definition and what may surprise, before anything runs. Exits with 1 for errors."""
    found = read_file(file, kind)
    tell(session, found.notes)
    with session.client() as client:
        checked = client.environments.check(said(found), name=found.name or None)
    lines = _lines(file)
    items = [
        {**one.model_dump(mode="json"), "line": lines(one.pointer.removeprefix("/definition"))}
        for one in checked.problems
    ]
    document = {**checked.model_dump(mode="json"), "problems": items, "notes": [note.text for note in found.notes]}
    rows = [(str(one["severity"]), str(one["code"]), _place(one), str(one["detail"])) for one in items]
    if session.output.mode.json:
        session.output.document(document)
    else:
        session.output.listing(items, Table(("SEVERITY", "CODE", "WHERE", "WHAT"), rows), empty="Nothing is wrong.")
    if not checked.valid or (strict and items):
        raise typer.Exit(1)


def _place(one: dict[str, object]) -> str:
    where = str(one["pointer"]).removeprefix("/definition")
    return f"line {one['line']} ({where})" if one["line"] else where


def _lines(file: Path) -> "Callable[[str], int | None]":
    """Return what gives the line of a place, for files whose places are those of the definition."""
    from cloche.formats.detect import format_of  # noqa: PLC0415 - only here
    from cloche.formats.yaml_text import read_yaml  # noqa: PLC0415 - the same

    if file.suffix not in {".yaml", ".yml"}:
        return lambda _pointer: None
    text = file.read_text(encoding="utf-8-sig")
    if format_of(file.name, text) != "cloche":
        return lambda _pointer: None
    return read_yaml(text).line


def diff(
    session: Session,
    environment: Referred,
    other: Annotated[str, typer.Argument(metavar="[NAME[:VERSION]]", help="What it is compared with.")] = "",
) -> None:
    """Show what differs between two versions: declared, and as locked where both were built.

    With one argument a version is compared with the one before it.
    """
    wanted = parse_reference(environment)
    with session.client() as client:
        version = _number(client, wanted)
        before = parse_reference(other) if other else None
        base = _number(client, before) if before else None
        base_name = before.name if before else None
        found = client.environments.diff(wanted.name, version, base, base_name=base_name)
    rows = [(one.pointer, cell(one.before), cell(one.after)) for one in found.changes]
    rows += [(f"locked: {one.name}", cell(one.before), cell(one.after)) for one in found.packages or ()]
    if session.output.mode.json:
        session.output.document(found.model_dump(mode="json"))
        return
    session.output.note(f"{found.base.name}:{found.base.version} -> {found.other.name}:{found.other.version}")
    session.output.listing([], Table(("WHERE", "BEFORE", "AFTER"), rows), empty="Nothing differs.")


def _number(client: "Client", reference: Reference) -> str | None:
    if reference.label is None:
        return reference.version
    return client.environments.get(reference.name, label=reference.label).version


def clone(
    session: Session, environment: Referred, name: Annotated[str, typer.Argument(help="The name of the copy.")]
) -> None:
    """Register the definition of a version under another name."""
    wanted = parse_reference(environment)
    with session.client() as client:
        made = client.environments.clone(wanted.name, name, wanted.version, wanted.label)
    session.output.result(made.model_dump(mode="json"), f"{made.name}:{made.version}")


def history(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The environment's name.")],
    limit: Limit = 100,
) -> None:
    """Show every change of an environment, oldest first: what happened, when and by whom."""
    with session.client() as client:
        items = client.environments.history(name, limit=limit)
    now = datetime.now(UTC)
    rows = [
        (
            str(item["seq"]),
            str(fact["type"]).split(".")[1],
            cell(fact.get("version")),
            cell(fact.get("label")),
            str(item["actor"]),
            age(item["at"], now),
        )
        for item in items
        for fact in item["facts"]
    ]
    session.output.listing(items, Table(("SEQ", "WHAT", "VERSION", "LABEL", "BY", "AGE"), rows))


def uses(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The environment's name.")],
    *,
    ended: Annotated[bool, typer.Option("--ended", help="The runs that ended, instead of what uses it now.")] = False,
    limit: Limit = 100,
) -> None:
    """List the runs, services and models that use an environment."""
    with session.client() as client:
        items = client.environments.uses(name, limit=limit, ended=ended)
    rows = [(str(one["kind"]), str(one["id"]), cell(one["environment_version"])) for one in items]
    session.output.listing(items, Table(("KIND", "ID", "VERSION"), rows), empty=f"Nothing uses {name}.")


def import_file(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="FILE|FOLDER", help="A file, or the folder of an environment.")],
    *,
    name: Annotated[str, typer.Option("--name", help="Its name; else the one that the file has.")] = "",
    kind: Format = "",
    conda_environment: Annotated[
        bool, typer.Option("--conda-environment", help="An existing conda environment, by name or folder.")
    ] = False,
) -> None:
    """Register what a file of any format says, and tell what it said that was left out."""
    found = read_conda_environment(source) if conda_environment else read_file(Path(source), kind)
    chosen = name or found.name
    if not chosen:
        raise Invalid("name_missing", f"{source} has no name for the environment.", todo="Give --name.")
    tell(session, found.notes)
    with session.client() as client:
        made = client.environments.register(chosen, definition=said(found))
    session.output.result(made.model_dump(mode="json"), f"{made.name}:{made.version}")


def export(
    session: Session,
    environment: Referred,
    *,
    kind: Annotated[str, typer.Option("--format", help=", ".join(WRITERS))] = "cloche",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder instead of stdout.")] = None,
) -> None:
    """Write a version in a format, and tell what that format cannot say."""
    wanted = parse_reference(environment)
    with session.client() as client:
        found = client.environments.get(wanted.name, version=wanted.version, label=wanted.label)
    files = _written(kind, found.name, (found.model_extra or {}).get("definition"))
    tell(session, files.notes)
    if output is None:
        text = "\n".join(files.files.values())
        session.output.result({"files": dict(files.files)}, text.rstrip("\n"))
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.files.items():
        (output / name).write_text(text, encoding="utf-8")
    paths = [str(output / name) for name in files.files]
    session.output.result({"paths": paths}, "\n".join(paths))


def _written(kind: str, name: str, document: object) -> "Exported":
    from cloche.formats import azure_v1, cloche_yaml, conda_yaml, requirements_txt  # noqa: PLC0415 - only here

    definition: Definition = cloche_yaml.validated(
        document if isinstance(document, dict) else {}, "invalid_field", cloche_yaml.WHAT
    )
    if kind == "cloche":
        return cloche_yaml.write_cloche(definition, name)
    if kind == "conda":
        return conda_yaml.write_conda(definition, name)
    if kind == "requirements":
        return requirements_txt.write_requirements(definition)
    if kind == "azure-v1":
        return azure_v1.write_azure_v1(definition, name)
    raise Invalid("unknown_format", f"{kind!r} cannot be written.", todo=f"Choose: {', '.join(WRITERS)}.")


def schema(session: Session) -> None:
    """Write the JSON Schema of cloche.yaml."""
    from cloche.formats.cloche_yaml import json_schema  # noqa: PLC0415 - only here

    session.output.document(json_schema())
