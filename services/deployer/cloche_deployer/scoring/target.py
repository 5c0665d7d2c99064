"""A scoring service as the front sees it: its keys, its limits, and the pool that serves it now."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloche_deployer.scoring.pool import WorkerPool

DEFAULT_MAX_BODY = 100 * 1024 * 1024


def digest(key: str) -> bytes:
    """Return what is kept of a key; keys are random, so a plain SHA-256 cannot be guessed back."""
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """What holds for every revision of a service.

    `max_body` is in bytes; `origins` are those that browsers may call from (`*` for all), as in
    AML_CORS_ORIGINS; `version` appears in the service's swagger document; `timeout` is the longest that
    an answer may take, waiting included, in seconds.
    """

    max_body: int = DEFAULT_MAX_BODY
    origins: tuple[str, ...] = ()
    version: str = "1.0"
    timeout: float = 120.0


class ServiceTarget:
    """One service. `pool` is swapped as a whole: a request takes the pool at the moment of dispatch.

    `node` is the other node that answers; empty when this replica does. `reason` is why nothing can answer,
    when that is known. `seq` is the place in the service's stream that this was made from.
    """

    __slots__ = ("_digests", "name", "node", "pool", "project", "reason", "seq", "settings")

    def __init__(
        self, project: str, name: str, digests: Iterable[bytes], pool: WorkerPool | None, settings: TargetSettings
    ) -> None:
        self.project = project
        self.name = name
        self.pool = pool
        self.node = ""
        self.reason = ""
        self.seq = 0
        self.settings = settings
        self._digests = tuple(digests)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another node answers."""
        return self.pool is None and self.node != ""

    def opens(self, presented: bytes) -> bool:
        """Whether the digest of a presented key is one of the service's; in constant time."""
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, presented)
        return found

    def rekey(self, digests: Iterable[bytes]) -> None:
        """Replace the keys at once."""
        self._digests = tuple(digests)

    def switch(self, pool: WorkerPool | None) -> WorkerPool | None:
        """Send new requests to `pool` from now on; returns the former one, which is to be drained."""
        former, self.pool = self.pool, pool
        return former


class RoutingTable:
    """The services of this process by name; implements the port `Routes`."""

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[ServiceTarget, ...]] = {}

    def put(self, target: ServiceTarget) -> None:
        """Add a service, or replace the one of the same project and name."""
        others = [t for t in self._by_name.get(target.name, ()) if t.project != target.project]
        self._by_name[target.name] = (*others, target)

    def remove(self, project: str, name: str) -> ServiceTarget | None:
        """Take a service away; returns it, for its pool."""
        targets = self._by_name.pop(name, ())
        rest = tuple(t for t in targets if t.project != project)
        if rest:
            self._by_name[name] = rest
        return next((t for t in targets if t.project == project), None)

    def lookup(self, project: str | None, name: str) -> Sequence[ServiceTarget]:
        """Return the services of that name: of one project, or of every project when it is None."""
        targets = self._by_name.get(name, ())
        return targets if project is None else tuple(t for t in targets if t.project == project)
