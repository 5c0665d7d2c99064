"""Projects and their API keys: `access/<project>/keys`."""

from pydantic import BaseModel, ConfigDict, Field

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import ApiKeyIssued, ApiKeyRevoked, ProjectCreated
from cloche_shared.errors import Conflict
from cloche_shared.journal.streams import Decision


class Access(BaseModel):
    """A project's keys by id; the default instance is a project that does not exist."""

    model_config = ConfigDict(frozen=True)

    created: bool = False
    keys: dict[str, ApiKeyIssued] = Field(default_factory=dict)
    revoked: tuple[str, ...] = ()


def evolve(state: Access, fact: Fact) -> Access:
    """Return the state after a fact."""
    if isinstance(fact, ProjectCreated):
        return state.model_copy(update={"created": True})
    if isinstance(fact, ApiKeyIssued):
        return state.model_copy(update={"keys": {**state.keys, fact.key_id: fact}})
    if isinstance(fact, ApiKeyRevoked):
        return state.model_copy(update={"revoked": (*state.revoked, fact.key_id)})
    return state


def decide_key(state: Access, key: ApiKeyIssued) -> Decision:
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
    gone = [ApiKeyRevoked(key_id=key_id) for key_id in former if key_id not in state.revoked]
    return Decision([*([] if state.created else [ProjectCreated()]), key, *gone])


def decide_revoke(state: Access, key_id: str) -> Decision:
    """Revoke a key; one that is unknown or revoked is left as it is."""
    if key_id not in state.keys or key_id in state.revoked:
        return Decision()
    return Decision([ApiKeyRevoked(key_id=key_id)])
