"""Projects and API keys.

`access/<project>/keys` is a project: that it exists, and the first administrator's keys. Every other key
is a stream of its own, `access/<project>/<key id>`, in the project in which it was issued. So a project's
history does not grow with its keys, and what a key was issued for never changes: it is revoked and
another one issued.
"""

from pydantic import BaseModel, ConfigDict, Field

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import ApiKeyIssued, ApiKeyRevoked, ProjectCreated
from cloche_shared.errors import Conflict, Invalid, NotFound
from cloche_shared.journal.streams import Decision

PROJECT = "keys"
"""The id of the stream that is the project itself; no key has it."""
RESERVED = frozenset({"public"})
"""Names of Cloche's own: what is built from public sources belongs to `public`."""


class Access(BaseModel):
    """A project, or one key: its keys by id; the default instance is one that does not exist."""

    model_config = ConfigDict(frozen=True)

    created: ProjectCreated | None = None
    keys: dict[str, ApiKeyIssued] = Field(default_factory=dict)
    revoked: dict[str, ApiKeyRevoked] = Field(default_factory=dict)


def evolve(state: Access, fact: Fact) -> Access:
    """Return the state after a fact."""
    if isinstance(fact, ProjectCreated):
        return state.model_copy(update={"created": fact})
    if isinstance(fact, ApiKeyIssued):
        return state.model_copy(update={"keys": {**state.keys, fact.key_id: fact}})
    if isinstance(fact, ApiKeyRevoked):
        return state.model_copy(update={"revoked": {**state.revoked, fact.key_id: fact}})
    return state


# --- errors


def key_not_found(key_id: str) -> NotFound:
    """Return the error for a key that was not issued in this project."""
    return NotFound(
        "token_not_found",
        f"No token with the id {key_id!r} was issued in this project.",
        todo="Choose one from `cloche token list`; one that was issued in another project is revoked there.",
    )


def project_exists(name: str) -> Conflict:
    """Return the error for a name that is taken."""
    return Conflict(
        "project_exists",
        f"There is a project {name!r}.",
        todo="Use it, or choose another name.",
        extra={"existing": f"/api/v1/projects/{name}"},
    )


# --- decisions


def decide_create(state: Access, name: str, project: ProjectCreated) -> Decision:
    """Create a project. Raises `Conflict` (`project_exists`), `Invalid` (`reserved_project`)."""
    if name in RESERVED:
        raise Invalid(
            "reserved_project",
            f"The name {name!r} is Cloche's own.",
            why="What is built from public sources alone is kept under it, for all projects.",
            todo="Choose another name.",
        )
    if state.created is not None:
        raise project_exists(name)
    return Decision([project])


def decide_bootstrap(state: Access, key: ApiKeyIssued) -> Decision:
    """Issue a key whose token exists already, creating the project with the first one.

    A key that is known is left as it is, also when it was revoked. A new bootstrap key revokes the
    former one: who removes the token file wants its token to open nothing any more. Raises `Conflict`
    (`key_id_taken`) when its id belongs to another secret.
    """
    known = state.keys.get(key.key_id)
    if known is not None:
        if known.digest != key.digest:
            raise Conflict(
                "key_id_taken",
                f"The key {key.key_id!r} exists with another secret.",
                why="The token file does not belong to this data folder, or the installation's pepper was replaced.",
                todo="Restore both from the same backup, or issue a token with a new id.",
            )
        return Decision()
    former = [one.key_id for one in state.keys.values() if key.bootstrap and one.bootstrap]
    gone = [
        ApiKeyRevoked(key_id=key_id, revoked_at=key.created_at, revoked_by=key.created_by)
        for key_id in former
        if key_id not in state.revoked
    ]
    first = [] if state.created else [ProjectCreated(created_at=key.created_at, created_by=key.created_by)]
    return Decision([*first, key, *gone])


def decide_issue(state: Access, key: ApiKeyIssued) -> Decision:
    """Issue a key. The same request once more finds it, and its token is not shown again (`token_shown`)."""
    if key.key_id in state.keys:
        raise token_shown(key.key_id)
    return Decision([key], json={"key_id": key.key_id})


def token_shown(key_id: str) -> Conflict:
    """Return the error for a request that issued a key before: only its hash is kept."""
    return Conflict(
        "token_shown",
        "This request issued a token before, and it is shown once.",
        why="Only its keyed hash is kept.",
        todo=f"Revoke the token {key_id} if its answer was lost, and create another.",
        extra={"id": key_id},
    )


def decide_revoke(state: Access, gone: ApiKeyRevoked) -> Decision:
    """Revoke a key; one that was revoked is left as it is. Raises `NotFound` (`token_not_found`)."""
    if gone.key_id not in state.keys:
        raise key_not_found(gone.key_id)
    if gone.key_id in state.revoked:
        return Decision()
    return Decision([gone])
