"""`up -d` and `status` in their plain forms, without the parser: it would take longer than they do."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from cloche.cli.output import Mode, Output
from cloche.cli.processes import Running, started
from cloche.cli.session import Session
from cloche_shared.errors import ClocheError

_FLAGS = {"-d": "detach", "--detach": "detach", "--json": "json", "-q": "quiet", "--quiet": "quiet", "--plain": "plain"}
_VALUES = {"--home": "home", "--host": "host", "--port": "port"}
_UNDERSTOOD = {"up": {*_FLAGS.values(), *_VALUES.values()}, "status": {"json", "quiet", "plain", "home"}}
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `up` and `status` may be told: flags, and options with a value."""

    flags: frozenset[str] = frozenset()
    values: dict[str, str] = field(default_factory=dict)

    @property
    def session(self) -> Session:
        """The session that the common options stand for."""
        mode = Mode(json="json" in self.flags, quiet="quiet" in self.flags, plain="plain" in self.flags)
        return Session(Output(mode), home=self.values.get("home", ""))


def plain_form(command: str, arguments: Sequence[str]) -> Wanted | None:
    """Read the options of a plain call; None for anything else, which the parser is for."""
    flags, values, rest = set(), {}, list(arguments)
    while rest:
        word = rest.pop(0)
        if word in _FLAGS:
            flags.add(_FLAGS[word])
        elif word in _VALUES and rest and not rest[0].startswith("-"):
            values[_VALUES[word]] = rest.pop(0)
        else:
            return None
    understood = not (flags | set(values)) - _UNDERSTOOD[command]
    port = values.get("port", "0")
    right = understood and port.isdigit() and int(port) <= _LAST_PORT and ("detach" in flags) is (command == "up")
    return Wanted(frozenset(flags), values) if right else None


def detach(session: Session, host: str, port: str) -> None:
    """Start the server in the background unless it runs, and tell where it is when it is ready."""
    chosen = (("--host", host), ("--port", port))
    options = [part for name, value in chosen if value for part in (name, value)]
    server, new = started(session.folder, options)
    session.output.result(server.shown(), sentence(server, started=new))


def sentence(server: Running, *, started: bool) -> str:
    """Return what the user is told."""
    said = "Cloche is ready at" if started else "Cloche runs already at"
    return f"{said} {server.url}\ntoken: {server.token_file}"


def quick(arguments: Sequence[str]) -> int | None:
    """Do a plain `up -d` or `status` and return its exit code; None for everything else."""
    if not arguments or arguments[0] not in _UNDERSTOOD:
        return None
    wanted = plain_form(arguments[0], arguments[1:])
    if wanted is None:
        return None
    session = wanted.session
    try:
        if arguments[0] == "up":
            session.about_this_machine()
            detach(session, wanted.values.get("host", ""), wanted.values.get("port", ""))
            return 0
        from cloche.cli.state import show  # noqa: PLC0415 - HTTP, which `up -d` does without

        return show(session)
    except (ClocheError, OSError, KeyboardInterrupt) as error:
        return session.failed(error)
    finally:
        sys.stdout.flush()
