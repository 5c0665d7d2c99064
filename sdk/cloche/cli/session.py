"""One call of the program: how it writes, which server it talks to, and how its errors end it."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloche._errors import Failed, Invalid
from cloche.cli import exits
from cloche.cli.output import Output

if TYPE_CHECKING:
    from cloche.client import Client


@dataclass(frozen=True, slots=True)
class Session:
    """What every command gets. Empty texts mean what the environment and the data folder say."""

    output: Output
    url: str = ""
    project: str = ""
    home: str = ""

    @property
    def folder(self) -> Path:
        """The data folder."""
        return Path(self.home or os.environ.get("CLOCHE_HOME") or Path.home() / ".cloche").absolute()

    @property
    def named_server(self) -> str:
        """The server that the user named, instead of the one of a data folder; else empty."""
        return self.url or ("" if self.home else os.environ.get("CLOCHE_URL", ""))

    def client(self) -> "Client":
        """Return a client; use it as a context manager."""
        from cloche.client import Client  # noqa: PLC0415 - it brings HTTP and models: 0.3 s

        if self.home and not self.url:
            return self.client_here()
        return self._telling(Client(url=self.url or None, project=self.project or None, home=self.folder))

    def client_here(self) -> "Client":
        """Return a client of the data folder's server, whatever else the environment names."""
        from cloche._errors import not_running  # noqa: PLC0415 - not every command needs a server
        from cloche.cli.processes import running  # noqa: PLC0415 - the same
        from cloche.client import Client  # noqa: PLC0415 - the same

        server = running(self.folder)
        if server is None:
            raise not_running(str(self.folder), "No process has this data folder.")
        token = Path(server.token_file).read_text().strip()
        return self._telling(Client(url=server.url, token=token, project=self.project or None))

    def _telling(self, client: "Client") -> "Client":
        client.tell_retries(self.output.note)
        return client

    def about_this_machine(self) -> None:
        """Say which Cloche is meant, where the environment or an option names another one than this machine's."""
        if not self.named_server:
            return
        from cloche._config import same_server  # noqa: PLC0415 - `up -d` needs it only here
        from cloche.cli.processes import running  # noqa: PLC0415 - the same

        here = running(self.folder)
        if here is not None and same_server(here.url, self.named_server):
            return
        named = f"{'--url' if self.url else 'CLOCHE_URL'} names ({self.named_server})"
        self.output.warn(f"This is about the Cloche of this machine, on {self.folder}, not about the one that {named}.")
        if not self.url:
            self.output.warn("Most other commands go there, until CLOCHE_URL and CLOCHE_TOKEN are unset.")

    def failed(self, error: BaseException) -> int:
        """Tell what went wrong, with a trace only for --debug, and return the exit code."""
        if self.output.mode.debug:
            import traceback  # noqa: PLC0415 - only for --debug

            self.output.stderr.write("".join(traceback.format_exception(error)))
        if not isinstance(error, KeyboardInterrupt):
            self.output.error(error)
        return exits.exit_code(error)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only when the user agrees: by `yes`, or asked on a terminal.

        Raises `Invalid` (`not_confirmed`) where nobody can be asked, and `Failed` (`declined`) for a no.
        """
        if yes:
            return
        if self.output.mode.json or not sys.stdin.isatty():
            raise Invalid(
                "not_confirmed",
                f"{question} Nobody can be asked here.",
                why="There is no terminal to ask on." if not self.output.mode.json else "With --json nothing is asked.",
                todo="Say it again with --yes.",
            )
        self.output.stderr.write(f"{question} [y/N] ")
        self.output.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise Failed("declined", "Nothing was done.", todo="Answer y, or give --yes, to go on.")
