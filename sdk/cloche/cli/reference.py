"""Writes the reference of the command line from the program itself: `python -m cloche.cli.reference`."""

import inspect
import sys
from collections.abc import Iterator
from typing import Protocol, cast

from cloche.cli.main import MODULES, make_app
from cloche.cli.options import COMMON

HEAD = """# Command line

This page is made from the program (`python -m cloche.cli.reference`) and checked in CI.

## What holds for every command

- Data goes to stdout, everything about the way there to stderr. `--json` writes one document with
  stable keys (`events tail --json`: one on each line), and errors as `{{"error": {{"code", "what",
  "why", "todo"}}}}` to stderr.
- Colours and movement only on a terminal, and neither with `--plain`, `NO_COLOR` or `CI`.
- A run is named by its id, by a beginning of it that fits only one, or by `@last`. An environment is
  named `NAME`, `NAME:VERSION` or `NAME@LABEL`, a model `NAME` or `NAME:VERSION`.
- The server is the one of the data folder on this machine, unless `--url` or `CLOCHE_URL` names
  another; its token comes from the data folder or from `CLOCHE_TOKEN`, never from an option. `CLOCHE_TOKEN` is
  shown to the server of `CLOCHE_URL` only, where that is set, and the data folder's token to that folder's server.
- `up`, `down`, `doctor` and `config` are about this machine and its data folder, and say so where `CLOCHE_URL`
  names another server.
- What deletes asks first. Where nobody can be asked (no terminal, or `--json`) it wants `--yes`.

| Exit code | Meaning |
|---|---|
| 0 | done |
| 1 | it failed, or is not as it should be (`status`, `doctor`) |
| 2 | wrong usage, or a request that cannot be accepted as written |
| 3 | what was named does not exist |
| 4 | the present state does not allow it |
| 124 | it took longer than `--timeout`, or the run met its deadline |
| 130 | interrupted by Ctrl-C, or the run was canceled |

`run wait`, `submit --wait` and `submit --follow` end with the exit code of the script (128 + the signal
that ended it).

Options of every command:

{common}
Short ways: `submit` is `run submit`, `deploy` is `service deploy`, `score` is `service score`, `logs`
is `run logs`, `stop` is `run cancel`; `ps` and `queue` list active and waiting runs.
"""


class Parameter(Protocol):
    """The part of typer's parameters that is read here."""

    name: str
    opts: list[str]
    secondary_opts: list[str]
    param_type_name: str
    required: bool
    metavar: str | None
    help: str | None
    is_flag: bool


class Command(Protocol):
    """The part of typer's commands that is read here."""

    help: str | None
    params: list[Parameter]


def page() -> str:
    """Return the page."""
    from typer.main import get_command  # noqa: PLC0415 - only this page needs all commands at once

    found = list(_commands("cloche", cast("Command", get_command(make_app()))))
    common = [f"- `{_option(one)}`: {one.help}\n" for one in found[0][1].params if _is_common(one)]
    ordered = sorted(found, key=lambda item: list(MODULES).index(item[0].split()[1]))
    return "\n".join([HEAD.format(common="".join(common)), *(_section(path, command) for path, command in ordered)])


def _commands(path: str, command: Command) -> Iterator[tuple[str, Command]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name in inner:
        yield from _commands(f"{path} {name}", inner[name])


def _section(path: str, command: Command) -> str:
    own = [one for one in command.params if not _is_common(one)]
    arguments = [one for one in own if one.param_type_name == "argument"]
    options = [one for one in own if one.param_type_name == "option" and "--help" not in one.opts]
    usage = " ".join([path, *(_argument(one) for one in arguments)])
    lines = [f"## {path}\n", f"    {usage}\n", f"{inspect.cleandoc(command.help or '')}\n"]
    lines.extend(f"- `{_argument(one)}`: {one.help}" for one in arguments)
    lines.extend(f"- `{_option(one)}`: {one.help}{' Required.' if one.required else ''}" for one in options)
    return "\n".join(lines).rstrip("\n") + "\n"


def _is_common(parameter: Parameter) -> bool:
    return parameter.name in {name for name, *_ in COMMON}


def _argument(parameter: Parameter) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _option(parameter: Parameter) -> str:
    names = ", ".join(sorted([*parameter.opts, *parameter.secondary_opts], key=len, reverse=True))
    return names if parameter.is_flag else f"{names} {parameter.metavar or 'VALUE'}"


if __name__ == "__main__":
    sys.stdout.write(page())
