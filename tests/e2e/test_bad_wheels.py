"""Wheels that break the format or attack the machine fail their build with their name; nothing leaves its place."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cloche import Client
from tests.e2e.packages import ThreadedIndex, threaded_index
from tests.e2e.problems import failed
from tests.e2e.steps import Names
from tests.e2e.topology import PATIENCE
from tests.environments.bad_wheels import BAD_WHEELS, GOOD

FILENAME = "alpha-1.0-py3-none-any.whl"
CASES = {"good": ("", GOOD), **BAD_WHEELS}
TOGETHER = 4
"""Builds that one test starts at a time."""


class WheelIndex:
    """Offers each wheel of the corpus as `alpha` 1.0, at an index of its own."""

    def __init__(self, index: ThreadedIndex) -> None:
        self._index = index
        self._wheels = {str(number): wheel for number, (_, wheel) in enumerate(CASES.values())}
        index.answer = self.answer  # type: ignore[method-assign, assignment]  # another content, the same server

    def url(self, case: str) -> str:
        return self._index.url.replace("/simple", f"/{list(CASES).index(case)}/simple")

    def answer(self, path: str, _authorization: str) -> tuple[int, bytes]:
        wheel = self._wheels[path.split("/")[1]]
        if path.endswith(".whl"):
            return 200, wheel
        hashes = {"sha256": hashlib.sha256(wheel).hexdigest()}
        file = {"filename": FILENAME, "url": f"../../{FILENAME}", "hashes": hashes, "size": len(wheel)}
        return 200, json.dumps({"meta": {"api-version": "1.0"}, "name": "alpha", "files": [file]}).encode()


@pytest.fixture(scope="module")
def wheels() -> Iterator[WheelIndex]:
    with threaded_index() as index:
        yield WheelIndex(index)


def built(client: Client, name: str, url: str) -> str:
    section = {"pip": ["alpha"], "pip_options": {"index_url": url}}
    return client.builds.start({"name": name, "definition": {"python": section}}).id


def test_a_wheel_as_it_should_be_is_taken(client: Client, wheels: WheelIndex, unique: Names) -> None:
    build = built(client, unique("wheel"), wheels.url("good"))
    assert client.builds.wait(build, timeout=PATIENCE).status == "Completed"


@pytest.mark.parametrize("start", range(0, len(BAD_WHEELS), TOGETHER))
def test_a_bad_wheel_fails_its_build_and_is_named(
    client: Client, wheels: WheelIndex, unique: Names, start: int
) -> None:
    cases = list(BAD_WHEELS)[start : start + TOGETHER]
    started = {case: built(client, unique("wheel"), wheels.url(case)) for case in cases}
    for case, build_id in started.items():
        build: Any = client.builds.wait(build_id, timeout=PATIENCE)
        assert build.status == "Failed", case
        code = build.problem.code
        assert code in {BAD_WHEELS[case][0], "invalid_wheel"}, case  # uv reads some of them itself, and refuses first
        told = failed(build.problem, code, names="The wheel of alpha")
        assert told["extra"]["package"] == "alpha", case
        assert code in "".join(client.builds.log(build_id)), case
