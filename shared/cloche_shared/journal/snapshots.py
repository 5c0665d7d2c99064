"""Snapshots: so that what a long stream costs to load does not grow with its history.

Number n of a stream's snapshots is the document `<kind>.snapshot/<project>/<id>/<n>`, inserted after
document n x 500. They are found by key alone. They only spare reading: one that could not be written
is written by the next load that passes its place, and one that cannot be read is passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import orjson
from pydantic import BaseModel

from cloche_shared.journal.answers import Outcome
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.journal import Document, Journal

SNAPSHOT_EVERY = 500
S = TypeVar("S", bound=BaseModel)


def _key(stream: StreamId, number: int) -> str:
    return StreamId(f"{stream.kind}.snapshot", stream.project, stream.id).key(number)


def snapshot_document(stream: StreamId, seq: int, state: BaseModel, asked: Mapping[str, Outcome]) -> Document:
    """Return the document that holds `state` after document `seq`, and what may still be asked again."""
    body = {
        "id": f"{stream.key(seq)}.snapshot",
        "state": state.model_dump(mode="json"),
        "asked": {request_id: outcome.to_json() for request_id, outcome in asked.items()},
    }
    return Document(_key(stream, seq // SNAPSHOT_EVERY), orjson.dumps(body))


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[S]):
    """A stream as it was after document `seq`."""

    seq: int
    state: S
    asked: Mapping[str, Outcome]


async def latest_snapshot(journal: Journal, stream: StreamId, state: type[S]) -> Snapshot[S] | None:
    """Return the newest snapshot, found by doubling and halving; one that no longer fits its class is none."""
    low, step, found = 0, 1, None
    while step:
        document = await journal.get(_key(stream, low + step))
        if document is not None:
            low, found = low + step, document
            step *= 2
        elif step == 1:
            break
        else:
            step = 1
    if found is None:
        return None
    body = orjson.loads(found.body)
    asked = {request_id: Outcome.from_json(outcome) for request_id, outcome in body.get("asked", {}).items()}
    try:
        return Snapshot(low * SNAPSHOT_EVERY, state.model_validate_json(orjson.dumps(body["state"])), asked)
    except ValueError:
        return None
