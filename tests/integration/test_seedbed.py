"""Programs of a warm interpreter: what a script sees, how it ends, and who is not served by one."""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import cloche_runtime
from cloche_runtime import procfs
from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.ports.executor import Exit, Process, ProcessSpec

BOOTSTRAP = Path(str(cloche_runtime.__file__)).with_name("bootstrap.py")
TRIES = 200
NUMBERS = itertools.count(1)
IS_WARM = "import os\nprint('seedbed.py' in open(f'/proc/{os.getppid()}/cmdline').read(), flush=True)\n"

FACETS = """
import sys, os, gc, signal, site, traceback
print(sys.argv, getattr(sys, "orig_argv", None), sys.path, sys.flags, sys.executable, sys.prefix, sys.meta_path)
print(sorted(n for n, m in sys.modules.items() if getattr(m, "__file__", "").endswith(".py")))
print(sorted(os.environ.items()), os.environb[b"OWN"], sorted(os.listdir("/proc/self/fd")), os.getcwd())
print(os.getpgrp() == os.getsid(0) == os.getpid(), os.umask(0o22), gc.isenabled(), gc.get_threshold())
print(site.USER_BASE, site.USER_SITE, site.ENABLE_USER_SITE)
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream, stream.encoding, stream.errors, stream.line_buffering, stream.seekable(), stream.isatty())
print([(number, str(signal.getsignal(number))) for number in range(1, 32)], signal.pthread_sigmask(0, ()))
print([frame.name for frame in traceback.extract_stack()], __name__, __file__, __spec__)
import ast, ctypes, json, multiprocessing, random, re, socket, subprocess, threading, typing
assert ast.dump(ast.parse("1")) == ast.dump(compile("1", "", "exec", ast.PyCF_ONLY_AST))
assert json.loads('{"a": 1}') == {"a": 1} and re.fullmatch("a+", "aa") and ctypes.CDLL(None).getpid() == os.getpid()
assert subprocess.run([sys.executable, "-c", "import os; assert os.environ['OWN']"], check=False).returncode == 0
assert [len(one.sendmsg([b"x"]) * b"x") for one in socket.socketpair()] == [1, 1]
assert threading.current_thread() is threading.main_thread() and isinstance(signal.SIGTERM, signal.Signals)
"""


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[LocalExecutor]:
    executor = LocalExecutor(tmp_path / "executor")
    yield executor
    for process in await executor.adopt("owner"):
        await process.cancel(grace=0)
        await process.wait()
    await executor.close()


class Place:
    """An environment as nodes make them, and runs in it."""

    def __init__(self, root: Path, executor: LocalExecutor, base: str = "") -> None:
        self.folder = root / "prefix"
        self.python = self.folder / "bin" / "python"
        self._work = root / "work"
        self._executor = executor
        self._base = base or os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        self.make()

    def make(self) -> None:
        """Make the environment, anew if it is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.python.parent.mkdir(parents=True)
        self.site.mkdir(parents=True)
        self.python.symlink_to(self._base)
        text = f"home = {Path(self._base).parent}\ninclude-system-site-packages = false\n"
        (self.folder / "pyvenv.cfg").write_text(text)

    @property
    def site(self) -> Path:
        """Return where its packages lie."""
        code = "import sys; print('python%d.%d' % sys.version_info[:2])"
        name = subprocess.run([self._base, "-S", "-c", code], capture_output=True, text=True, check=True).stdout
        return self.folder / "lib" / name.strip() / "site-packages"

    async def begin(self, code: str, *arguments: str, **env: str) -> Process:
        """Start a script."""
        work = self._work
        work.mkdir(exist_ok=True)
        (work / "script.py").write_text(code)
        argv = [str(self.python), str(BOOTSTRAP), "--", "script.py", *arguments]
        base = {"LANG": "C.UTF-8", "PATH": os.defpath, "HOME": "/home/nobody", "OWN": "1"}
        return await self._executor.start(ProcessSpec(f"run-{next(NUMBERS)}", "owner", argv, work, {**base, **env}))

    async def run(self, code: str, *arguments: str, **env: str) -> tuple[str, Exit]:
        """Run a script to its end."""
        process = await self.begin(code, *arguments, **env)
        ended = await process.wait()
        return b"".join([chunk.data async for chunk in process.log()]).decode(), ended

    async def is_warm(self, tries: int = 1) -> bool:
        """Tell whether a run of so many is served by a warm interpreter."""
        for _ in range(tries):
            if (await self.run(IS_WARM))[0] == "True\n":
                return True
            await asyncio.sleep(0.02)
        return False


@pytest.fixture
def place(tmp_path: Path, executor: LocalExecutor) -> Place:
    return Place(tmp_path, executor)


def seedbed_of(process_pid: int) -> int:
    """Return the seedbed that a program's supervisor came from."""
    supervisor = procfs.stat(process_pid)
    assert supervisor is not None
    seedbed = procfs.stat(supervisor.parent)
    assert seedbed is not None
    return seedbed.parent


async def ended(pid: int) -> bool:
    for _ in range(TRIES):
        found = procfs.stat(pid)
        if found is None or found.state == b"Z":
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_script_sees_what_it_would_see_in_an_interpreter_of_its_own(place: Place) -> None:
    cold = await place.run(FACETS, "--lr", "0.1")
    assert cold[1].code == 0, cold[0]
    assert await place.is_warm(TRIES)
    warm = await place.run(FACETS, "--lr", "0.1")
    assert warm[0].splitlines() == cold[0].splitlines()
    assert warm[1].code == 0


ENDINGS = {
    "import sys; sys.exit(3)": 3,
    "raise SystemExit('why')": 1,
    "def f():\n    1 / 0\nf()\n": 1,
    "def f(:\n": 1,
    "import os; os._exit(9)": 9,
    "import os; os.kill(os.getpid(), 11)": -11,
    "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)": -2,
    "import atexit; atexit.register(print, 'bye')\nclass X:\n    def __del__(self): print('gone')\nx = X()": 0,
    "import threading; threading.Timer(0.05, print, ['late']).start()": 0,
    "import sys; sys.stdout.write('no newline')": 0,
    "import time; from multiprocessing import Process; p = Process(target=time.sleep, args=(0,)); p.start()": 0,
    "from cloche.core import Run; import cloche_runtime; print(Run is cloche_runtime.Run)": 0,
}


async def test_programs_end_as_in_an_interpreter_of_their_own(place: Place) -> None:
    cold = [await place.run(code, PYTHONUTF8="0") for code in ENDINGS]
    assert await place.is_warm(TRIES)
    warm = [await place.run(code) for code in ENDINGS]
    assert [log for log, _ in warm] == [log for log, _ in cold]
    for ends in (cold, warm):
        assert [end.code if end.signal is None else -end.signal for _, end in ends] == [*ENDINGS.values()]


async def test_what_a_command_line_shows_is_the_programs(place: Place) -> None:
    code = "print(open('/proc/self/cmdline').read().replace(chr(0), ' ').strip())"
    cold, _ = await place.run(code, "--lr", "0.1")
    assert await place.is_warm(TRIES)
    assert (await place.run(code, "--lr", "0.1"))[0] == cold


async def test_who_sets_what_an_interpreter_reads_on_its_start_gets_one_of_its_own(place: Place) -> None:
    assert await place.is_warm(TRIES)
    for name in ("PYTHONHASHSEED", "PYTHONPATH", "LD_LIBRARY_PATH", "LC_ALL", "TZ", "MALLOC_ARENA_MAX"):
        assert (await place.run(IS_WARM, **{name: "0"}))[0] == "False\n"
    assert await place.is_warm()


@pytest.mark.parametrize("name", ["sitecustomize.py", "own.pth"])
async def test_an_environment_that_runs_code_on_the_start_is_not_served(place: Place, name: str) -> None:
    (place.site / "helper.py").touch()
    (place.site / name).write_text("import helper\n")
    for _ in range(5):
        assert not await place.is_warm(2)
        await asyncio.sleep(0.05)


async def test_an_environment_that_was_made_anew_is_not_served_by_the_former_one(place: Place) -> None:
    assert await place.is_warm(TRIES)
    place.make()
    (place.site / "own.pth").write_text(f"{place.folder}/more\n")
    code = f"import sys; print('{place.folder}/more' in sys.path)"
    (place.folder / "more").mkdir()
    for _ in range(4):
        assert (await place.run(code))[0] == "True\n"
    assert await place.is_warm(TRIES)
    assert (await place.run(code))[0] == "True\n"


async def test_a_killed_seedbed_is_replaced_and_its_groups_live(place: Place) -> None:
    assert await place.is_warm(TRIES)
    process = await place.begin("print('up', flush=True); import time; time.sleep(3600)")
    await anext(aiter(process.log()))
    seedbed = seedbed_of(process.pid)
    os.kill(seedbed, signal.SIGKILL)
    assert await ended(seedbed)
    assert await place.is_warm(TRIES)
    assert procfs.stat(process.pid) is not None
    await process.cancel(grace=0)
    assert (await process.wait()).ending == "canceled"


@pytest.mark.parametrize("is_warm", [True, False])
async def test_a_program_that_stops_who_started_it_holds_up_nobody(tmp_path: Path, *, is_warm: bool) -> None:
    executor = LocalExecutor(tmp_path / "executor", patience=3.0)
    place = Place(tmp_path, executor)
    assert not is_warm or await place.is_warm(TRIES)
    process = await place.begin("print('up', flush=True); import time; time.sleep(3600)")
    await anext(aiter(process.log()))
    starter = seedbed_of(process.pid)
    assert ("seedbed.py" if is_warm else "nursery.py") in procfs.read(f"/proc/{starter}/cmdline").decode()
    os.kill(starter, signal.SIGSTOP)
    async with asyncio.timeout(60):
        assert [(await place.run("print(1)"))[0] for _ in range(3)] == ["1\n"] * 3
    assert await ended(starter)
    assert procfs.stat(process.pid) is not None
    await process.cancel(grace=0)
    assert (await process.wait()).ending == "canceled"
    await executor.close()


async def test_a_killed_supervisor_takes_its_program_along(place: Place) -> None:
    assert await place.is_warm(TRIES)
    process = await place.begin("print('up', flush=True); import time; time.sleep(3600)")
    await anext(aiter(process.log()))
    supervisor = procfs.stat(process.pid)
    assert supervisor is not None
    os.kill(supervisor.parent, signal.SIGKILL)
    assert (await process.wait()).ending == "lost"
    assert await ended(process.pid)


async def test_a_seedbed_ends_with_its_executor_and_its_groups_live(place: Place, executor: LocalExecutor) -> None:
    assert await place.is_warm(TRIES)
    process = await place.begin("print('up', flush=True); import time; time.sleep(3600)")
    await anext(aiter(process.log()))
    seedbed = seedbed_of(process.pid)
    await executor.close()
    assert await ended(seedbed)
    (adopted,) = [one for one in await executor.adopt("owner") if one.pid == process.pid]
    await adopted.cancel(grace=0)
    assert (await adopted.wait()).ending == "canceled"


def _other_pythons() -> list[str]:
    found = [shutil.which(f"python3.{minor}") for minor in (8, 9, 10, 12, 13, 14)]
    real = [_real(one) for one in found if one]
    return [one for one in real if one] + os.environ.get("CLOCHE_TEST_PYTHONS", "").split()


def _real(python: str) -> str:
    done = subprocess.run(
        [python, "-c", "import sys; print(sys.executable)"], capture_output=True, check=False, text=True
    )
    return os.path.realpath(done.stdout.strip()) if done.returncode == 0 else ""


async def test_other_pythons_serve_as_well(tmp_path: Path, executor: LocalExecutor) -> None:
    for number, python in enumerate(_other_pythons()):
        place = Place(tmp_path / str(number), executor, python)
        cold, _ = await place.run(FACETS)
        assert await place.is_warm(TRIES), python
        assert (await place.run(FACETS))[0] == cold, python
