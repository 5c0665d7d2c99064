"""Logs: one JSON object per line, scrubbed; readable lines on a terminal.

Members: `ts` (RFC 3339, UTC), `level`, `service`, `action` (stable, for machines), `msg` (for people),
and `request_id`, `trace_id`, `run_id` where they are known. Nothing that a user sent can forge a line
or colour a terminal: control characters are escaped in both forms.

The log is our own because importing structlog took 0.33 s of the 1.2 s that starting Cloche may
take (docs/decisions/0005-log.md).
"""

import asyncio
import base64
import logging
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal
from urllib.parse import quote

import orjson

from cloche_shared.http.exchange import Exchange
from cloche_shared.notes import MEMBERS
from cloche_shared.ports.platform import Clock

Level = Literal["debug", "info", "warning", "error"]
Write = Callable[[bytes], object]
"""Takes whole lines; in wiring, `sys.stderr.buffer.write` of an unbuffered stream."""

LEVELS: Final[tuple[Level, ...]] = ("debug", "info", "warning", "error")
FLUSH_S: Final = 0.05
MIN_SECRET: Final = 6
MASK: Final = "***"

_USERINFO: Final = re.compile(r"(?<=://)[^/?#\s@]+@")
_TOKEN: Final = re.compile(r"\bcloche_([0-9a-f]{4,40})_[A-Za-z0-9_-]{8,}")
_SIGNATURE: Final = re.compile(r"(?i)([?&](?:x-amz-signature|signature|sig|token)=)[^&\s\"']+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Scrubber:
    """Takes secrets out of texts: known values (also base64 and URL-encoded), tokens, URL credentials, signatures."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Add values that must never be shown. Those under 6 characters would hide half of every line and are left."""
        for secret in secrets:
            if len(secret) >= MIN_SECRET:
                encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
                self._known |= {secret, encoded, quote(secret, safe="")}
        longest_first = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, value: str) -> str:
        """Return the text without secrets."""
        if self._pattern is not None:
            value = self._pattern.sub(MASK, value)
        if "://" in value:
            value = _SIGNATURE.sub(rf"\1{MASK}", _USERINFO.sub(f"{MASK}@", value))
        return _TOKEN.sub(rf"cloche_\1_{MASK}", value) if "cloche_" in value else value

    def any(self, value: object) -> object:
        """Return a JSON value without secrets; what is not JSON becomes its text."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.any(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.any(inner) for inner in value]
        return self.text(str(value))


def escaped(text: str) -> str:
    """Return the text with control characters as visible escapes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] != "\n" else "\\n", text)


def json_line(members: Mapping[str, object]) -> bytes:
    """Return one JSON line."""
    return orjson.dumps(members, default=str, option=orjson.OPT_APPEND_NEWLINE)


_COLOURS: Final[Mapping[str, str]] = {"debug": "2", "info": "36", "warning": "33", "error": "31"}


def pretty_line(members: Mapping[str, object]) -> bytes:
    """Return one line for a terminal; a request that went well is told in few words."""
    if members["action"] == "request" and members["level"] == "info":
        members = {
            **{name: members[name] for name in ("ts", "level", "service", "action")},
            "msg": " ".join(str(members.get(name, "")) for name in ("method", "route", "status")),
            "ms": members.get("ms", ""),
        }
    head = {"ts", "level", "service", "action", "msg"}
    rest = " ".join(f"{name}={escaped(str(value))}" for name, value in members.items() if name not in head)
    level = str(members["level"])
    colour = f"\x1b[{_COLOURS.get(level, '0')}m{level:<7}\x1b[0m"
    said = escaped(str(members.get("msg") or members["action"]))
    return f"{str(members['ts'])[11:23]} {colour} {members['service']}: {said}  \x1b[2m{rest}\x1b[0m\n".encode()


class Log:
    """A log of one service. `bind` gives one with further members, such as `run_id`."""

    def __init__(
        self,
        service: str,
        *,
        write: Write,
        clock: Clock,
        level: Level = "info",
        pretty: bool = False,
        scrubber: Scrubber | None = None,
    ) -> None:
        self.scrubber = scrubber or Scrubber()
        self._service = service
        self._write = write
        self._clock = clock
        self._least = LEVELS.index(level)
        self._render = pretty_line if pretty else json_line
        self._bound: dict[str, object] = {}

    def bind(self, **members: object) -> "Log":
        """Return a log whose lines carry these members too."""
        other = object.__new__(Log)
        other.__dict__.update(self.__dict__)
        other._bound = {**self._bound, **members}
        return other

    def service(self, name: str) -> "Log":
        """Return the same log for another service of this process."""
        other = self.bind()
        other.__dict__["_service"] = name
        return other

    def line(self, level: Level, action: str, msg: str = "", **members: object) -> bytes | None:
        """Return the rendered line, or None when the level is not shown."""
        if LEVELS.index(level) < self._least:
            return None
        moment = self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        whole = {"ts": moment, "level": level, "service": self._service, "action": action, "msg": msg}
        text, scrub = self.scrubber.text, self.scrubber.any
        # the members' names are our own
        scrubbed = {
            name: text(value) if type(value) is str else scrub(value)
            for name, value in (whole | self._bound | members).items()
        }
        return self._render(scrubbed)

    def say(self, level: Level, action: str, msg: str = "", **members: object) -> None:
        """Write one line."""
        line = self.line(level, action, msg, **members)
        if line is not None:
            self._write(line)

    def debug(self, action: str, msg: str = "", **members: object) -> None:
        """Write a line that helps to understand this program."""
        self.say("debug", action, msg, **members)

    def info(self, action: str, msg: str = "", **members: object) -> None:
        """Write a line about something that happened."""
        self.say("info", action, msg, **members)

    def warning(self, action: str, msg: str = "", **members: object) -> None:
        """Write a line about something that an operator may want to change."""
        self.say("warning", action, msg, **members)

    def error(self, action: str, msg: str = "", *, cause: BaseException | None = None, **members: object) -> None:
        """Write a line about something that failed; the cause's trace goes with it."""
        if cause is not None:
            members["trace"] = "".join(traceback.format_exception(cause))[-8000:]
        self.say("error", action, msg, **members)

    def report(self, action: str, members: Mapping[str, object]) -> None:
        """Write an error from members that are at hand as a mapping (`Lifecycle`)."""
        self.say("error", action, "", **dict(members))

    def write_many(self, lines: Iterable[bytes]) -> None:
        """Write rendered lines at once."""
        self._write(b"".join(lines))


class AccessNotes:
    """The access log: exchanges are noted in a list and written together, off the hot path.

    Lines: method, route, status, milliseconds, caller. Paths that only ask for health are left out.
    At most `limit` wait; what is beyond is counted, and the count is written.
    """

    def __init__(self, log: Log, *, limit: int = 10_000) -> None:
        self._log = log
        self._limit = limit
        self._waiting: list[tuple[Exchange, float]] = []
        self._dropped = 0

    def __call__(self, exchange: Exchange, seconds: float) -> None:
        """Note one finished exchange."""
        if exchange.path in {"/livez", "/readyz", "/healthz"}:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        if len(self._waiting) < self._limit:
            self._waiting.append((exchange, seconds))
        else:
            self._dropped += 1

    def flush(self) -> None:
        """Write what was noted."""
        waiting, self._waiting = self._waiting, []
        lines = [line for exchange, seconds in waiting if (line := self._line(exchange, seconds)) is not None]
        if self._dropped:
            self._log.warning("access_lines_dropped", count=self._dropped)
            self._dropped = 0
        if lines:
            self._log.write_many(lines)

    def _line(self, exchange: Exchange, seconds: float) -> bytes | None:
        principal = exchange.principal
        return self._log.line(
            "info" if exchange.status < 500 else "error",  # noqa: PLR2004 - the server's own failures
            "request",
            method=exchange.method,
            route=exchange.route or exchange.path,
            status=exchange.status,
            ms=round(seconds * 1000, 2),
            request_id=exchange.request_id,
            trace_id=exchange.trace_id,
            caller=principal.subject if principal else "",
            project=exchange.project,
            address=exchange.address,
        )


def crash_note(into: Log) -> Callable[[Exchange, Exception], None]:
    """Return what writes an escaped exception, under the request id that the caller was given."""

    def crashed(exchange: Exchange, error: Exception) -> None:
        into.error(
            "request_crashed",
            f"{exchange.method} {exchange.path} crashed.",
            cause=error,
            request_id=exchange.request_id,
            trace_id=exchange.trace_id,
        )

    return crashed


_OWN: Final = frozenset({"level", "action", "msg", "cause", "ts", "service", "logger"})


def _fitting(members: Mapping[str, object]) -> dict[str, object]:
    """Return members under names that no line has of itself."""
    return {f"{name}_" if name in _OWN else name: value for name, value in members.items()}


class StdlibBridge(logging.Handler):
    """Takes what libraries and our own notes say through `logging` into our log."""

    def __init__(self, log: Log, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._to = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a library that formats wrongly is no reason to fail."""
        try:
            said = record.getMessage()
        except (TypeError, ValueError):
            said = str(record.msg)
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        if record.levelno < logging.WARNING:
            level = "info" if record.levelno >= logging.INFO else "debug"
        cause = record.exc_info[1] if record.exc_info else None
        members: Mapping[str, object] | None = getattr(record, MEMBERS, None)
        action, said = ("library", said) if members is None else (said, "")
        whole = {**_fitting(members or {}), "logger": record.name}
        if cause is not None:
            self._to.error(action, said, cause=cause, **whole)
        else:
            self._to.say(level, action, said, **whole)
