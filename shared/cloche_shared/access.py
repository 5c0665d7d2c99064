"""Who may do what: tokens, principals, and the table of actions.

A token is `cloche_<key id>_<secret>`; what is kept is HMAC-SHA-256 of the secret under the
installation's pepper. Everything that the table does not allow is denied (security rules 5, 24).
"""

import asyncio
import contextlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Literal, get_args

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import ApiKeyIssued, ApiKeyRevoked, ProjectCreated
from cloche_shared.errors import Internal, Unavailable
from cloche_shared.ports.platform import Clock, Random

Role = Literal["viewer", "submitter", "admin"]

PREFIX: Final = "cloche"
SECRET_BYTES: Final = 24
MIN_PEPPER_BYTES: Final = 20
is_name: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}").fullmatch
"""Whether a text is a name of ours: of a project, an environment, a model, a service."""
is_project_name: Final = is_name
EVERY_PROJECT: Final = "*"
DEFAULT_PROJECT: Final = "default"
"""The project that every installation has."""
MAX_TOKEN_LENGTH: Final = 256
ON_ITS_WAY_S: Final = 1.0
"""For so many seconds a fact about a key or a project may be on its way from the replica that answered for it."""
MOST_WAITING: Final = 256
"""Requests that wait for such a fact at a time; further ones are answered at once."""

_ROLES: Final[tuple[Role, ...]] = get_args(Role)

ACTIONS: Final[Mapping[str, Role]] = {
    "environments.read": "viewer",
    "environments.write": "submitter",
    "environments.delete": "submitter",
    "models.read": "viewer",
    "models.write": "submitter",
    "models.delete": "submitter",
    "builds.read": "viewer",
    "builds.write": "submitter",
    "runs.read": "viewer",
    "runs.write": "submitter",
    "services.read": "viewer",
    "services.write": "submitter",
    "services.keys": "submitter",
    "services.delete": "submitter",
    "blobs.read": "viewer",
    "blobs.write": "submitter",
    "nodes.read": "viewer",
    "events.read": "viewer",
    "commands.write": "submitter",
    "access.read": "admin",
    "access.write": "admin",
    "projects.read": "viewer",
    "projects.write": "admin",
    "secrets.write": "submitter",
    "metrics.read": "viewer",
    "system.read": "viewer",
    "system.write": "admin",
}
"""The least role that an action asks for. What is not listed cannot be done by anybody."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: `subject` (`key:<id>`), the projects that are open to it, its role, and its end.

    `expires` is in seconds since the epoch, or None.
    """

    subject: str
    projects: tuple[str, ...]
    role: Role
    expires: float | None = None

    def may(self, action: str) -> bool:
        """Whether the role allows the action."""
        least = ACTIONS.get(action)
        return least is not None and _ROLES.index(self.role) >= _ROLES.index(least)

    def opens(self, project: str) -> bool:
        """Whether the project is open to it; compared by equality only."""
        return project in self.projects or EVERY_PROJECT in self.projects


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: the token is shown once, the digest is kept."""

    key_id: str
    token: str
    digest: str


def issue_key(random: Random, pepper: bytes, *, key_id: str = "") -> IssuedKey:
    """Return a new key with 192 random bits, under a new id unless one is given."""
    key_id = key_id or random.uuid7().replace("-", "")[-16:]
    secret = random.token(SECRET_BYTES)
    return IssuedKey(key_id, f"{PREFIX}_{key_id}_{secret}", digest_of(secret, pepper))


def digest_of(secret: str, pepper: bytes) -> str:
    """Return the keyed hash of a secret. Raises `Internal` when the pepper is empty or short."""
    if len(pepper) < MIN_PEPPER_BYTES:
        raise Internal("pepper_missing", "The installation's pepper is missing or shorter than 20 bytes.")
    return hmac.new(pepper, secret.encode(), sha256).hexdigest()


def split_token(token: str) -> tuple[str, str] | None:
    """Return key id and secret of a token, or None when it has not the form of one."""
    parts = token.split("_", 2)
    if len(parts) != 3 or parts[0] != PREFIX or not parts[1] or not parts[2]:  # noqa: PLR2004 - prefix, id, secret
        return None
    return parts[1], parts[2]


def verify(secret: str, digest: str, pepper: bytes) -> bool:
    """Whether the secret has that digest, in constant time."""
    return hmac.compare_digest(digest_of(secret, pepper), digest)


def _epoch(text: str) -> float | None:
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class AccessTable:
    """The keys that are valid now and the projects that exist, kept from facts; verified tokens are remembered.

    `staleness`: for so many seconds after the feed last heard from its source the keys hold; None where
    the table cannot be behind, because who changes the keys changes this table.
    """

    def __init__(self, pepper: bytes, clock: Clock, *, remembered: int = 1024, staleness: float | None = None) -> None:
        self._pepper = pepper
        self._clock = clock
        self._remembered = remembered
        self._staleness = staleness
        self._heard: float | None = None
        self._keys: dict[str, tuple[str, Principal]] = {}
        self._revoked: set[str] = set()
        self._projects: set[str] = {DEFAULT_PROJECT}
        self._verified: OrderedDict[str, Principal] = OrderedDict()
        self._used: set[str] = set()
        self._told: dict[str, float] = {}
        self._nobody = digest_of("", pepper)
        self._news = asyncio.Event()
        self._waiting = 0

    @property
    def projects(self) -> Collection[str]:
        """The projects that exist, as far as it is known here; what is returned follows changes."""
        return self._projects

    def apply(self, fact: Fact, project: str = "") -> None:
        """Take a fact of `cloche.access` about a project into account; others are ignored. Order does not matter."""
        if isinstance(fact, ApiKeyIssued) and fact.key_id not in self._revoked:
            self._verified.clear()
            subject = f"key:{fact.key_id}"
            principal = Principal(subject, tuple(fact.projects), fact.role, _epoch(fact.expires))
            self._keys[fact.key_id] = (fact.digest, principal)
        elif isinstance(fact, ApiKeyRevoked):
            self._verified.clear()
            self._revoked.add(fact.key_id)
            self._keys.pop(fact.key_id, None)
            self._told.pop(f"key:{fact.key_id}", None)
        elif isinstance(fact, ProjectCreated) and project:
            self._projects.add(project)
        self._news.set()
        self._news = asyncio.Event()

    def lacks(self, token: str, project: str = "") -> bool:
        """Whether a fact that did not come yet may let a token in, or open a project to it."""
        parts = split_token(token) if len(token) <= MAX_TOKEN_LENGTH else None
        if self._staleness is None or parts is None or parts[0] in self._revoked:
            return False
        _, principal = self._keys.get(parts[0], ("", None))
        if principal is None:
            return True
        is_new = is_project_name(project) is not None and project not in self._projects
        return is_new and EVERY_PROJECT in principal.projects

    async def catch_up(self, token: str, project: str = "") -> None:
        """Wait, at most `ON_ITS_WAY_S`, as long as the table lacks something that a token may need."""
        if self._waiting >= MOST_WAITING:
            return
        self._waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ON_ITS_WAY_S):
                    while self.lacks(token, project):
                        await self._news.wait()
        finally:
            self._waiting -= 1

    def heard(self) -> None:
        """Note that everything that the source holds now was applied."""
        self._heard = self._clock.monotonic()

    def stale(self) -> Unavailable | None:
        """Return the error `access_unknown` when nobody can say which keys are valid now.

        That is so until the feed was read whole for the first time, and once it has not been heard from for
        longer than `staleness`.
        """
        if self._staleness is None:
            return None
        if self._heard is None:
            return _access_unknown("The keys were not read yet since this process started.")
        if self._clock.monotonic() - self._heard > self._staleness:
            return _access_unknown(f"The message broker has not been heard from for over {self._staleness:g} s.")
        return None

    def remembers(self, token: str) -> bool:
        """Whether this token was verified lately."""
        return token in self._verified

    def authenticate(self, token: str) -> Principal | None:
        """Return whose token it is, or None. A known key and an unknown one take equally long."""
        known = self._verified.get(token)
        if known is None:
            known = self._verify(token)
        if known is None or (known.expires is not None and known.expires <= self._clock.now().timestamp()):
            return None
        self._used.add(known.subject)
        return known

    def take_used(self, every_s: float) -> list[str]:
        """Return the subjects whose keys were used since they were last returned, each once in `every_s`."""
        now = self._clock.monotonic()
        found = [one for one in self._used if now - self._told.get(one, -every_s) >= every_s]
        self._told.update(dict.fromkeys(found, now))
        self._used.clear()
        return found

    def untold(self, subjects: Iterable[str]) -> None:
        """Return these again: nobody got to know of them."""
        for subject in subjects:
            self._told.pop(subject, None)
            self._used.add(subject)

    def _verify(self, token: str) -> Principal | None:
        parts = split_token(token) if len(token) <= MAX_TOKEN_LENGTH else None
        if parts is None:
            return None
        digest, principal = self._keys.get(parts[0], (self._nobody, None))
        if not verify(parts[1], digest, self._pepper) or principal is None:
            return None
        self._verified[token] = principal
        if len(self._verified) > self._remembered:
            self._verified.popitem(last=False)
        return principal


def _access_unknown(why: str) -> Unavailable:
    return Unavailable(
        "access_unknown",
        "It is not known which keys are valid now.",
        why=why,
        todo="Send the same request again; nothing was done.",
        extra={"retry_after": 5},
    )


SUSPECT_AFTER: Final = 3
"""Failed attempts after which an address does not get others' patience."""


class FailureGate:
    """Counts failed attempts per address: after `limit` within `window_s`, none is tried for `pause_s`.

    Memory is bounded: the address that failed longest ago is forgotten first.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        *,
        limit: int = 20,
        window_s: float = 60.0,
        pause_s: float = 5.0,
        addresses: int = 4096,
    ) -> None:
        self._monotonic = monotonic
        self._limit = limit
        self._window_s = window_s
        self._pause_s = pause_s
        self._addresses = addresses
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return for how many seconds attempts from this address are refused; 0 when they are not."""
        count, since = self._failures.get(address, (0, 0.0))
        if count < self._limit:
            return 0.0
        return max(0.0, since + self._pause_s - self._monotonic())

    def is_suspect(self, address: str) -> bool:
        """Whether so many attempts from this address failed that the next one is more likely a guess."""
        count, since = self._failures.get(address, (0, 0.0))
        return count >= SUSPECT_AFTER and self._monotonic() - since <= self._window_s

    def failed(self, address: str) -> None:
        """Count one failure."""
        now = self._monotonic()
        count, since = self._failures.pop(address, (0, now))
        over = count >= self._limit
        if over or now - since > self._window_s:
            count, since = 0, now
        count += 1
        self._failures[address] = (count, now if count >= self._limit else since)
        if len(self._failures) > self._addresses:
            self._failures.popitem(last=False)


class KeyRates:
    """Lets each key ask for `per_s` requests a second, after a rest for ten seconds' worth at once.

    Memory is bounded: the key that asked longest ago is forgotten first, which gives it a full share.
    """

    def __init__(self, monotonic: Callable[[], float], per_s: float, *, keys: int = 4096) -> None:
        self._monotonic = monotonic
        self._per_s = per_s
        self._most = max(1.0, per_s * 10)
        self._keys = keys
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, subject: str) -> float:
        """Take one request; return 0, or for how many seconds the key has to wait when it has none left."""
        now = self._monotonic()
        left, at = self._left.pop(subject, (self._most, now))
        left = min(self._most, left + (now - at) * self._per_s)
        allowed = left >= 1
        self._left[subject] = (left - 1 if allowed else left, now)
        if len(self._left) > self._keys:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_s
