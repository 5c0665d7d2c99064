"""What every executor promises: on real processes, over a socket, and on the simulated machine."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.adapters.memory_executor import CannotStart, Life, MemoryExecutor, MemoryMachine, Program
from cloche_shared.adapters.socket_executor import SocketExecutor
from cloche_shared.adapters.socket_executor.server import Rules, Server
from cloche_shared.errors import Conflict
from cloche_shared.ports.executor import Limits, LogChunk, Process, ProcessSpec

AnyExecutor = MemoryExecutor | LocalExecutor | SocketExecutor


async def _exits_3(life: Life) -> int:
    life.begin()
    life.say(b"hello\n")
    return 3


async def _sleeps(life: Life) -> int:
    life.begin()
    life.say(b"ready\n")
    await asyncio.sleep(3600)
    return 0


async def _stubborn(life: Life) -> int:
    life.stubborn = True
    return await _sleeps(life)


async def _says_in_parts(life: Life) -> int:
    life.begin()
    for part in (b"one\n", b"two\n", b"three"):
        life.say(part)
        await asyncio.sleep(0.05)
    return 0


async def _tells_a_secret(life: Life) -> int:
    life.begin()
    for part in (b"key=hun", b"ter2 and hunter", b"2hunter2 or hunt\n"):
        life.say(part)
        await asyncio.sleep(0.02)
    return 0


async def _floods(life: Life) -> int:
    life.begin()
    life.say(b"x" * 100_000)
    return 0


async def _is_a_hog(life: Life) -> int:
    life.begin()
    life.use(10**12)
    await asyncio.sleep(3600)
    return 0


async def _is_no_program(life: Life) -> int:
    raise CannotStart(f"cannot start {life.spec.argv[0]}: No such file or directory")


_OUT = "import os,time,signal; w=lambda b: os.write(1,b); "
PROGRAMS: Mapping[str, tuple[Program, str]] = {
    "exits": (_exits_3, _OUT + "w(b'hello\\n'); os._exit(3)"),
    "sleeps": (_sleeps, _OUT + "w(b'ready\\n'); time.sleep(3600)"),
    "stubborn": (_stubborn, _OUT + "signal.signal(15, signal.SIG_IGN); w(b'ready\\n'); time.sleep(3600)"),
    "parts": (_says_in_parts, _OUT + "[(w(b), time.sleep(.05)) for b in (b'one\\n', b'two\\n', b'three')]"),
    "secret": (
        _tells_a_secret,
        _OUT + "[(w(b), time.sleep(.02)) for b in (b'key=hun', b'ter2 and hunter', b'2hunter2 or hunt\\n')]",
    ),
    "floods": (_floods, "import sys; sys.stdout.write('x' * 100_000)"),
    "hog": (_is_a_hog, "import time; a = bytearray(200_000_000); time.sleep(3600)"),
}


@dataclass
class Stage:
    """A machine, executors on it, and specs for the same programs on either kind."""

    make: Callable[[], AnyExecutor]
    cwd: Path

    def spec(self, program: str, *, limits: Limits | None = None, redact: tuple[str, ...] = ()) -> ProcessSpec:
        code = PROGRAMS[program][1] if program in PROGRAMS else ""
        argv = [sys.executable, "-S", "-E", "-c", code] if code else [f"/absent/{program}"]
        return ProcessSpec(f"p-{program}", "owner", argv, self.cwd, {"PROGRAM": program}, limits or Limits(), redact)


@pytest.fixture(params=["memory", "local", "socket"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    machine = MemoryMachine(lambda spec: PROGRAMS.get(spec.env["PROGRAM"], (_is_no_program, ""))[0])
    server = Server(Rules(tmp_path / "executor.sock", tmp_path / "executor"))
    executors: list[AnyExecutor] = []
    kinds: Mapping[str, Callable[[], AnyExecutor]] = {
        "memory": lambda: MemoryExecutor(machine),
        "local": lambda: LocalExecutor(tmp_path / "executor"),
        "socket": lambda: SocketExecutor(tmp_path / "executor.sock", "owner"),
    }

    def make() -> AnyExecutor:
        executors.append(kinds[request.param]())
        return executors[-1]

    if request.param == "socket":
        await server.start()
    yield Stage(make, tmp_path)
    last = make()
    for process in await last.adopt("owner"):
        await process.cancel(grace=0)
        await process.wait()
    for executor in executors:
        await executor.close()
    if request.param == "socket":
        await server.stop(5.0)


@pytest.fixture
def executor(stage: Stage) -> AnyExecutor:
    return stage.make()


async def everything(process: Process, offset: int = 0) -> bytes:
    return b"".join([chunk.data async for chunk in process.log(offset)])


async def test_an_exit_code_and_the_log_are_reported(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("exits"))
    assert await process.started()
    ended = await process.wait()
    assert (ended.ending, ended.code, ended.signal, ended.started) == ("exited", 3, None, True)
    assert await everything(process) == b"hello\n"
    assert (ended.log_bytes, ended.log_dropped) == (6, 0)


async def test_the_end_is_told_to_several_and_again(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("exits"))
    first, second = await asyncio.gather(process.wait(), process.wait())
    assert first == second == await process.wait()


async def test_what_cannot_be_executed_is_not_started_and_says_why(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("nothing"))
    assert not await process.started()
    ended = await process.wait()
    assert (ended.ending, ended.code, ended.started) == ("not_started", None, False)
    assert "cannot start /absent/nothing: No such file" in ended.detail


async def test_a_cancel_ends_by_sigterm(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("sleeps"))
    await process.started()
    await process.cancel()
    ended = await process.wait()
    assert (ended.ending, ended.signal, ended.code) == ("canceled", 15, None)
    await process.cancel()


async def test_a_cancel_kills_after_the_grace(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("stubborn"))
    await anext(aiter(process.log()))
    await process.cancel(grace=0.1)
    ended = await process.wait()
    assert (ended.ending, ended.signal) == ("canceled", 9)
    assert ended.wall_seconds >= 0.1


async def test_a_deadline_ends_what_runs_too_long(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("sleeps", limits=Limits(deadline=0.2)))
    ended = await process.wait()
    assert (ended.ending, ended.signal) == ("deadline", 15)
    assert 0.2 <= ended.wall_seconds < 5


async def test_memory_over_the_limit_is_named(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("hog", limits=Limits(memory=60_000_000)))
    ended = await process.wait()
    assert (ended.ending, ended.signal) == ("out_of_memory", 9)
    assert ended.peak_memory > 60_000_000


async def test_a_group_ends_when_its_grant_runs_out(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("stubborn"))
    await process.grant(30)
    await process.grant(0.2)
    assert (await process.wait()).ending == "orphaned"


async def test_a_group_lives_on_while_it_is_granted_more(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("sleeps"))
    for _ in range(4):
        await process.grant(0.4)
        await asyncio.sleep(0.15)
    waiting = asyncio.ensure_future(process.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert (await waiting).ending == "orphaned"


async def test_a_followed_log_ends_with_the_group_and_offsets_have_no_gap(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("parts"))
    chunks: list[LogChunk] = [chunk async for chunk in process.log()]
    assert b"".join(one.data for one in chunks) == b"one\ntwo\nthree"
    assert [one.offset for one in chunks] == [sum(len(x.data) for x in chunks[:at]) for at in range(len(chunks))]
    assert await everything(process, 4) == b"two\nthree"


async def test_a_log_that_is_not_followed_is_what_there_is(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("sleeps"))
    await anext(aiter(process.log()))
    assert [chunk.data async for chunk in process.log(follow=False)] == [b"ready\n"]
    assert [chunk async for chunk in process.log(6, follow=False)] == []


async def test_secrets_are_masked_across_the_borders_of_writes(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("secret", redact=("hunter2",)))
    assert await everything(process) == b"key=*** and ****** or hunt\n"


async def test_a_log_over_its_limit_says_what_is_missing(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("floods", limits=Limits(log=1000)))
    text = await everything(process)
    ended = await process.wait()
    assert text.startswith(b"x" * 1000 + b"\n[cloche: log truncated here, its limit is 1000 bytes]\n")
    assert text.endswith(b"\n[cloche: 99000 bytes of the log were dropped]\n")
    assert (ended.log_dropped, ended.log_bytes) == (99_000, len(text))


async def test_an_id_started_twice_is_one_group(stage: Stage, executor: AnyExecutor) -> None:
    first, second = await asyncio.gather(executor.start(stage.spec("sleeps")), executor.start(stage.spec("sleeps")))
    await asyncio.gather(first.started(), second.started())
    assert first.pid == second.pid > 0


async def test_the_next_owner_adopts_the_living_and_the_ended(stage: Stage, executor: AnyExecutor) -> None:
    ended = await executor.start(stage.spec("exits"))
    await ended.wait()
    living = await executor.start(stage.spec("sleeps"))
    await living.started()
    await executor.close()
    adopted = {one.id: one for one in await stage.make().adopt("owner")}
    assert set(adopted) == {"p-exits", "p-sleeps"}
    assert (await adopted["p-exits"].wait()).code == 3
    assert await everything(adopted["p-exits"]) == b"hello\n"
    assert await adopted["p-sleeps"].started()
    assert adopted["p-sleeps"].pid == living.pid
    await adopted["p-sleeps"].cancel()
    assert (await adopted["p-sleeps"].wait()).ending == "canceled"


async def test_starting_an_adopted_id_returns_it(stage: Stage, executor: AnyExecutor) -> None:
    before = await executor.start(stage.spec("sleeps"))
    await before.started()
    await executor.close()
    after = await stage.make().start(stage.spec("sleeps"))
    assert await after.started()
    assert after.pid == before.pid


async def test_only_the_owners_groups_are_adopted(stage: Stage, executor: AnyExecutor) -> None:
    await executor.start(stage.spec("exits"))
    assert await executor.adopt("somebody") == []


async def test_without_an_owner_a_group_ends_after_its_time(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("stubborn", limits=Limits(orphan_after=0.2)))
    await process.started()
    await asyncio.sleep(0.4)
    assert process.pid > 0
    await executor.close()
    await asyncio.sleep(0.4)
    (adopted,) = await stage.make().adopt("owner")
    assert (await adopted.wait()).ending == "orphaned"


async def test_the_living_cannot_be_forgotten(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("sleeps"))
    with pytest.raises(Conflict) as caught:
        await executor.forget(process.id)
    assert caught.value.code == "process_lives"


async def test_the_ended_can_be_forgotten_and_started_again(stage: Stage, executor: AnyExecutor) -> None:
    process = await executor.start(stage.spec("exits"))
    await process.wait()
    await executor.forget(process.id)
    await executor.forget(process.id)
    assert await executor.adopt("owner") == []
    assert (await (await executor.start(stage.spec("exits"))).wait()).code == 3
