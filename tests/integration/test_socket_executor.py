"""The executor as a process of its own: what its end and its service's end mean for the groups."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloche_runtime import procfs
from cloche_shared.adapters.socket_executor import SocketExecutor, link
from cloche_shared.errors import Conflict, Invalid, Unavailable
from cloche_shared.ports.executor import Process, ProcessSpec
from tests.integration.executor_processes import MODULE, Executors, as_user, needs_root, sh, volume

SERVICE = """
import asyncio, sys
from pathlib import Path
from cloche_shared.adapters.socket_executor import SocketExecutor
from cloche_shared.ports.executor import ProcessSpec

async def main():
    executor = SocketExecutor(Path(sys.argv[1]), "runner")
    argv = ["/bin/sh", "-c", "echo before; sleep 0.6; echo after; exit 7"]
    process = await executor.start(ProcessSpec("left", "runner", argv, Path("/"), {"PATH": "/usr/bin:/bin"}))
    await process.started()
    print(process.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""

LOOK = """
import glob, json, os
found = []
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        found.append(open(path, "rb").read())
    except OSError:
        pass
print(json.dumps([dict(os.environ), sum(b"EXECUTORS_CANARY" in one for one in found)]))
"""


@pytest.fixture
def executors(tmp_path: Path) -> Iterator[Executors]:
    found = Executors(tmp_path)
    yield found
    found.close()


@pytest.fixture
async def runner(executors: Executors) -> AsyncIterator[SocketExecutor]:
    executor = SocketExecutor(executors.socket, "runner", patience=2.0)
    yield executor
    await executor.close()


async def text(process: Process, *, follow: bool = True) -> bytes:
    return b"".join([chunk.data async for chunk in process.log(follow=follow)])


async def begun(process: Process) -> None:
    """Return when a program said something."""
    await anext(aiter(process.log()))


# --- the service ends


async def test_a_killed_service_leaves_its_groups_to_the_next(executors: Executors, runner: SocketExecutor) -> None:
    executors.start()
    argv = [sys.executable, "-c", SERVICE, str(executors.socket)]
    service = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert service.stdout is not None
    pid = int(await service.stdout.readline())
    service.kill()
    await service.communicate()
    (left,) = await runner.adopt("runner")
    assert left.pid == pid
    assert (await left.wait()).code == 7
    assert await text(left) == b"before\nafter\n"


async def test_owners_see_and_end_only_their_own(executors: Executors, runner: SocketExecutor) -> None:
    executors.start()
    deployer = SocketExecutor(executors.socket, "deployer")
    mine, other = await runner.start(sh("sleep 60")), await deployer.start(sh("exit 4", owner="deployer"))
    assert (await other.wait()).code == 4
    await deployer.forget("group")
    assert [one.id for one in await runner.adopt("runner")] == ["group"]
    with pytest.raises(Conflict, match="still lives"):
        await runner.forget("group")
    with pytest.raises(Invalid):
        await runner.start(sh("exit", owner="deployer"))
    await mine.cancel(grace=0)
    await mine.wait()
    await deployer.close()


# --- the executor ends


async def test_without_an_executor_nothing_can_be_started(executors: Executors, runner: SocketExecutor) -> None:
    with pytest.raises(Unavailable, match="Nobody answers at") as caught:
        await runner.start(sh("exit"))
    assert caught.value.code == "executor_unavailable"
    assert "container" in caught.value.todo
    assert await runner.check() is not None
    executors.start()
    assert await runner.check() is None
    assert (await (await runner.start(sh("exit 3"))).wait()).code == 3


async def test_a_start_waits_for_an_executor_that_is_restarted(executors: Executors) -> None:
    runner = SocketExecutor(executors.socket, "runner", patience=20.0)
    starting = asyncio.create_task(runner.start(sh("exit 3")))
    await asyncio.sleep(0.2)
    assert not starting.done()
    await asyncio.to_thread(executors.start)
    assert (await (await starting).wait()).code == 3
    await runner.close()


async def test_a_stopped_executor_ends_its_groups_as_lost(executors: Executors, runner: SocketExecutor) -> None:
    executor = executors.start()
    process = await runner.start(sh("echo here; sleep 60"))
    await begun(process)
    executor.terminate()
    ended = await process.wait()
    assert (ended.ending, ended.started, ended.log_bytes) == ("lost", True, 5)
    assert "SIGTERM" in ended.detail
    assert await asyncio.to_thread(executor.wait, 10) == 0
    assert not executors.socket.exists()
    assert procfs.stat(process.pid) is None


@needs_root
async def test_a_killed_executor_loses_its_groups_and_the_next_has_their_logs(
    executors: Executors, runner: SocketExecutor
) -> None:
    executors.before = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    executors.start()
    process = await runner.start(sh("echo kept; sleep 60"))
    await begun(process)
    executors.kill()
    executors.start()
    ended = await process.wait()
    assert (ended.ending, ended.started, ended.log_bytes) == ("lost", True, 5)
    assert await text(process) == b"kept\n"
    assert [one.id for one in await runner.adopt("runner")] == ["group"]
    assert (await (await runner.start(sh("exit 9", process_id="next"))).wait()).code == 9
    await runner.forget("group")


async def test_groups_that_outlive_their_executor_go_on(executors: Executors, runner: SocketExecutor) -> None:
    executors.start()
    process = await runner.start(sh("echo before; sleep 1; echo after; exit 5"))
    reading = asyncio.create_task(text(process))
    await begun(process)
    executors.kill()
    executors.start()
    assert (await process.wait()).code == 5
    assert await reading == b"before\nafter\n"


async def test_a_cancel_reaches_the_next_executor(executors: Executors, runner: SocketExecutor) -> None:
    executors.start()
    process = await runner.start(sh("echo here; sleep 60"))
    await begun(process)
    executors.kill()
    await process.cancel(grace=1.0)
    executors.start()
    assert (await process.wait()).ending == "canceled"


async def test_without_an_executor_for_long_groups_are_lost_and_ended_later(executors: Executors) -> None:
    executors.start()
    runner = SocketExecutor(executors.socket, "runner", patience=0.3)
    process = await runner.start(sh("echo here; sleep 60"))
    await begun(process)
    pid = process.pid
    executors.kill()
    ended = await process.wait()
    assert (ended.ending, ended.started) == ("lost", True)
    assert "cannot be reached" in ended.detail
    assert await text(process, follow=False) == b""
    with pytest.raises(Unavailable):
        await runner.forget("group")
    executors.start()
    await runner.forget("group")
    assert procfs.stat(pid) is None
    assert await runner.adopt("runner") == []
    await runner.close()


async def test_a_grant_is_waited_for_before_a_group_counts_as_lost(executors: Executors) -> None:
    executors.start()
    runner = SocketExecutor(executors.socket, "runner", patience=0.1)
    process = await runner.start(sh("echo here; sleep 60"))
    await begun(process)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await process.grant(1.0)
    executors.kill()
    assert (await process.wait()).ending == "lost"
    assert loop.time() - began >= 2.0
    assert procfs.stat(process.pid) is None
    await runner.close()


async def test_a_frozen_executor_is_as_good_as_none(executors: Executors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(link, "GREETING_S", 1.0)
    executor = executors.start()
    runner = SocketExecutor(executors.socket, "runner", patience=1.0)
    process = await runner.start(sh("echo here; sleep 60"))
    await begun(process)
    executor.send_signal(signal.SIGSTOP)
    assert (await process.wait()).ending == "lost"
    with pytest.raises(Unavailable):
        await runner.start(sh("exit", process_id="other"))
    executor.send_signal(signal.SIGCONT)
    async with asyncio.timeout(10):
        while await runner.check() is not None:  # noqa: ASYNC110 - another process gives no event
            await asyncio.sleep(0.05)
    await runner.forget("group")
    await runner.close()


async def test_only_one_executor_has_a_root(executors: Executors) -> None:
    executors.start()
    argv = [sys.executable, "-m", MODULE, "--socket", str(executors.folder / "other"), "--root", str(executors.root)]
    second = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=20, check=False)
    assert (second.returncode, "Another executor uses" in second.stderr) == (1, True)


async def test_health_is_asked_without_being_let_in(executors: Executors) -> None:
    executors.more = ["--client", "runner=12345"]
    argv = [sys.executable, "-m", MODULE, "--check", "--socket", str(executors.socket)]
    assert (await asyncio.to_thread(subprocess.run, argv, timeout=20, check=False)).returncode == 1
    executors.start()
    assert (await asyncio.to_thread(subprocess.run, argv, timeout=20, check=False)).returncode == 0


# --- what programs find


async def test_a_program_sees_nothing_of_its_executors_variables(executors: Executors, runner: SocketExecutor) -> None:
    executor = executors.start(env={"EXECUTORS_CANARY": "4711"})
    spec = ProcessSpec("look", "runner", [sys.executable, "-S", "-E", "-c", LOOK], Path("/"), {"ONLY": "this"})
    process = await runner.start(spec)
    environment, leaks = json.loads(await text(process))
    environment.pop("LC_CTYPE", None)  # Python's own, for the C locale
    assert (environment, leaks) == ({"ONLY": "this"}, 0)
    assert b"CANARY" not in Path(f"/proc/{executor.pid}/environ").read_bytes()


async def test_a_slow_reader_holds_back_nobody(executors: Executors, runner: SocketExecutor) -> None:
    executors.start()
    loud = await runner.start(sh("head -c 30000000 /dev/zero", process_id="loud"))
    slow = aiter(loud.log())
    first = await anext(slow)
    assert (await loud.wait()).log_bytes == 30_000_000
    quiet = [await runner.start(sh(f"echo {at}", process_id=f"quiet-{at}")) for at in range(20)]
    said = await asyncio.gather(*(text(one) for one in quiet))
    assert said == [f"{at}\n".encode() for at in range(20)]
    rest = [len(chunk.data) async for chunk in slow]
    assert len(first.data) + sum(rest) == 30_000_000
    assert max(rest) <= 256 * 1024


@pytest.fixture
def contained() -> Iterator[Executors]:
    with volume(64000, ("executor", 64001), ("scratch", 0)) as folder:
        found = Executors(folder / "executor", more=["--client", "runner=0"])
        found.before = as_user(64001, 64000, folder / "scratch", contained=True)
        yield found
        found.close()


@needs_root
async def test_as_first_process_the_executor_reaps_what_is_left_behind(contained: Executors) -> None:
    executor = procfs.descendants(contained.start().pid)[0]
    runner = SocketExecutor(contained.socket, "runner")
    process = await runner.start(sh("sleep 0.5; exit 6"))
    (nursery,) = (pid for pid in procfs.descendants(executor) if _is_child(pid, executor))
    os.kill(nursery, signal.SIGKILL)
    assert (await process.wait()).code == 6
    assert (await (await runner.start(sh("exit 8", process_id="next"))).wait()).code == 8
    await asyncio.sleep(0.2)
    below = [procfs.stat(pid) for pid in procfs.descendants(executor)]
    assert [one.state for one in below if one is not None and one.state == b"Z"] == []
    await runner.close()


def _is_child(pid: int, parent: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.parent == parent
