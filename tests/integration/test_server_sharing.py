"""Servers in containers are shared by the runs that need them and gone after the last one, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docker.errors import NotFound

from tests.environments import build, engine
from tests.environments.catalogue import ROLES
from tests.environments.fixtures import Start
from tests.environments.places import NotPossible

# Each starts interpreters that start containers, beside the other tests of this machine.
pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[2]
RUN = """
import sys
from tests.environments import sharing
print(sharing.acquire("s3", sharing.this_owner()).container, flush=True)
sys.stdin.readline()
sharing.release(sharing.this_owner())
"""
SUITE = """
def test_it_answers(one_s3_server):
    assert one_s3_server.handle().status == "running"
    print(one_s3_server.container)
"""


@pytest.fixture
def apart(tmp_path: Path) -> dict[str, str]:
    """The environment of runs that share servers among themselves and with nobody else."""
    try:
        client = engine.client()
    except NotPossible as error:
        pytest.skip(str(error))
    if not build.found(client, ROLES["s3"]):
        pytest.skip("There is no image for s3: run `make environments`.")
    left_out = {"PYTEST_XDIST_WORKER"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "CLOCHE_TEST_CACHE": str(tmp_path / "cache"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@contextmanager
def run(environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that uses the shared server until it is told to end; with the container's id."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.communicate("\n", timeout=30)


def exists(container: str) -> bool:
    try:
        engine.client().containers.get(container)
    except NotFound:
        return False
    return True


def gone_within(seconds: float, container: str) -> bool:
    deadline = time.monotonic() + seconds
    while exists(container):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_two_runs_share_a_server_and_the_last_one_takes_it_away(apart: dict[str, str]) -> None:
    with run(apart) as (_, first):
        with run(apart) as (_, second):
            assert first == second
        assert exists(first)
    assert not exists(first)


def test_a_server_goes_when_its_only_run_is_killed(apart: dict[str, str]) -> None:
    with run(apart) as (process, container):
        process.send_signal(signal.SIGKILL)
        assert gone_within(20, container)


def test_a_suite_leaves_no_container(apart: dict[str, str], tmp_path: Path) -> None:
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    options = ["-p", "tests.environments.fixtures", "-p", "no:cacheprovider", "-s", "-q", f"--rootdir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, suite],
        cwd=ROOT,
        env=apart,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    container = next(line for line in done.stdout.split() if len(line.strip(".")) == 64).strip(".")
    assert not exists(container)


def test_a_server_for_one_test_keeps_its_address_when_it_is_killed_and_started(own_server: Start) -> None:
    server = own_server("s3")
    handle = server.handle()
    before = handle.attrs["NetworkSettings"]["Ports"]
    handle.kill()
    handle.start()
    handle.reload()
    assert handle.attrs["NetworkSettings"]["Ports"] == before


def test_without_an_engine_the_reason_says_what_to_do(apart: dict[str, str], tmp_path: Path) -> None:
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    nowhere = {**apart, "DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"}
    options = ["-p", "tests.environments.fixtures", "-p", "no:cacheprovider", "-rs", "-q", f"--rootdir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, suite],
        cwd=ROOT,
        env=nowhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "make environments" in done.stdout
    assert "1 skipped" in done.stdout
