"""What the registry does for projects and API keys: check, record, and let the process's own table know at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from cloche_registry.domain import keys
from cloche_registry.domain.keys import PROJECT, Access
from cloche_shared.access import (
    EVERY_PROJECT,
    AccessTable,
    Principal,
    Role,
    digest_of,
    issue_key,
    split_token,
)
from cloche_shared.contracts.facts import ApiKeyIssued, ApiKeyRevoked, ProjectCreated
from cloche_shared.errors import Forbidden, Internal, Invalid, Violation
from cloche_shared.http.caller import project_not_found
from cloche_shared.journal.commit import Actor, Origin, StreamId
from cloche_shared.journal.streams import Changed, Decision, Kind, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.platform import Clock, Random

ACCESS = Kind("access", Access, keys.evolve)
KEY_ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class KeyDraft:
    """What a caller says of a new key: its role, what it opens (`*`: every project), and until when."""

    role: Role
    projects: tuple[str, ...]
    expires: datetime | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key and its token, which is shown now and never again."""

    changed: Changed[Access]
    key: ApiKeyIssued
    token: str


class Keys:
    """Commands on projects and API keys."""

    def __init__(
        self,
        streams: Streams[Access],
        writer: Writer,
        access: AccessTable,
        pepper: bytes,
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        self.streams = streams
        self.access = access
        self._writer = writer
        self._pepper = pepper
        self._clock = clock
        self._random = random

    def now(self) -> datetime:
        """Return the time that keys expire by."""
        return self._clock.now()

    # --- projects

    async def create_project(
        self, name: str, description: str, origin: Origin, fingerprint: str = ""
    ) -> Changed[Access]:
        """Create a project. Raises `Conflict` (`project_exists`), `Invalid` (`reserved_project`)."""
        fact = ProjectCreated(description=description, created_at=self._writer.now(), created_by=origin.actor.subject)
        return await self._change(
            self.streams.id(name, PROJECT), origin, lambda state: keys.decide_create(state, name, fact), fingerprint
        )

    async def project(self, name: str) -> Access:
        """Return a project. Raises `NotFound` (`project_not_found`)."""
        present = await self.streams.get(self.streams.id(name, PROJECT))
        if present.state.created is None:
            raise project_not_found()
        return present.state

    # --- keys

    async def issue(
        self, project: str, by: Principal, draft: KeyDraft, origin: Origin, fingerprint: str = ""
    ) -> Issued:
        """Issue a key in a project, for this and other projects that are open to who asks.

        Raises `Invalid` (`invalid_expiry`), `NotFound` (`project_not_found`), `Forbidden`
        (`token_opens_more`), `Conflict` (`token_shown`).
        """
        await self._check_projects(by, draft.projects)
        made = issue_key(self._random, self._pepper, key_id=_id_of(origin.request_id))
        key = ApiKeyIssued(
            key_id=made.key_id,
            digest=made.digest,
            role=draft.role,
            projects=draft.projects,
            expires=self._until(draft.expires),
            description=draft.description,
            created_at=self._writer.now(),
            created_by=origin.actor.subject,
        )
        stream = self.streams.id(project, key.key_id)
        changed = await self._change(stream, origin, lambda state: keys.decide_issue(state, key), fingerprint)
        if changed.replayed:
            raise keys.token_shown(key.key_id)
        return Issued(changed, key, made.token)

    async def find(self, project: str, key_id: str) -> tuple[StreamId, Access]:
        """Return the stream of a key that was issued in this project. Raises `NotFound` (`token_not_found`)."""
        for stream in (self.streams.id(project, key_id), self.streams.id(project, PROJECT)):
            present = await self.streams.get(stream)
            if key_id in present.state.keys:
                return stream, present.state
        raise keys.key_not_found(key_id)

    async def revoke(
        self, project: str, by: Principal, key_id: str, origin: Origin, fingerprint: str = ""
    ) -> Changed[Access]:
        """Revoke a key. Raises `NotFound` (`token_not_found`), `Forbidden` (`token_opens_more`)."""
        stream, state = await self.find(project, key_id)
        if not all(by.opens(opened) for opened in state.keys[key_id].projects):
            raise _opens_more()
        gone = ApiKeyRevoked(key_id=key_id, revoked_at=self._writer.now(), revoked_by=origin.actor.subject)
        return await self._change(stream, origin, lambda now: keys.decide_revoke(now, gone), fingerprint)

    async def ensure_bootstrap_key(self, token: str, *, project: str = "default") -> None:
        """Make a token that exists already open everything; doing it again changes nothing.

        Raises `Internal` (`malformed_token`) for a text that is no token, `Conflict` (`key_id_taken`).
        """
        parts = split_token(token)
        if parts is None:
            raise Internal("malformed_token", "The bootstrap token has not the form of one.")
        origin = Origin(Actor("service:registry"), correlation=f"bootstrap-{parts[0]}")
        key = ApiKeyIssued(
            key_id=parts[0],
            digest=digest_of(parts[1], self._pepper),
            role="admin",
            projects=(EVERY_PROJECT,),
            bootstrap=True,
            created_at=self._writer.now(),
            created_by=origin.actor.subject,
        )
        stream = self.streams.id(project, PROJECT)
        changed = await self._change(stream, origin, lambda state: keys.decide_bootstrap(state, key))
        for known in changed.state.keys.values():
            if known.key_id not in changed.state.revoked:
                self.access.apply(known)

    # --- parts

    async def _change(
        self, stream: StreamId, origin: Origin, decide: Callable[[Access], Decision], fingerprint: str = ""
    ) -> Changed[Access]:
        """Record, and let this process know: others hear of it from the bus."""
        changed = await self.streams.change(stream, origin, decide, fingerprint=fingerprint)
        for fact in changed.facts:
            self.access.apply(fact, stream.project)
        return changed

    async def _check_projects(self, by: Principal, wanted: Sequence[str]) -> None:
        for name in wanted:
            if name == EVERY_PROJECT:
                if not by.opens(EVERY_PROJECT):
                    raise _opens_more()
                continue
            if not by.opens(name):
                raise project_not_found()
            await self.project(name)

    def _until(self, expires: datetime | None) -> str:
        if expires is None:
            return ""
        try:
            if expires > self._clock.now():
                return expires.astimezone(UTC).isoformat().replace("+00:00", "Z")
        except OverflowError:
            pass
        why = "It must be a time in the future."
        raise Invalid(
            "invalid_expiry",
            "The token would never be valid.",
            why=why,
            todo="Give a later time, with its offset from UTC.",
            violations=[Violation("/expires", "invalid_expiry", why)],
        )


def _id_of(request_id: str) -> str:
    """Return the id of the key that a request asks for: of one request, always the same."""
    return sha256(request_id.encode()).hexdigest()[:KEY_ID_DIGITS] if request_id else ""


def _opens_more() -> Forbidden:
    return Forbidden(
        "token_opens_more",
        "The token would open, or opens, projects that yours does not.",
        todo="Ask somebody whose token opens all of them.",
    )
