"""The Python interpreters of this machine: the one that runs, and those on PATH."""

import asyncio
import functools
import json
import os
import re
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import packaging
from packaging.tags import sys_tags

from cloche_shared.errors import Failed

PROBE_SECONDS = 10.0

_NAME = re.compile(r"python3(\.\d+)?")
_PROBE = """
import json, os, sys, sysconfig
sys.path.append(sys.argv[1])
from packaging.tags import sys_tags
print(json.dumps([
    os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    ".".join(map(str, sys.version_info[:3])),
    sys.implementation.cache_tag,
    sysconfig.get_platform(),
    [str(tag) for tag in sys_tags()],
]))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A CPython of this machine, outside every virtual environment.

    `path` is its real path, `version` full (`3.11.7`), `cache_tag` as in names of bytecode files
    (`cpython-311`), `platform` such as `linux-x86_64`, `tags` the wheel tags that it takes, best first.
    """

    path: str
    version: str
    cache_tag: str
    platform: str
    tags: tuple[str, ...]

    @property
    def minor(self) -> str:
        """Return `3.11` of `3.11.7`."""
        return ".".join(self.version.split(".")[:2])


@functools.cache
def running() -> Interpreter:
    """Return the interpreter that runs this process."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    version = ".".join(str(part) for part in sys.version_info[:3])
    tag = sys.implementation.cache_tag or "unknown"
    tags = tuple(str(item) for item in sys_tags())
    platform = sysconfig.get_platform().replace(".", "_")
    return Interpreter(os.path.realpath(base), version, tag, platform, tags)


def clean_environment() -> dict[str, str]:
    """Return what a program of this machine needs to run, and nothing that steers Python."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYENV_ROOT")
    return {name: os.environ[name] for name in kept if name in os.environ}


async def probe(path: str) -> Interpreter | None:
    """Ask a program whether it is a Python that can be used; None when it is not."""
    folder = str(Path(packaging.__file__).parent.parent)
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            *("-I", "-c", _PROBE, folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=clean_environment(),
        )
    except OSError:
        return None
    try:
        out, _ = await asyncio.wait_for(process.communicate(), PROBE_SECONDS)
        real, version, tag, platform, tags = json.loads(out)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    except ValueError:
        return None
    return Interpreter(real, version, tag, str(platform).replace(".", "_"), tuple(tags))


def candidates(path: str) -> list[str]:
    """Return the programs on a PATH that are named like a Python 3, each real file once.

    A launcher script may stand for several versions by its name, so scripts count by name.
    """
    found: dict[Path, Path] = {}
    for folder in path.split(os.pathsep):
        try:
            programs = sorted(program for program in Path(folder or ".").iterdir() if _NAME.fullmatch(program.name))
        except OSError:
            continue
        for program in programs:
            real = program.resolve()
            found.setdefault(program if _is_script(real) else real, program)
    return [str(program) for program in found.values()]


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


class Interpreters:
    """Finds interpreters; what was found is remembered until `forget`.

    `path` is searched (None: the process's PATH), and `managed`, where uv keeps those it fetched.
    """

    def __init__(self, *, path: str | None = None, managed: Path | None = None) -> None:
        self._path = os.environ.get("PATH", os.defpath) if path is None else path
        self._managed = managed
        self._known: tuple[Interpreter, ...] | None = None
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        """Look again at the next call."""
        self._known = None

    def add(self, interpreter: Interpreter) -> None:
        """Know one more, such as one that was just installed."""
        self._known = (*(self._known or (running(),)), interpreter)

    async def all(self) -> tuple[Interpreter, ...]:
        """Return every interpreter of this machine, the running one first."""
        async with self._lock:
            if self._known is None:
                programs = await asyncio.to_thread(self._programs)
                probed = await asyncio.gather(*(probe(program) for program in programs))
                unique = {item.path: item for item in (running(), *probed) if item is not None}
                self._known = tuple(unique.values())
            return self._known

    def _programs(self) -> list[str]:
        fetched = self._managed.glob("*/bin/python3") if self._managed is not None else ()
        return [*candidates(self._path), *(str(program) for program in sorted(fetched, reverse=True))]

    async def find(self, version: str | None) -> Interpreter | None:
        """Return the first of a version (`3.11` or `3.11.7`; None: the running one), or None."""
        own = running()
        if version is None or _matches(own, version):
            return own
        return next((item for item in await self.all() if _matches(item, version)), None)

    async def required(self, version: str) -> Interpreter:
        """Return one of that full version, else of its minor version; raises `python_not_available`."""
        found = await self.find(version) or await self.find(".".join(version.split(".")[:2]))
        if found is None:
            raise not_available(version, await self.all())
        return found


def _matches(interpreter: Interpreter, version: str) -> bool:
    return interpreter.version == version or interpreter.version.startswith(version + ".")


def not_available(version: str, here: Sequence[Interpreter], *, why: str = "") -> Failed:
    """Return the error that lists what is here."""
    versions = sorted({item.version for item in here}, key=lambda text: [int(part) for part in text.split(".")])
    listed = ", ".join(versions) or "none"
    return Failed(
        "python_not_available",
        f"Python {version} is not on this machine.",
        why=" ".join(part for part in (f"Here are: {listed}.", why) if part),
        todo="Ask for one of these versions, or install the one you need and put it on PATH.",
        extra={"python": version, "available": versions},
    )
