"""Where output goes: data to stdout, everything about the way there to stderr."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TextIO

from cloche.cli import exits
from cloche.cli.text import Table, fields, visible

Item = Mapping[str, object]

_STYLES = {
    "Completed": "green",
    "Healthy": "green",
    "ready": "green",
    "ok": "green",
    "Failed": "red",
    "Unhealthy": "red",
    "broken": "red",
    "lost": "red",
    "Canceled": "yellow",
    "CancelRequested": "yellow",
    "warning": "yellow",
    "Running": "cyan",
    "Building": "cyan",
    "Transitioning": "cyan",
}


_WHOLE = 40
"""A first column that is no wider is never broken: names and ids are to be copied."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How to write: `json` for programs, `quiet` without notes, `plain` without colours and movement."""

    json: bool = False
    quiet: bool = False
    plain: bool = False
    debug: bool = False


class Step(Protocol):
    """A piece of work whose progress is shown."""

    def say(self, text: str) -> None:
        """Tell what is going on now."""


class Output:
    """Writes as the user wants it: `NO_COLOR`, `CI`, and what is not a terminal get plain text."""

    def __init__(self, mode: Mode, *, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.mode = mode
        self._stdout = stdout
        self._stderr = stderr

    @property
    def stdout(self) -> TextIO:
        """Where data goes."""
        return self._stdout or sys.stdout

    @property
    def stderr(self) -> TextIO:
        """Where notes go."""
        return self._stderr or sys.stderr

    def line(self, text: str) -> None:
        """Write a line of data."""
        self.stdout.write(f"{visible(text)}\n")
        self.stdout.flush()

    def document(self, value: object) -> None:
        """Write a JSON document."""
        self.line(as_json(value))

    def raw(self, data: bytes) -> None:
        """Write bytes of data as they are (with --json to stderr, where they disturb no document)."""
        stream = self.stderr if self.mode.json else self.stdout
        binary: BinaryIO | None = getattr(stream, "buffer", None)
        if binary is None:
            stream.write(data.decode(errors="replace"))
        else:
            stream.flush()
            binary.write(data)
        stream.flush()

    def note(self, text: str) -> None:
        """Tell something on the side; nothing with --quiet."""
        if not self.mode.quiet:
            self.stderr.write(f"{visible(text)}\n")
            self.stderr.flush()

    def warn(self, text: str) -> None:
        """Tell something that must be seen."""
        self.stderr.write(f"warning: {visible(text)}\n")
        self.stderr.flush()

    def error(self, error: BaseException) -> None:
        """Tell what went wrong."""
        if self.mode.json:
            self.stderr.write(f"{as_json({'error': exits.shown(error)})}\n")
        else:
            first, *rest = map(visible, exits.lines(error))
            self.stderr.write("\n".join([self._red(first), *rest]) + "\n")
        self.stderr.flush()

    def _red(self, text: str) -> str:
        if not self.colourful(self.stderr):
            return text
        head, separator, rest = text.partition(":")
        return f"\033[31m{head}{separator}\033[0m{rest}"

    def colourful(self, stream: TextIO) -> bool:
        """Whether colours and movement are welcome on a stream."""
        unwanted = self.mode.plain or self.mode.json or "NO_COLOR" in os.environ or bool(os.environ.get("CI"))
        return not unwanted and os.environ.get("TERM") != "dumb" and stream.isatty()

    def listing(self, items: Sequence[Item], table: Table, *, empty: str = "") -> None:
        """Write a list: as JSON the items, else the table; `empty` is a note in place of an empty table."""
        if self.mode.json:
            self.document(list(items))
        elif not table.rows:
            self.note(empty or "Nothing.")
        elif self.colourful(self.stdout):
            _rich_table(table)
        else:
            self.line("\n".join(table.lines()))

    def record(self, item: Item, pairs: Sequence[tuple[str, str]]) -> None:
        """Write one thing: as JSON the whole document, else names and values."""
        if self.mode.json:
            self.document(item)
        else:
            self.line("\n".join(fields(pairs)))

    def result(self, item: Item, text: str) -> None:
        """Write what a command made: as JSON the whole document, else one line."""
        if self.mode.json:
            self.document(item)
        else:
            self.line(text)

    @contextmanager
    def progress(self, text: str) -> Iterator[Step]:
        """Show that something goes on: moving on a terminal, else a line for each new text."""
        if self.mode.quiet:
            yield _Silent()
        elif self.colourful(self.stderr):
            with _spinner(text) as step:
                yield step
        else:
            step = _Lines(self)
            step.say(text)
            yield step


class _Silent:
    def say(self, text: str) -> None:
        """Say nothing."""


class _Lines:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._last = ""

    def say(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self._output.note(text)


@contextmanager
def _spinner(text: str) -> Iterator[Step]:
    from rich.console import Console  # noqa: PLC0415 - 0.1 s of start-up, only where something moves
    from rich.markup import escape  # noqa: PLC0415 - the same

    class Moving:
        def say(self, text: str) -> None:
            status.update(escape(text))

    with Console(stderr=True).status(escape(text)) as status:
        yield Moving()


def _rich_table(table: Table) -> None:
    from rich.console import Console  # noqa: PLC0415 - 0.1 s of start-up, only on a terminal
    from rich.table import Table as RichTable  # noqa: PLC0415 - the same
    from rich.text import Text  # noqa: PLC0415 - the same

    shown = RichTable(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(table.columns):
        whole = max((len(row[index]) for row in table.rows), default=0) <= _WHOLE
        shown.add_column(column, overflow="fold", no_wrap=index == 0 and whole)
    for row in table.rows:
        shown.add_row(*[Text(visible(text), style=_STYLES.get(text, "")) for text in row])
    Console().print(shown)


def as_json(value: object) -> str:
    """Return a value as JSON on one line."""
    import orjson  # noqa: PLC0415 - not every command writes JSON

    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
