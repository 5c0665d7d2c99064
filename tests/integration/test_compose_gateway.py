"""What passes through the one address: streams as they come, large files without being held, the one document."""

import hashlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx2
import pytest

from tests.environments.compose import Composed

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

MIB = 1 << 20
LARGE = 300 * MIB
HELD = 64 * MIB
PATIENT = "import time\nfor n in range(600):\n    print('tick', n, flush=True)\n    time.sleep(0.5)\n"


@pytest.fixture
def client(composed_once: Composed) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {composed_once.token}"}
    with httpx2.Client(base_url=f"{composed_once.url}/api/v1", headers=headers, timeout=120) as found:
        yield found


def chunks() -> Iterator[bytes]:
    """A file that nobody has to hold; no two of its parts are alike."""
    for number in range(LARGE // MIB):
        yield number.to_bytes(8, "big") * (MIB // 8)


class Highest:
    """The most memory that a container had while the block ran, files in memory included."""

    def __init__(self, project: Composed, service: str) -> None:
        self._container = project.container(service)
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self.bytes = 0

    def _now(self) -> int:
        return int(self._container.stats(stream=False, one_shot=True)["memory_stats"]["usage"])

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.bytes = max(self.bytes, self._now())

    def __enter__(self) -> Self:
        self.bytes = self._now()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()


def test_a_large_file_passes_without_being_held(composed_once: Composed, client: httpx2.Client) -> None:
    digest = hashlib.sha256()
    for chunk in chunks():
        digest.update(chunk)
    where = f"/files/runs/sha256:{digest.hexdigest()}"
    with Highest(composed_once, "gateway") as gateway, Highest(composed_once, "runner") as runner:
        before = gateway.bytes, runner.bytes
        answer = client.put(where, content=chunks())
        assert (answer.status_code, answer.json()["size"]) == (201, LARGE), answer.text
        with client.stream("GET", where) as back:
            assert sum(len(piece) for piece in back.iter_bytes()) == LARGE
    assert gateway.bytes - before[0] < HELD
    assert runner.bytes - before[1] < 2 * HELD


def test_a_log_comes_line_by_line_while_its_run_goes_on(
    composed_once: Composed, client: httpx2.Client, tmp_path: Path
) -> None:
    script = tmp_path / "patient.py"
    script.write_text(PATIENT)
    composed_once.cloche("env", "register", "bare", "--empty")
    told = composed_once.cloche("submit", str(script), "--env", "bare", "--name", tmp_path.name, "--json")
    found = re.search(r'"id": ?"([0-9a-f-]{36})"', told)
    assert found is not None, told
    name = found[1]
    with client.stream("GET", f"/runs/{name}/log", params={"follow": "true"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = [line for line, _ in zip((one for one in answer.iter_lines() if "tick" in one), range(3), strict=False)]
        assert client.get(f"/runs/{name}").json()["status"] == "Running"
    composed_once.cloche("stop", name)
    assert len(seen) == 3


def test_a_document_that_is_served_is_the_one_that_was_made_with_the_code(composed_once: Composed) -> None:
    made = (Path(__file__).parents[2] / "sdk" / "cloche" / "openapi.json").read_bytes()
    assert httpx2.get(f"{composed_once.url}/openapi.json").content == made
