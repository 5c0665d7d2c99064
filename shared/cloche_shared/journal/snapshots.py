"""Snapshots: so that what a long stream costs to load does not grow with its history.

Number n of a stream's snapshots is the document `<kind>.snapshot/<project>/<id>/<n>`, inserted after
document n x 500. They are found by key alone: their numbers have no gap, or a short one after a
crash, in which case an older one is used.
"""

from typing import TypeVar

import orjson
from pydantic import BaseModel

from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.journal import Document, Journal

SNAPSHOT_EVERY = 500
S = TypeVar("S", bound=BaseModel)


def _key(stream: StreamId, number: int) -> str:
    return StreamId(f"{stream.kind}.snapshot", stream.project, stream.id).key(number)


def snapshot_document(stream: StreamId, seq: int, state: BaseModel) -> Document:
    """Return the document that holds `state` after document `seq`."""
    body = {"id": f"{stream.key(seq)}.snapshot", "state": state.model_dump(mode="json")}
    return Document(_key(stream, seq // SNAPSHOT_EVERY), orjson.dumps(body))


async def latest_snapshot(journal: Journal, stream: StreamId, state: type[S]) -> tuple[int, S] | None:
    """Return sequence number and state of the newest snapshot that is found by doubling and halving."""
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
    return low * SNAPSHOT_EVERY, state.model_validate_json(orjson.dumps(orjson.loads(found.body)["state"]))
