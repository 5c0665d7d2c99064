"""What runs under the guard ends with whoever started it."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloche_shared.adapters import uv_guard

GUARD = str(uv_guard.__file__)
OWNER = """
import subprocess, sys
argv = [sys.executable, "-I", "-S", "-B", *sys.argv[1:]]
child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def living(group: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


async def test_the_whole_group_ends_when_the_owner_is_killed() -> None:
    program = ["/bin/sh", "-c", "sleep 60 & sleep 60"]
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, GUARD, *program, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    group = int(await owner.stdout.readline())
    for _ in range(500):
        if len(living(group)) >= 4:
            break
        await asyncio.sleep(0.01)
    assert len(living(group)) >= 4
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    for _ in range(500):
        if not living(group):
            break
        await asyncio.sleep(0.01)
    assert living(group) == []


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("exit 0", 0)])
def test_the_exit_status_is_passed_on(script: str, status: int) -> None:
    argv = [sys.executable, "-I", "-S", "-B", GUARD, "/bin/sh", "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.wait() == status
