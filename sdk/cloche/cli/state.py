"""`status`: whether Cloche runs, and what it is doing. Standard library only, because it is asked often."""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cloche._config import find_endpoint
from cloche._errors import Unauthenticated, from_problem, unreachable
from cloche.cli import exits, processes
from cloche.cli.session import Session
from cloche.cli.text import age

ACTIVE: Final = ("NotStarted", "Preparing", "Queued", "Starting", "Running", "CancelRequested", "Finalizing")
COUNTED: Final = 100
SECONDS: Final = 10.0

Document = dict[str, object]


class Asked:
    """A connection to a server, for a few small questions."""

    def __init__(self, url: str, token: str, project: str = "", seconds: float = SECONDS) -> None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._url = url
        self._connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=seconds)
        self._headers = {"authorization": f"Bearer {token}"} | ({"cloche-project": project} if project else {})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str, *accept: int) -> Document:
        """Return a JSON document. Raises what the server says, or `Unavailable` (`not_running`)."""
        try:
            self._connection.request("GET", path, headers=self._headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            raise unreachable(self._url, error) from error
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if answer.status not in {200, *accept} or not isinstance(found, dict):
            raise from_problem(answer.status, found, body.decode(errors="replace"))
        return found


def show(session: Session) -> int:
    """Show how Cloche is and return the exit code: 1 when it is not ready."""
    home = session.folder
    server = None if session.named_server else processes.running(home)
    url = server.url if server is not None else session.named_server
    if not url:
        session.output.record(
            {"running": False, "ready": False, "home": str(home)},
            [("status", "not running"), ("home", str(home)), ("start it", "cloche up -d")],
        )
        return exits.FAILURE
    with closing(Asked(url, token_of(session, server), session.project)) as asked:
        found = look(asked)
    found |= {"url": url, "pid": server.pid if server else None, "started": server.started if server else None}
    found["home"] = str(home) if server else None
    session.output.record(found, fields_of(found, server))
    return exits.OK if found["ready"] else exits.FAILURE


def token_of(session: Session, server: processes.Running | None) -> str:
    """Return the token for a server, None for the one that the user named. Raises `Unauthenticated` (`no_token`)."""
    if server is None:
        return find_endpoint(session.named_server, home=session.folder).token
    given = "" if session.home else os.environ.get("CLOCHE_TOKEN", "")
    return given or token_here(server)


def token_here(server: processes.Running) -> str:
    """Return the token that lies with a server of this machine, whatever the environment says."""
    file = Path(server.token_file)
    try:
        return file.read_text().strip()
    except OSError as error:
        raise Unauthenticated(
            "no_token", "There is no token for Cloche.", why=f"{file}: {error.strerror}.", todo="Set CLOCHE_TOKEN."
        ) from error


def look(asked: Asked) -> Document:
    """Return how a server is: ready or what fails, its version, active runs by status, services.

    Runs and services are None, which is unknown, where the server is not ready.
    """
    ready, version = asked.get("/readyz", 503), asked.get("/version")
    found: Document = {"running": True, "ready": ready.get("status") == "ok", "failing": ready.get("failing", {})}
    found |= {"version": version.get("version"), "installation": version.get("installation")}
    if not found["ready"]:
        return {**found, "runs": None, "more_runs": [], "services": None}
    pages = {name: asked.get(f"/api/v1/runs?status={name}&page_size={COUNTED}") for name in ACTIVE}
    runs = {name: len(_items(page)) for name, page in pages.items() if _items(page)}
    services = _items(asked.get(f"/api/v1/services?page_size={COUNTED}"))
    return {
        **found,
        "runs": runs,
        "more_runs": [name for name, page in pages.items() if page.get("next_page_token")],
        "services": {str(one["name"]): str(one["status"]) for one in services},
    }


def active_runs(asked: Asked) -> list[str]:
    """Return the ids of the runs that have not ended."""
    found: list[str] = []
    for name in ACTIVE:
        token: object = ""
        while token is not None:
            after = f"&page_token={token}" if token else ""
            page = asked.get(f"/api/v1/runs?status={name}&page_size={COUNTED}{after}")
            found.extend(str(one["id"]) for one in _items(page))
            token = page.get("next_page_token")
    return found


def _items(page: Document) -> list[Document]:
    found = page.get("items")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def fields_of(found: Document, server: processes.Running | None) -> list[tuple[str, str]]:
    """Return how a server is for people, as `look` found it."""
    pairs = [("status", "ready" if found["ready"] else f"not ready: {_listed(found['failing'])}")]
    pairs.append(("url", str(found["url"])))
    if server is not None:
        pairs.append(("process", f"{server.pid}, up for {age(server.started, datetime.now(UTC))}"))
        pairs += [("home", str(found["home"])), ("token", server.token_file)]
    pairs.append(("version", str(found["version"])))
    more = found["more_runs"]
    pairs.append(("active runs", _listed(found["runs"], more if isinstance(more, list) else [])))
    pairs.append(("services", _listed(found["services"])))
    return pairs


def _listed(table: object, more: "list[object] | tuple[()]" = ()) -> str:
    if table is None:
        return "unknown"
    found = table if isinstance(table, Mapping) else {}
    return ", ".join(f"{name} {value}{'+' if name in more else ''}" for name, value in found.items()) or "none"
