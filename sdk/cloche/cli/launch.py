"""`cloche up -d` in its plain forms, without the parser: its start-up time is part of how fast Cloche starts."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloche.cli.processes import Running, running, start
from cloche_shared.errors import ClocheError

_VALUES = {"--home": "home", "--host": "host", "--port": "port"}


@dataclass(slots=True)
class Wanted:
    """What `up` was asked for."""

    detach: bool = False
    home: str = ""
    host: str = ""
    port: str = ""

    @property
    def folder(self) -> Path:
        """The data folder."""
        return Path(self.home or os.environ.get("CLOCHE_HOME") or Path.home() / ".cloche").absolute()

    def arguments(self) -> list[str]:
        """Return the options of the server's process."""
        chosen = (("--host", self.host), ("--port", self.port))
        return [part for name, value in chosen if value for part in (name, value)]


def plain_form(arguments: Sequence[str]) -> Wanted | None:
    """Read `-d`, `--home X`, `--host X` and `--port N`; None for anything else, which the parser is for."""
    wanted, rest = Wanted(), list(arguments)
    while rest:
        word = rest.pop(0)
        if word in {"-d", "--detach"}:
            wanted.detach = True
        elif word in _VALUES and rest and not rest[0].startswith("-"):
            setattr(wanted, _VALUES[word], rest.pop(0))
        else:
            return None
    return wanted if wanted.detach and (not wanted.port or wanted.port.isdigit()) else None


def detach(wanted: Wanted) -> tuple[Running, bool]:
    """Return the server of the data folder and whether it had to be started."""
    here = running(wanted.folder)
    return (here, False) if here is not None else (start(wanted.folder, wanted.arguments()), True)


def sentence(server: Running, *, started: bool) -> str:
    """Return what the user is told."""
    said = "Cloche is ready at" if started else "Cloche runs already at"
    return f"{said} {server.url}\ntoken: {server.token_file}"


def quick_start(arguments: Sequence[str]) -> int | None:
    """Start the server if the arguments are of the plain form and return the exit code; None if they are not."""
    wanted = plain_form(arguments)
    if wanted is None:
        return None
    try:
        server, started = detach(wanted)
    except ClocheError as error:
        from cloche.cli import exits  # noqa: PLC0415 - only when something failed
        from cloche.cli.output import Mode, Output  # noqa: PLC0415 - the same

        Output(Mode()).error(error)
        return exits.exit_code(error)
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(f"{sentence(server, started=started)}\n")
    return 0
