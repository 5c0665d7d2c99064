"""What one would write first: FastAPI handlers with one durable SQLite insert each, as Cloche's peers.

Same durability (WAL, `synchronous=FULL`), no auth, no audit, no versions.
"""

import os
import sqlite3
import threading
import uuid

from fastapi import FastAPI

from benchmarks.naive_models import Registered, Registration


def _connect() -> sqlite3.Connection:
    path = os.environ.get("NAIVE_DB", ":memory:")
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS registrations (id TEXT PRIMARY KEY, name TEXT, body TEXT)")
    return connection


_database = _connect()
_lock = threading.Lock()
app = FastAPI()
bare = FastAPI()


def _insert(body: Registration) -> Registered:
    made = Registered(id=uuid.uuid4().hex, name=body.name)
    row = (made.id, body.name, body.definition.model_dump_json())
    with _lock:
        _database.execute("INSERT INTO registrations VALUES (?,?,?)", row)
    return made


@app.post("/async", status_code=201)
async def register(body: Registration) -> Registered:
    """Insert on the event loop."""
    return _insert(body)


@app.post("/threadpool", status_code=201)
def register_in_thread(body: Registration) -> Registered:
    """Insert in a thread of the pool."""
    return _insert(body)


@bare.get("/")
async def hello() -> str:
    """Answer."""
    return "ready"
