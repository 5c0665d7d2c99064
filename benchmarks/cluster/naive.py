"""What one would write first: a FastAPI handler with one durable insert into the same document store.

Same write concern (`w:1, j:true`), no auth, no audit, no versions.
"""

import os
import uuid
from typing import Any

from fastapi import FastAPI
from pymongo import AsyncMongoClient, WriteConcern

from benchmarks.naive_models import Registered, Registration

app = FastAPI()
_client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ["NAIVE_URL"])
_documents = _client[os.environ["NAIVE_DATABASE"]].get_collection(
    "registrations", write_concern=WriteConcern(1, j=True)
)


@app.post("/register", status_code=201)
async def register(body: Registration) -> Registered:
    """Insert a document."""
    made = Registered(id=uuid.uuid4().hex, name=body.name)
    await _documents.insert_one({"_id": made.id, "name": body.name, "definition": body.definition.model_dump()})
    return made
