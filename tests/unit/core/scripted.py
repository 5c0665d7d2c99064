"""A workspace whose server answers what a test says, and notes what it was asked."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from cloche._calls import Answer, Call
from cloche.core import Workspace

Said = Mapping[str, Any] | bytes | Callable[[Call], Answer]
ENDED = {"id": "r1", "status": "Completed", "experiment": "exp", "tags": {"a": "b"}, "snapshot": "sha256:1"}


@dataclass
class Scripted:
    """What stands for the connection: answers by method and path (`GET /runs/r1`)."""

    answers: dict[str, Said] = field(default_factory=dict)
    asked: list[Call] = field(default_factory=list)

    def send(self, call: Call) -> Answer:
        self.asked.append(call)
        path = call.path.removeprefix("/api/v1")
        said = self.answers.get(f"{call.method} {path}")
        if said is None:
            problem = {"code": "not_scripted", "what": f"Nobody answers {call.method} {path}."}
            return Answer(404, {}, orjson.dumps(problem)).checked(call)
        if callable(said):
            return said(call).checked(call)
        kind = "application/octet-stream" if isinstance(said, bytes) else "application/json"
        return Answer(200, {"content-type": kind}, said if isinstance(said, bytes) else orjson.dumps(said)).checked(
            call
        )

    def stream(self, call: Call) -> Iterator[bytes]:
        yield self.send(call).body

    def close(self) -> None:
        """Nothing is open."""

    def body(self, method: str, path: str) -> dict[str, Any]:
        """Return the last body of such a request."""
        found = [call.json for call in self.asked if (call.method, call.path) == (method, f"/api/v1{path}")]
        assert isinstance(found[-1], dict)
        return found[-1]


def problem(status: int, code: str, what: str = "No.") -> Callable[[Call], Answer]:
    """Return what answers with a problem."""
    return lambda _call: Answer(status, {}, orjson.dumps({"code": code, "what": what}))


def page(*items: Mapping[str, Any]) -> dict[str, Any]:
    """Return a page of a list."""
    return {"items": [*items], "next_page_token": None}


@contextmanager
def scripted(home: Path, **answers: Said) -> Iterator[tuple[Workspace, Scripted]]:
    """Yield a workspace and what stands for its connection."""
    ws = Workspace(url="http://127.0.0.1:9", token="t", home=home)
    ws.client.close()
    found = Scripted({"GET /version": {"installation": "i1"}, "GET /nodes": page({"id": "n1"}), **answers})
    ws.client._transport = found  # type: ignore[assignment] # the part of it that is used
    yield ws, found
