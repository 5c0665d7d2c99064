"""What the scoring data path needs from outside: worker processes, connections, routes, access."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cloche_deployer.scoring.exchange import Exchange
    from cloche_deployer.scoring.target import ServiceTarget


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker process ended: a sentence for people, and the last lines of its log."""

    detail: str
    log: str = ""


class WorkerProcess(Protocol):
    """One living or ended worker process of a revision."""

    @property
    def id(self) -> str: ...

    @property
    def socket(self) -> str:
        """The path of the Unix socket that it listens on (at most 100 bytes)."""

    async def ended(self) -> WorkerEnd:
        """Wait for proof that nothing of the worker lives any more; may be called by several."""

    async def stop(self, *, grace: float) -> None:
        """Ask it to end, and kill it after `grace` seconds; returns when it has ended."""


class Workers(Protocol):
    """Starts and adopts the worker processes of one revision."""

    async def adopt(self) -> Sequence[WorkerProcess]:
        """Return the workers of this revision that a former owner left alive."""

    async def start(self) -> WorkerProcess:
        """Start one more. Raises `Unavailable` when none can be started now."""


class Link(Protocol):
    """The sending half of a connection to a worker."""

    def send(self, frame: bytes) -> None:
        """Write a frame soon; frames of one turn of the event loop leave in one write."""

    def close(self) -> None:
        """End the connection; `LinkOwner.lost` follows."""


class LinkOwner(Protocol):
    """Who hears what arrives on a connection."""

    def received(self, kind: int, number: int, payload: bytes) -> None: ...

    def lost(self) -> None: ...


class Connector(Protocol):
    """Opens connections to workers."""

    async def connect(self, path: str, owner: LinkOwner) -> Link:
        """Connect. Raises `Unavailable` while nobody listens at `path`."""


class Routes(Protocol):
    """Which services there are."""

    def lookup(self, project: str | None, name: str) -> "Sequence[ServiceTarget]":
        """Return the services of that name: of one project, or of every project when it is None."""


class Access(Protocol):
    """Tokens of the platform, which may score in their projects like a service's own keys."""

    async def projects(self, token: str, *, patient: bool) -> frozenset[str]:
        """Return the projects in which the token may score (`*`: in all); none when it is not known.

        With `patient` a token that may be on its way is waited for.
        """


class FailureGuard(Protocol):
    """Slows down who guesses keys."""

    def retry_after(self, address: str) -> int:
        """Return the seconds for which that address is refused (0: it may try)."""

    def is_suspect(self, address: str) -> bool:
        """Whether so many failed that the next one is more likely a guess."""

    def failed(self, address: str) -> None:
        """Count one wrong credential from that address."""


class Lookout(Protocol):
    """A second look before somebody is refused, where other replicas may know more."""

    async def look(self, project: str | None, name: str) -> None:
        """Bring the services of that name up to date, of one project or of every one; at one pace for all who ask.

        For callers who may be guessing.
        """

    async def look_at(self, projects: Collection[str], name: str) -> None:
        """Bring the services of that name in these projects up to date, each by one key and nearly at once.

        For callers of these projects.
        """


class Onward(Protocol):
    """The way to the replica that drives another node."""

    async def pass_on(self, exchange: "Exchange", target: "ServiceTarget", body: bytes) -> bool:
        """Have a request answered at the target's node and send that answer, wherever it moves meanwhile.

        Returns false, with nothing sent, when the service is here by now. Raises `Unavailable`.
        """
