"""Makes the reference pages that follow from the code: `python docs/generate.py [--check]`."""

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from cloche._embedded import Settings
from cloche.formats.cloche_yaml import json_schema
from cloche_shared.bus import rights
from cloche_shared.cluster.settings import ProcessSettings
from cloche_shared.contracts import catalogue
from cloche_shared.contracts.commands import ALL, Command, command_type
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import TOPICS, builder, common, deployer, registry, runner
from cloche_shared.definitions import codes, effects

HERE = Path(__file__).parent / "reference"
RELEASES = Path(__file__).parent / "released"
RELEASED = sorted(RELEASES.glob("*.json"), key=lambda path: [int(part) for part in path.stem.split(".")])
"""The schemas of each release; what comes later may only add to the last."""
OWNERS = {"registry": registry, "builder": builder, "runner": runner, "deployer": deployer, "every service": common}
KINDS = {
    "environment": ("`<name>`", "an environment with its versions and labels"),
    "wheel": ("`<file name>`", "the wheels that were uploaded under a name; `+` and `!` of it are `:` and `::`"),
    "model": ("`<name>`", "a model with its versions"),
    "build": ("`<64 hex>.<target>.<platform>`", "one lock and image in the making; its project is `public` for all"),
    "buildrequest": ("`<id>`", "a build that somebody asked for by itself"),
    "run": ("`<id>`", "a run and its attempts"),
    "node": ("`<name>`", "a node and who holds what of it; its project is `-`"),
    "service": ("`<name>`", "a scoring service and its revisions"),
    "access": ("`keys` or `<key id>`", "a project with its first keys, or a key"),
    "letter": ("`<id>`", "a dead letter that an operator sent again"),
    "answers": ("`<request>`", "the one answer to a request; an answer event's subject is the aggregate that asked"),
    "denial": ("`<id>`", "attempts that were turned away within some seconds"),
    "usage": ("`<id>`", "keys that were used since the last such fact; its project is `*`"),
    "operation": ("`<id>`", "what an operator did that changes no other aggregate, such as a republish"),
}
"""Of each kind of aggregate: what its id is, and what it stands for."""


def settings_page() -> str:
    """Return the table of every setting."""
    lines = [
        "# Settings",
        "",
        "Made from the code by `docs/generate.py`. A setting is read from the environment, else from",
        "`config.toml` in the data folder, else it has its default; `cloche config show --sources` says which.",
        "`http.port` is `CLOCHE_HTTP__PORT` in the environment, and `port` under `[http]` in the file.",
        "`cluster`, `kafka`, `mongo` and `s3` are for services that are processes of their own: they take the file",
        "that `--config` names, and `python -m cloche_registry config show --sources` says which.",
    ]
    cluster = {name: field for name, field in ProcessSettings.model_fields.items() if name not in Settings.model_fields}
    for name, field in [*Settings.model_fields.items(), *cluster.items()]:
        section = field.annotation
        if not inspect.isclass(section) or not issubclass(section, BaseModel):
            continue
        text = inspect.cleandoc(section.__doc__ or "")
        lines += ["", f"## {name}", "", *text.splitlines(), "", "| Setting | Default | |", "|---|---|---|"]
        lines += list(_rows(name, section))
    return "\n".join(lines) + "\n"


def _rows(section: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "(secret)" if isinstance(default, SecretStr) else _shown(default)
        yield f"| `{section}.{name}` | {shown} | {field.description or ''} |"


def _shown(default: object) -> str:
    if default in (None, "", ()):
        return ""
    if isinstance(default, BaseModel):
        return "no packages"
    return f"`{default}`"


def events_page() -> str:
    """Return every fact and answer with its fields, by owner."""
    lines = [
        "# Events",
        "",
        "Made from the code by `docs/generate.py`. Every event is a CloudEvent 1.0; its `subject` is the",
        "aggregate it is about (`run/default/<id>`), `sequence` its number there, `correlationid` the whole",
        "chain, `causationid` the event that it follows. Within a major version fields are only added, so",
        "readers ignore what they do not know. See them live with `cloche events tail`.",
        "",
        "An event may be delivered more than once, and in order only per aggregate: decide by `id` or by state.",
    ]
    lines += ["", "## Kinds of aggregates", "", *_kinds()]
    for owner, facts in _by_owner().items():
        lines += ["", f"## {owner}"]
        for fact in facts:
            lines += ["", f"### {fact.__name__}", "", f"`{fact_type(fact)}`: {' '.join((fact.__doc__ or '').split())}"]
            if fact.model_fields:
                lines += ["", "| Field | Type | |", "|---|---|---|"]
            for name, field in fact.model_fields.items():
                needed = "" if field.is_required() else "optional"
                lines.append(f"| `{name}` | `{_type(field.annotation)}` | {needed} |")
    return "\n".join(lines) + "\n"


def _kinds() -> Iterator[str]:
    """Yield the table of kinds. Raises `KeyError` for one that nobody described."""
    yield "A subject is `<kind>/<project>/<id>`. What is hidden at the broker is for the services alone."
    yield ""
    yield "| Kind | Id | Stands for | Topic | Written by |"
    yield "|---|---|---|---|---|"
    for kind, topic in TOPICS.items():
        what, stands_for = KINDS[kind]
        hidden = " (hidden)" if topic in rights.HIDDEN else ""
        yield f"| `{kind}` | {what} | {stands_for} | `{topic}`{hidden} | {rights.OWNERS.get(kind, 'every service')} |"


def _type(annotation: object) -> str:
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    for module in ("typing.", "cloche_shared.contracts.references.", "cloche_shared.contracts.definition."):
        text = text.replace(module, "")
    for module in ("runs", "services", "common", "facts"):
        text = text.replace(f"cloche_shared.contracts.{module}.", "")
    return text.replace("|", "or")


def _by_owner() -> dict[str, list[type[Fact]]]:
    """Return the facts by owner, in the order of their modules."""
    found: dict[str, list[type[Fact]]] = {}
    for owner, module in OWNERS.items():
        facts = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]
        ours = [one for one in facts if issubclass(one, Fact)]
        found[owner] = sorted(ours, key=lambda one: inspect.getsourcelines(one)[1])
    return found


def commands_page() -> str:
    """Return every command with its fields."""
    lines = [
        "# Commands",
        "",
        "Made from the code by `docs/generate.py`. How to send them: [events and commands](../how-to/events.md).",
    ]
    for command in ALL:
        text = " ".join((command.__doc__ or "").split())
        lines += ["", f"## {command.__name__}", "", f"`{command_type(command)}`, to the {command.owner}: {text}", ""]
        lines += ["| Field | Type | |", "|---|---|---|"]
        lines += list(_command_rows(command))
    return "\n".join(lines) + "\n"


def _command_rows(command: type[Command]) -> Iterator[str]:
    properties = command.model_json_schema()["properties"]
    for name, field in command.model_fields.items():
        needed = "" if field.is_required() else "optional"
        yield f"| `{name}` | {_shape(properties[name])} | {needed} |"


def _shape(schema: dict[str, Any]) -> str:
    """Return a type as people say it."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    alternatives = [one for name in ("anyOf", "oneOf") for one in schema.get(name, ()) if one.get("type") != "null"]
    if alternatives:
        return " or ".join(dict.fromkeys(_shape(one) for one in alternatives))
    if schema.get("type") == "array":
        return f"list of {_shape(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_shape(schema['additionalProperties'])}"
    return str(schema.get("type", schema.get("const", "any")))


CORE = (
    *("workspace", "environment", "conda_dependencies", "container_registry", "experiment", "script_run_config"),
    *("runconfig", "run", "compute", "datastore", "dataset", "model", "webservice", "image", "databricks", "keyvault"),
)
"""The modules of `cloche.core` in the order in which people meet them."""
TRAIN = ("estimator", "sklearn", "dnn")


def core_page() -> str:
    """Return the classes of `cloche.core` and `cloche.train` with what their methods and attributes do."""
    lines = [
        "# `cloche.core` and `cloche.train`",
        "",
        "Made from the code by `docs/generate.py`. These are the names of Azure ML's SDK v1, on `cloche.Client`",
        "([coming from there](../how-to/coming-from-azure.md)). What raises `not_available` would have no effect here",
        "and is refused for that reason; every error is one of `cloche.exceptions` and has a stable `code`.",
    ]
    seen: set[object] = set()
    for name in [*(f"cloche.core.{one}" for one in CORE), *(f"cloche.train.{one}" for one in TRAIN)]:
        module = importlib.import_module(name)
        lines += ["", f"## {name}", "", " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())]
        for public in module.__all__:
            one = getattr(module, public)
            home = getattr(one, "__module__", "")
            own = home == name or home.rpartition(".")[2].startswith("_")
            if inspect.isclass(one) and own and one not in seen:
                seen.add(one)
                lines += ["", f"### {public}", "", *inspect.cleandoc(one.__doc__ or "").splitlines(), *_members(one)]
    return "\n".join(lines) + "\n"


def _members(owner: type) -> Iterator[str]:
    """Yield a row for each documented method and property of a class's own."""
    rows = []
    for name, member in vars(owner).items():
        function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        told = inspect.getdoc(function.fget if isinstance(function, property) else function)
        documented = isinstance(function, property) or inspect.isfunction(function)
        if documented and told and not name.startswith("_") and function.__doc__:
            shown = name if isinstance(function, property) else f"{name}()"
            rows.append(f"| `{shown}` | {' '.join(told.split(chr(10) * 2)[0].split())} |")
    if rows:
        yield from ("", "| | |", "|---|---|", *rows)


def definition_page() -> str:
    """Return every attribute of a definition: what it does and the test of that, or what it is refused with."""
    lines = [
        "# The definition",
        "",
        "Made from the code by `docs/generate.py`. Every attribute has an effect, and a test of it, or is refused",
        "with a code as soon as it says anything but its default: nothing is accepted and ignored. *Hashed* are those",
        "that are part of [the hash](hash.md). `cloche env check FILE` says all of it of a file.",
        "",
        "| Attribute | What it does | Hashed | Test, or code of the refusal |",
        "|---|---|---|---|",
    ]
    for pointer, one in effects.ATTRIBUTES.items():
        name = pointer[1:].replace("/", ".")
        state = f"`{one.test}`" if one.test else f"refused: `{one.code}`"
        lines.append(f"| `{name}` | {one.effect} | {'yes' if one.hashed else ''} | {state} |")
    lines += ["", "## Refused until they can take effect", "", "| Code | Why |", "|---|---|"]
    lines += [f"| `{code}` | {reason} |" for code, reason in effects.REASONS.items()]
    lines += ["", "## Errors", "", "| Code | |", "|---|---|"]
    lines += [f"| `{code}` | {text} |" for code, text in codes.ERRORS.items()]
    lines += ["", "## Warnings", "", "| Code | |", "|---|---|"]
    lines += [f"| `{code}` | {text} |" for code, text in codes.WARNINGS.items()]
    lines += ["", "## Files of other formats", "", "| Code | |", "|---|---|"]
    lines += [f"| `{code}` | {text} |" for code, text in codes.FILES.items()]
    lines += ["", "## Deleting", "", "| Code | |", "|---|---|"]
    lines += [f"| `{code}` | {text} |" for code, text in codes.USES.items()]
    return "\n".join(lines) + "\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def pages() -> dict[str, str]:
    """Return every generated page by its path below the reference."""
    schemas = {f"schemas/{name}.json": _json(schema) for name, schema in catalogue.schemas().items()}
    return {
        "environment.schema.json": _json(json_schema()),
        "settings.md": settings_page(),
        "events.md": events_page(),
        "commands.md": commands_page(),
        "definition.md": definition_page(),
        "core.md": core_page(),
        "asyncapi.json": _json(catalogue.asyncapi(RELEASED[-1].stem)),
        **schemas,
    }


def broken() -> list[str]:
    """Return what whoever relies on the last released schemas would stumble over."""
    return catalogue.breaks(json.loads(RELEASED[-1].read_text()), catalogue.schemas())


def main() -> int:
    """Write the pages, or with `--check` say what is out of date; a change that breaks others is told of either way.

    `--release VERSION` keeps the present schemas as released ones.
    """
    if "--release" in sys.argv:
        target = RELEASES / f"{sys.argv[-1]}.json"
        target.write_text(_json(catalogue.schemas()))
        return 0
    wrong = broken()
    for sentence in wrong:
        sys.stderr.write(f"Breaks what {RELEASED[-1].stem} released: {sentence}\n")
    if "--check" not in sys.argv:
        (HERE / "schemas").mkdir(exist_ok=True)
        for name, text in pages().items():
            (HERE / name).write_text(text)
        return 1 if wrong else 0
    made = pages()
    kept = {str(path.relative_to(HERE)) for path in (HERE / "schemas").glob("*.json")}
    stale = [name for name, text in made.items() if not (HERE / name).exists() or (HERE / name).read_text() != text]
    stale += sorted(kept - set(made))
    if stale:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run `make reference`.\n")
    return 1 if stale or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
