"""Changes that were refused, on record (security rule 35, I15): who asked, from where, for what, how often.

What was done is in the journal by itself. A refusal changes nothing, so it has no document of its
own, and one per refusal would let anybody fill the disk. So refusals that are alike are counted
together, and what was counted is written as one document of bounded size at a time, and with less and
less of them while it goes on.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloche_shared.contracts.facts import TOPICS, AttemptsDenied
from cloche_shared.errors import Unavailable
from cloche_shared.http.exchange import Exchange
from cloche_shared.journal.commit import Actor, Commit, Origin, StreamId
from cloche_shared.journal.writer import Writer
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.journal import Document

KIND: Final = "denial"
MAX_KINDS: Final = 50
"""Refusals of different kinds in one record; what is beyond is counted together."""
EVERY_S: Final = 5.0
SELDOM_S: Final = 60.0
OFTEN: Final = 100
"""Records of one hour that are written every `EVERY_S`; those after them every `SELDOM_S`."""
HOUR_S: Final = 3600.0
STREAM_RECORDS: Final = 500
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_STATUSES: Final = frozenset({401, 403, 421})
_CODES: Final = frozenset({"too_many_failures", "project_not_found"})
_SHOWN_PARTS: Final = 4
_SHOWN: Final = 64

Kind = tuple[str, str, str, str, str, str]
_OTHERS: Final = ("", "", "", "", "others")


@dataclass(slots=True)
class _Count:
    first_at: str
    last_at: str
    request: str
    count: int = 0


class Denials:
    """Counts refused changes of one process, and writes them to its service's journal."""

    def __init__(self, writer: Writer, monotonic: Callable[[], float], service: str) -> None:
        self._writer = writer
        self._monotonic = monotonic
        self._service = service
        self._actor = Actor(f"service:{service}")
        self._counts: dict[Kind, _Count] = {}
        self._some = asyncio.Event()
        self._streams: dict[str, tuple[StreamId, int]] = {}
        self._hour = (0.0, 0)

    def note(self, exchange: Exchange) -> None:
        """Take a finished exchange into account; quick, and of no interest unless a change was refused."""
        if exchange.method in _SAFE or not exchange.code:  # a call of a scoring service changes nothing and has no code
            return
        if exchange.status not in _STATUSES and exchange.code not in _CODES:
            return
        kind = _kind_of(exchange)
        if kind not in self._counts and len(self._counts) >= MAX_KINDS:
            kind = (kind[0], *_OTHERS)
        now = self._writer.now()
        found = self._counts.setdefault(kind, _Count(now, now, exchange.request_id))
        found.last_at = now
        found.count += 1
        self._some.set()

    def start(self, lifecycle: Lifecycle) -> None:
        """Write what is counted while the service lives, and the rest at its end."""
        lifecycle.spawn(f"{self._service} denials", self.run())
        lifecycle.at_end(f"{self._service} denials", self.flush)

    async def run(self) -> None:
        """Write what was counted, for ever."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._pause())
            await self.flush()

    def _pause(self) -> float:
        """Return for how long refusals are counted before they are written."""
        now = self._monotonic()
        since, count = self._hour
        if now - since > HOUR_S:
            since, count = now, 0
        self._hour = (since, count + 1)
        return EVERY_S if count < OFTEN else SELDOM_S

    async def flush(self) -> None:
        """Write what was counted; it is kept while the store cannot be written."""
        counts, self._counts = self._counts, {}
        self._some.clear()
        projects = sorted({kind[0] for kind in counts})
        for project in projects:
            own = {kind: count for kind, count in counts.items() if kind[0] == project}
            try:
                await self._write(project, own)
            except Unavailable:
                self._keep(own)

    async def _write(self, project: str, counts: dict[Kind, _Count]) -> None:
        # a stream whose last write is in doubt is left: what comes behind a gap would never be sent
        stream, seq = self._streams.pop(project, (None, 0))
        if stream is None or seq >= STREAM_RECORDS:
            stream, seq = StreamId(KIND, project, self._writer.unique()), 0
        facts = tuple(_fact(kind, count) for kind, count in counts.items())
        commit = Commit(
            self._writer.unique(), facts, Origin(self._actor, correlation=f"{stream.id}-{seq + 1}"), self._writer.now()
        )
        document = Document(stream.key(seq + 1), commit.body(), TOPICS[KIND], str(stream))
        await self._writer.append([document])
        self._streams[project] = (stream, seq + 1)

    def _keep(self, counts: dict[Kind, _Count]) -> None:
        for kind, count in counts.items():
            now = self._counts.setdefault(kind, count)
            if now is not count:
                now.count += count.count
                now.first_at = count.first_at
        self._some.set()


def _kind_of(exchange: Exchange) -> Kind:
    principal = exchange.principal
    only = principal.projects[0] if principal is not None and len(principal.projects) == 1 else ""
    project = exchange.project or (only if only not in {"", "*"} else "default")
    place = "/".join(exchange.path.split("/")[:_SHOWN_PARTS])[:_SHOWN]
    subject = principal.subject if principal is not None else ""
    return project, subject, exchange.address, exchange.method, place, exchange.code


def _fact(kind: Kind, count: _Count) -> AttemptsDenied:
    _, subject, address, method, place, code = kind
    return AttemptsDenied(
        subject=subject,
        address=address,
        method=method,
        path=place,
        code=code,
        count=count.count,
        first_at=count.first_at,
        last_at=count.last_at,
        first_request=count.request,
    )
