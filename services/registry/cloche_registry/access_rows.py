"""How projects and keys look: as rows of lists, and as answers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import orjson

from cloche_registry.domain.keys import PROJECT, Access
from cloche_shared.access import EVERY_PROJECT, Principal
from cloche_shared.contracts.envelope import Event
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.views import Row

PROJECTS: Final = "projects"
"""One list for all projects: its rows belong to `EVERY_PROJECT`."""
KEYS: Final = "keys"
KEYS_USED: Final = "keys.used"
"""When each key was used last; its rows belong to `EVERY_PROJECT` too, because ids of keys are unique."""
VALID, REVOKED = "valid", "revoked"

Shown = dict[str, object]


def access_rows(stream: StreamId, state: Access, seq: int) -> Sequence[Row]:
    """Return the rows of a stream: of each key one in every project that it names, then the project's."""
    rows = [
        Row(KEYS, project, key_id, seq, key.created_at, orjson.dumps(key_parts(stream.project, state, key_id)), facet)
        for key_id, key in state.keys.items()
        for facet in (REVOKED if key_id in state.revoked else VALID,)
        for project in {stream.project, *key.projects} - {EVERY_PROJECT}
    ]
    if stream.id == PROJECT and state.created is not None:
        body = orjson.dumps(project_parts(stream.project, state))
        rows.append(Row(PROJECTS, EVERY_PROJECT, stream.project, seq, stream.project, body))
    return rows


def use_rows(event: Event) -> Sequence[Row]:
    """Return the rows of an `ApiKeysUsed`; of two the later one stays."""
    at, subjects = event.data.get("at"), event.data.get("subjects")
    if not isinstance(at, str) or not isinstance(subjects, list):
        return ()
    seq, body = int(datetime.fromisoformat(at).timestamp() * 1000), orjson.dumps({"at": at})
    ids = [str(subject).removeprefix("key:") for subject in subjects]
    return [Row(KEYS_USED, EVERY_PROJECT, key_id, seq, key_id, body) for key_id in ids]


def project_parts(name: str, state: Access) -> Shown:
    """Return the members of a project."""
    created = state.created
    if created is None:
        return {}
    return {
        "name": name,
        "description": created.description,
        "created_at": created.created_at,
        "created_by": created.created_by,
    }


def key_parts(project: str, state: Access, key_id: str) -> Shown:
    """Return the members of a key that do not change by themselves; never its digest."""
    key, gone = state.keys[key_id], state.revoked.get(key_id)
    return {
        "id": key_id,
        "project": project,
        "projects": key.projects,
        "role": key.role,
        "description": key.description,
        "expires": key.expires or None,
        "created_at": key.created_at,
        "created_by": key.created_by,
        "revoked_at": gone.revoked_at if gone is not None else None,
        "revoked_by": gone.revoked_by if gone is not None else None,
        "bootstrap": key.bootstrap,
        "revoked": gone is not None,
    }


def key_shown(parts: Mapping[str, object], principal: Principal, now: datetime, last_used: str | None) -> Shown:
    """Return a key as a caller sees it: with its status, and of what it opens only what is open to the caller."""
    whole = dict(parts)
    revoked, expires = whole.pop("revoked"), whole["expires"]
    ended = isinstance(expires, str) and datetime.fromisoformat(expires) <= now
    projects = whole["projects"]
    names = projects if isinstance(projects, list | tuple) else ()
    whole["projects"] = [name for name in names if name == EVERY_PROJECT or principal.opens(name)]
    whole["project"] = whole["project"] if principal.opens(str(whole["project"])) else ""
    whole["status"] = "revoked" if revoked else "expired" if ended else "valid"
    whole["last_used"] = last_used
    return whole
