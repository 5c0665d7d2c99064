"""The supervisor on real processes: who lives, who dies, and what is proven of it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloche_runtime import procfs
from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.errors import Invalid
from cloche_shared.ports.executor import Limits, Process, ProcessSpec

FORK_A_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(3600)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.005)
os.write(1, b"daemon\\n")
exec(sys.argv[2])
"""

OWNER = """
import asyncio, sys
from pathlib import Path
from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.ports.executor import ProcessSpec

async def main():
    executor = LocalExecutor(Path(sys.argv[1]))
    argv = ["/bin/sh", "-c", "echo before; sleep 0.6; echo after; exit 7"]
    process = await executor.start(ProcessSpec("left", "owner", argv, Path("/"), {"PATH": "/usr/bin:/bin"}))
    await process.started()
    print(process.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[LocalExecutor]:
    executor = LocalExecutor(tmp_path / "executor")
    yield executor
    for process in await executor.adopt("owner"):
        await process.cancel(grace=0)
        await process.wait()
    await executor.close()


def python(code: str, *arguments: str, cwd: Path = Path("/"), limits: Limits | None = None) -> ProcessSpec:
    argv = [sys.executable, "-S", "-E", "-c", code, *arguments]
    return ProcessSpec("group", "owner", argv, cwd, {}, limits or Limits())


def lives(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.state != b"Z"


async def gone(pid: int) -> bool:
    for _ in range(200):
        if not lives(pid):
            return True
        await asyncio.sleep(0.01)
    return False


async def text(process: Process) -> bytes:
    return b"".join([chunk.data async for chunk in process.log()])


async def supervisor_of(executor_root: Path) -> int:
    state = json.loads((executor_root / "group" / "state.json").read_bytes())
    return int(state["supervisor"][0])


async def test_a_daemonised_grandchild_dies_with_its_program(executor: LocalExecutor, tmp_path: Path) -> None:
    process = await executor.start(python(FORK_A_DAEMON, str(tmp_path / "pid"), "os._exit(5)"))
    ended = await process.wait()
    assert (ended.ending, ended.code) == ("exited", 5)
    assert not lives(int((tmp_path / "pid").read_text()))


async def test_a_cancel_ends_the_stubborn_and_their_daemons(executor: LocalExecutor, tmp_path: Path) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"
    process = await executor.start(python(FORK_A_DAEMON, str(tmp_path / "pid"), code))
    await anext(aiter(process.log()))
    await process.cancel(grace=0.1)
    assert (await process.wait()).ending == "canceled"
    assert not lives(process.pid)
    assert not lives(int((tmp_path / "pid").read_text()))


async def test_memory_counts_children_too(executor: LocalExecutor) -> None:
    code = "import os, time; [os.fork() for _ in '12']; a = bytearray(30_000_000); time.sleep(3600)"
    process = await executor.start(python(code, limits=Limits(memory=90_000_000)))
    assert (await process.wait()).ending == "out_of_memory"


async def test_pages_that_processes_share_count_once(executor: LocalExecutor) -> None:
    code = "import os, time; a = bytearray(40_000_000); [os.fork() for _ in '12']; time.sleep(0.4)"
    process = await executor.start(python(code, limits=Limits(memory=90_000_000)))
    assert (await process.wait()).ending == "exited"


async def test_ten_megabytes_at_once_arrive_whole(executor: LocalExecutor) -> None:
    code = "import sys; sys.stdout.write(''.join('%09d\\n' % n for n in range(1_000_000)))"
    process = await executor.start(python(code))
    expected = b"".join(b"%09d\n" % n for n in range(1_000_000))
    assert await text(process) == expected
    assert (await process.wait()).log_bytes == len(expected)


async def test_stdout_and_stderr_keep_their_order(executor: LocalExecutor) -> None:
    process = await executor.start(python("import os; [os.write(1 + n % 2, b'%d\\n' % n) for n in range(100)]"))
    assert await text(process) == b"".join(b"%d\n" % n for n in range(100))


C_LIBRARY_SIGNALS = 0b11 << 31
"""Signals 32 and 33 belong to the C library; no program can set them, so they stay as this machine left them."""


async def test_a_program_finds_only_what_it_was_given(executor: LocalExecutor, tmp_path: Path) -> None:
    code = (
        "import os, json, signal; print(json.dumps([dict(os.environ), os.getcwd(), sorted(os.listdir('/proc/self/fd')),"
        "os.getpgid(0) == os.getpid(), os.read(0, 1).decode()])); print(open('/proc/self/status').read())"
    )
    env = {"A": "1", "Ü": "ö"}
    argv = [sys.executable, "-S", "-E", "-X", "utf8", "-c", code]
    process = await executor.start(ProcessSpec("group", "owner", argv, tmp_path, env))
    head, status = (await text(process)).split(b"\n", 1)
    found, cwd, descriptors, leads, stdin = json.loads(head)
    assert {key: value for key, value in found.items() if key != "LC_CTYPE"} == env
    assert (cwd, descriptors, leads, stdin) == (str(tmp_path), ["0", "1", "2", "3"], True, "")
    fields = dict(line.split(":\t", 1) for line in status.decode().splitlines() if ":\t" in line)
    ours = int(fields["SigIgn"], 16) & ~(1 << signal.SIGPIPE - 1) & ~(1 << signal.SIGXFSZ - 1)
    ours &= ~C_LIBRARY_SIGNALS
    assert (ours, int(fields["SigBlk"], 16)) == (0, 0)


async def test_a_program_may_say_itself_when_it_begins(executor: LocalExecutor) -> None:
    code = "import os, time; time.sleep(0.2); os.write(7, b'1'); os.close(7); os.write(1, b'begun'); time.sleep(3600)"
    argv = [sys.executable, "-S", "-E", "-c", code]
    process = await executor.start(ProcessSpec("group", "owner", argv, Path("/"), {"CLOCHE_STARTED_FD": "7"}))
    assert [chunk async for chunk in process.log(follow=False)] == []
    assert await process.started()
    assert (await anext(aiter(process.log()))).data == b"begun"


async def test_a_program_that_dies_before_it_says_so_never_began(executor: LocalExecutor) -> None:
    spec = ProcessSpec("group", "owner", ["/bin/sh", "-c", "exit 2"], Path("/"), {"CLOCHE_STARTED_FD": "3"})
    process = await executor.start(spec)
    assert not await process.started()
    ended = await process.wait()
    assert (ended.ending, ended.code, ended.started) == ("exited", 2, False)


async def test_a_working_folder_that_is_missing_is_named(executor: LocalExecutor, tmp_path: Path) -> None:
    process = await executor.start(python("0", cwd=tmp_path / "absent"))
    ended = await process.wait()
    assert ended.ending == "not_started"
    assert f"cannot enter the working folder {tmp_path}/absent" in ended.detail


async def test_a_signal_that_ends_the_program_is_reported(executor: LocalExecutor) -> None:
    process = await executor.start(python("import os; os.kill(os.getpid(), 11)"))
    ended = await process.wait()
    assert (ended.ending, ended.signal, ended.code) == ("signaled", 11, None)


async def test_a_killed_owner_leaves_a_group_that_the_next_adopts_whole(tmp_path: Path) -> None:
    root = tmp_path / "executor"
    with subprocess.Popen([sys.executable, "-c", OWNER, str(root)], stdout=subprocess.PIPE) as owner:  # noqa: ASYNC220 - a few ms
        assert owner.stdout is not None
        pid = int(await asyncio.to_thread(owner.stdout.readline))
        nursery = [one for one in procfs.descendants(owner.pid) if lives(one)]
        owner.kill()
    executor = LocalExecutor(root)
    (process,) = await executor.adopt("owner")
    assert (process.id, process.pid) == ("left", pid)
    assert await text(process) == b"before\nafter\n"
    assert (await process.wait()).code == 7
    assert all([await gone(one) for one in nursery])
    await executor.close()


async def test_a_killed_supervisor_is_lost_and_nothing_of_it_survives(executor: LocalExecutor, tmp_path: Path) -> None:
    process = await executor.start(python(FORK_A_DAEMON, str(tmp_path / "pid"), "time.sleep(3600)"))
    await anext(aiter(process.log()))
    daemon = int((tmp_path / "pid").read_text())
    await asyncio.sleep(1.2)
    os.kill(await supervisor_of(tmp_path / "executor"), signal.SIGKILL)
    ended = await process.wait()
    assert (ended.ending, ended.started, ended.log_bytes) == ("lost", True, 7)
    assert await gone(process.pid)
    assert await gone(daemon)


async def test_a_killed_nursery_is_replaced_and_its_groups_live(executor: LocalExecutor, tmp_path: Path) -> None:
    before = await executor.start(python("import time; time.sleep(3600)"))
    await before.started()
    nursery = procfs.stat(await supervisor_of(tmp_path / "executor"))
    assert nursery is not None
    os.kill(nursery.parent, signal.SIGKILL)
    assert await gone(nursery.parent)
    spec = ProcessSpec("other", "owner", ["/bin/sh", "-c", "exit 4"], Path("/"), {})
    assert (await (await executor.start(spec)).wait()).code == 4
    assert lives(before.pid)


async def test_a_supervisor_told_to_end_ends_its_group_as_lost(executor: LocalExecutor, tmp_path: Path) -> None:
    process = await executor.start(python("import time; time.sleep(3600)"))
    await process.started()
    os.kill(await supervisor_of(tmp_path / "executor"), signal.SIGTERM)
    ended = await process.wait()
    assert (ended.ending, ended.signal) == ("lost", 9)
    assert "SIGTERM" in ended.detail


async def test_a_folder_without_a_supervisor_was_never_started(executor: LocalExecutor, tmp_path: Path) -> None:
    folder = tmp_path / "executor" / "group"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"id": "group", "owner": "owner"}))
    (process,) = await executor.adopt("owner")
    ended = await process.wait()
    assert (ended.ending, ended.started) == ("not_started", False)


async def test_a_supervisor_that_fails_says_why_and_leaves_nothing(executor: LocalExecutor, tmp_path: Path) -> None:
    process = await executor.start(python("import time; time.sleep(3600)"))
    await process.started()
    folder = tmp_path / "executor" / "group"
    (folder / "exit.json").mkdir()
    await process.cancel(grace=0)
    await asyncio.sleep(0.3)
    (folder / "exit.json").rmdir()
    ended = await process.wait()
    assert ended.ending == "lost"
    assert "the supervisor failed: IsADirectoryError" in ended.detail
    assert not lives(process.pid)


async def test_nonsense_on_the_socket_hurts_nobody_else(executor: LocalExecutor, tmp_path: Path) -> None:
    process = await executor.start(python("import time; time.sleep(0.5)"))
    folder = os.open(tmp_path / "executor" / "group", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(f"/proc/self/fd/{folder}/sock")
        stranger.sendall(b'{"do": 3}\n[]\nnonsense\n')
    os.close(folder)
    assert (await process.wait()).code == 0


async def test_folders_are_private_and_ids_are_ours(executor: LocalExecutor, tmp_path: Path) -> None:
    process = await executor.start(python("print('hi')"))
    await process.wait()
    root = tmp_path / "executor"
    modes = {path.name: path.stat().st_mode & 0o077 for path in [root, *root.rglob("*")]}
    assert set(modes.values()) == {0}
    for name in ("", "../x", "A", "a/b", "a" * 129):
        with pytest.raises(Invalid):
            await executor.forget(name)


async def test_paths_longer_than_a_socket_name_are_no_trouble(tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path / ("long" * 40) / "executor")
    process = await executor.start(python("import time; time.sleep(3600)"))
    await executor.close()
    (process,) = await executor.adopt("owner")
    await process.cancel()
    assert (await process.wait()).ending == "canceled"
    await executor.close()


async def test_nothing_of_ours_is_left_when_all_is_over(tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path)
    await executor.warm()
    before = procfs.descendants(os.getpid())
    await (await executor.start(python("0"))).wait()
    await executor.close()
    assert all([await gone(one) for one in before])
    assert [one.pid for one in procfs.everything() if _belongs(one.pid, tmp_path)] == []


def _belongs(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


async def test_forgetting_at_once_leaves_nothing_behind(executor: LocalExecutor, tmp_path: Path) -> None:
    for _ in range(40):
        process = await executor.start(ProcessSpec("group", "owner", ["/bin/true"], Path("/"), {}))
        await process.wait()
        await executor.forget("group")
    await asyncio.sleep(0.1)
    assert list((tmp_path / "executor").iterdir()) == []
