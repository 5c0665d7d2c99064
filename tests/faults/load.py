"""A bounded load on a cluster: clients that register, submit, cancel and deploy, and write down what they were told.

What is told is as in the simulation: `ok`, `fail`, or `unknown` where no answer, or none that says
anything, came. Who sent an Idempotency-Key asks again until the answer is known.
"""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx2

from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.http.conditions import RequestKey
from cloche_shared.store.hashing import manifest_bytes, sha256_digest
from tests.e2e.topology import Topology
from tests.simulation.record import Op

if TYPE_CHECKING:
    from collections.abc import Iterator

LATE_S: Final = 15.0
"""No request may be without an answer for longer, whatever fails; the services' own deadlines are below it."""
LONGEST_S: Final = 60.0
KNOWN_S: Final = 90.0
"""Seconds after the load within which everything that is asked again has to be answered."""
PROJECT: Final = "default"
WEIGHTS: Final = (4, 4, 1, 2)
"""How often clients register an environment, submit, cancel, and register a model."""
SCRIPT: Final = """
import os, sys, time

seconds, path = float(sys.argv[1]), sys.argv[2]
name = "run-%s-%s" % (os.environ["CLOCHE_RUN_ID"], os.environ["CLOCHE_RUN_ATTEMPT"])
end = time.monotonic() + seconds
with open(path, "a") as file:
    while True:
        now = time.monotonic()
        file.write("%s %d %.3f\\n" % (name, os.getpid(), now))
        file.flush()
        if now >= end:
            break
        time.sleep(0.05)
print("said", name)
"""
"""Writes down when it lived, so that two attempts that live together are seen."""
SCORE: Final = "import json\n\ndef init(): ...\n\ndef run(data): return json.loads(data)\n"
SMALL: Final = {"cpus": 0.1, "memory": 64 * 1024 * 1024, "gpus": 0, "gpu_kind": ""}


class UnknownError(Exception):
    """Nobody can say whether it was done."""


@dataclass
class Told:
    """What the load saw besides the operations: statuses, and answers that came late or were no problem of ours."""

    statuses: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def take(self, what: str, status: str, seconds: float) -> None:
        self.statuses[status] += 1
        self.slowest = max(self.slowest, seconds)
        if seconds > LATE_S:
            self.wrong.append(f"{what} was answered with {status} after {seconds:.1f} s")

    def counts(self) -> Counter[str]:
        """Return how many requests were put off (503), and how many were not answered at all."""
        kinds = (status.split()[0] for status in self.statuses.elements())
        names = (
            "requests put off" if kind == "503" else "requests unanswered" for kind in kinds if kind[0] not in "24"
        )
        return Counter(names)


@dataclass
class Load:
    """Clients at work on a cluster, and all that they were told since they were made."""

    topology: Topology
    lived: Path
    """Where the scripts write down when they lived."""
    seed: str = "load"
    ops: list[Op] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    snapshots: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _count: int = 0

    def prepare(self) -> None:
        """Send the code of runs and services, while everything is well; deploy one service."""
        with self._client() as rest:
            self.snapshots["runs"] = send_files(rest, "runs", {"train.py": SCRIPT.encode()})
            self.snapshots["services"] = send_files(rest, "services", {"score.py": SCORE.encode()})
        Worker(self, 0).deploy("scored")

    @contextmanager
    def going(self, clients: int = 3, *, pause: float = 0.5) -> "Iterator[None]":
        """Let clients work meanwhile; each answer that can be known is known afterwards."""
        stop = threading.Event()
        self._count += 1
        workers = [Worker(self, 100 * self._count + number, pause) for number in range(clients)]
        threads = [threading.Thread(target=worker.work, args=(stop,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(KNOWN_S + LONGEST_S)
        assert not any(thread.is_alive() for thread in threads), "a client waits for ever"

    def add(self, op: Op) -> None:
        with self._lock:
            self.ops.append(op)

    def accepted(self, kind: str) -> list[Op]:
        """Return what was accepted of a kind."""
        with self._lock:
            return [op for op in self.ops if op.kind == kind and op.told == "ok"]

    def counts(self) -> Counter[str]:
        """Return how many operations ended how."""
        names = {"ok": "acknowledged", "fail": "refused", "unknown": "unknown"}
        return Counter(names[op.told] for op in self.ops)

    def _client(self) -> httpx2.Client:
        return self.topology.rest()


class Worker:
    """One client."""

    def __init__(self, load: Load, number: int, pause: float = 0.5) -> None:
        self._load = load
        self._draw = random.Random(f"{load.seed}/{number}")
        self._number = number
        self._pause = pause
        self._until = float("inf")

    def work(self, stop: threading.Event) -> None:
        """Do one thing after the other until told to stop; then see what is not known yet."""
        chores = (self.register, self.submit, self.cancel, self.model)
        threading.Thread(target=self._end_of_patience, args=(stop,), daemon=True).start()
        while not stop.is_set():
            self._draw.choices(chores, WEIGHTS)[0]()
            stop.wait(self._draw.uniform(0.1, 2 * self._pause))

    def _end_of_patience(self, stop: threading.Event) -> None:
        stop.wait()
        self._until = time.monotonic() + KNOWN_S

    # --- what is asked

    def register(self, *, surely: bool = False) -> None:
        draw = self._draw
        definition = {
            "python": {"pip": [draw.choice(("alpha==1.0", "beta==2.0", "gamma==3.0"))]},
            "variables": {"COLOR": draw.choice(("red", "green"))},
        }
        args = {"project": PROJECT, "name": draw.choice(("sk", "torch")), "definition": definition}
        self.do("register", "/environments", {"name": args["name"], "definition": definition}, args, surely=surely)

    def submit(self, seconds: float | None = None, *, surely: bool = False, **more: Any) -> Op:
        lasting = self._draw.choice((0.0, 0.2, 1.0, 2.0)) if seconds is None else seconds
        spec = {
            "script": "train.py",
            "arguments": [str(lasting), str(self._load.lived)],
            "snapshot": self._load.snapshots["runs"],
            "resources": SMALL,
            "grace": 1.0,
        }
        return self.do("submit", "/runs", {**spec, **more}, {"project": PROJECT, "spec": spec}, surely=surely)

    def cancel(self) -> None:
        runs = self._load.accepted("submit")
        if runs:
            run_id = self._draw.choice(runs[-5:]).result["id"]
            self.do("cancel", f"/runs/{run_id}/cancel", None, {"project": PROJECT, "id": run_id})

    def model(self, *, surely: bool = False) -> None:
        """Send a file and its manifest, and register them: that goes to every store."""
        content = f"{self._number} {self._draw.random()}".encode()
        with self._load.topology.rest() as rest:
            try:
                manifest = send_files(rest, "models", {"model.pkl": content}, self._load.told)
            except UnknownError:
                return
        body = {"name": "model", "manifest": manifest}
        self.do("model", "/models", body, {"project": PROJECT, **body}, surely=surely)

    def deploy(self, name: str) -> Op:
        body = {
            "name": name,
            "entry_script": "score.py",
            "snapshot": self._load.snapshots["services"],
            "resources": SMALL,
        }
        return self.do("deploy", "/services", body, {"project": PROJECT, "name": name}, surely=True)

    # --- how it is asked

    def do(self, kind: str, path: str, body: object, args: Mapping[str, Any], *, surely: bool = False) -> Op:
        """Ask until the answer is known (with a key), or once (without); sometimes ask again afterwards."""
        key = uuid.uuid4().hex if surely or self._draw.random() < 0.7 else ""
        op = Op(kind, {**args, "request": RequestKey(key).request_id(PROJECT)})
        self._load.add(op)
        self._settle(op, path, body, key)
        if key and op.told != "unknown" and self._draw.random() < 0.15:
            again = Op(kind, op.args)
            self._load.add(again)
            self._settle(again, path, body, key)
        return op

    def _settle(self, op: Op, path: str, body: object, key: str) -> None:
        while True:
            try:
                status, answer = self._once(op.kind, path, body, key)
            except UnknownError:
                if not key or time.monotonic() > self._until:
                    return
                time.sleep(self._draw.uniform(0.2, 1.0))
                continue
            op.result = result_of(op.kind, answer) if status < 400 else {"code": answer.get("code", "")}
            op.told = "ok" if status < 400 else "fail"
            return

    def _once(self, kind: str, path: str, body: object, key: str) -> tuple[int, Any]:
        headers = {"idempotency-key": key} if key else {}
        with self._load.topology.rest() as rest:
            answer = asked(rest, self._load.told, "POST", f"/api/v1{path}", json=body, headers=headers)
        return answer.status_code, answer.json() if answer.content else {}


def asked(rest: httpx2.Client, told: Told, method: str, path: str, **options: Any) -> httpx2.Response:
    """Ask once and note how it went. Raises `UnknownError` where the answer does not say what was done."""
    began = time.monotonic()
    try:
        answer = rest.request(method, path, timeout=LONGEST_S, **options)
    except httpx2.TransportError as error:
        told.take(f"{method} {path}", type(error).__name__, time.monotonic() - began)
        raise UnknownError from error
    code = answer.json().get("code", "") if answer.status_code >= 500 and answer.content else ""
    told.take(f"{method} {path}", f"{answer.status_code} {code}".strip(), time.monotonic() - began)
    if answer.status_code == 503 and "retry-after" not in answer.headers:
        told.wrong.append(f"{method} {path} was answered with 503 {code} without Retry-After")
    if answer.status_code >= 500 and answer.status_code != 503:
        told.wrong.append(f"{method} {path} was answered with {answer.status_code} {code}")
    if answer.status_code >= 500 or answer.status_code == 429:
        raise UnknownError
    return answer


def send_files(rest: httpx2.Client, area: str, files: Mapping[str, bytes], told: Told | None = None) -> str:
    """Send files with their manifest and return its digest. Raises `UnknownError`."""
    entries = tuple(
        FileEntry(path=path, digest=sha256_digest(data), size=len(data)) for path, data in sorted(files.items())
    )
    manifest = manifest_bytes(Manifest(files=entries))
    for data in (*files.values(), manifest):
        path = f"/api/v1/files/{area}/{sha256_digest(data)}"
        answer = asked(rest, told or Told(), "PUT", path, content=data)
        assert answer.status_code in {200, 201}, (path, answer.status_code, answer.text)
    return sha256_digest(manifest)


def result_of(kind: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the checker compares of an answer."""
    if kind in {"register", "model"}:
        return {"version": int(answer["version"])}
    return {"id": answer["id"]} if kind == "submit" else {}
