"""A backup is refused while a server that writes to a volume still runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from cloche_shared.adapters.volumes_at_rest import main

HOLD = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for name, lock in (("kafka", "logs/.lock"), ("mongo", "mongod.lock"), ("s3", "file")):
        file = tmp_path / name / lock
        file.parent.mkdir(parents=True)
        file.touch()
    return tmp_path


@pytest.mark.parametrize(("volume", "lock"), [("kafka", "logs/.lock"), ("mongo", "mongod.lock")])
def test_a_volume_whose_server_runs_is_named_until_it_ends(
    volumes: Path, capsys: pytest.CaptureFixture[str], volume: str, lock: str
) -> None:
    holder = [sys.executable, "-c", HOLD, str(volumes / volume / lock)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"held\n"
        assert main([str(volumes)]) == 1
        told = capsys.readouterr()
        assert f"still running: {volume}." in told.err
        assert "docker compose stop" in told.err
        assert told.out == ""
        server.kill()
    assert main([str(volumes)]) == 0


def test_volumes_that_nobody_uses_are_at_rest(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(volumes)]) == 0
    assert capsys.readouterr().err == ""
