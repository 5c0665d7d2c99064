"""`UvResolver`: the port Resolver by the `uv` program, which is installed with Cloche.

uv runs with argument lists, an environment of ours and its own cache; the user's configuration is
not read. Index addresses go by environment, so that their credentials are in no list of processes.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import uv
from packaging.requirements import Requirement
from packaging.utils import InvalidSdistFilename, parse_sdist_filename

from cloche_shared.adapters import uv_guard
from cloche_shared.adapters.host_check import any_near, check_files
from cloche_shared.adapters.interpreters import Interpreter, Interpreters, not_available, probe
from cloche_shared.adapters.leftovers import Tidied
from cloche_shared.adapters.uv_ground import place_wheels, write_stubs
from cloche_shared.adapters.uv_wishes import write_wishes
from cloche_shared.contracts.definition import Definition, PipOptions
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blob, Blobs
from cloche_shared.ports.resolver import BuiltWheel, Choice, Ground, OwnWheel, Resolution, Say
from cloche_shared.store.ground import ground_clash, without_ground
from cloche_shared.store.own_wheels import own_choices, with_own
from cloche_shared.store.pylock import choose
from cloche_shared.store.uv_errors import (
    build_error,
    no_build_error,
    resolve_error,
    source_build_not_allowed,
    without_secrets,
)

PUBLIC_INDEX = "https://pypi.org/simple"
RESOLVE_SECONDS = 300.0
BUILD_SECONDS = 1800.0
INSTALL_SECONDS = 120.0
HTTP_SECONDS = 30
KEPT_LINES = 400

_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    *(name for pair in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for name in (pair, pair.lower())),
)
_GUARD = (sys.executable, "-I", "-S", "-B", str(uv_guard.__file__))
"""What ends uv and its compilers when this process dies: it holds the other end of the guard's stdin."""
_WHY_NOT = {
    True: "The channel's own Python does not start here.",
    False: "The channel's own Python is not started beside credentials (`cluster.package_code`).",
}
_COMMON = ("--no-config", "--color", "never", "--no-progress")


@dataclass(frozen=True, slots=True)
class _Finished:
    status: int
    lines: tuple[str, ...]


class UvResolver:
    """Resolves and builds in `root`, where uv keeps its cache and builds have their folders.

    `default_index` is asked where a definition names none. Without `package_code` nothing that a package
    brings is run: no source is built, and no Python of a conda channel is asked.
    """

    def __init__(
        self,
        root: Path,
        interpreters: Interpreters,
        *,
        default_index: str = PUBLIC_INDEX,
        managed: bool = True,
        package_code: bool = True,
    ) -> None:
        self._root = root.absolute()
        self._own_paths = re.compile(re.escape(f"{self._root}/") + r"(tmp/[a-z]+-[^/\s]+/)?")
        self._made = Tidied(self._root / "tmp", lambda path: shutil.rmtree(path, ignore_errors=True))
        self._interpreters = interpreters
        self._default_index = default_index
        self._managed = managed
        self._package_code = package_code

    async def resolve(
        self, definition: Definition, say: Say, ground: Ground | None = None, own: Sequence[OwnWheel] = ()
    ) -> Resolution:
        unbuilt = () if self._package_code else definition.python.pip_options.no_binary
        if unbuilt:
            raise source_build_not_allowed(unbuilt[0])
        if ground is None:
            interpreter = await self._interpreter(definition.python.version, say)
        else:
            interpreter = await self._on_ground(ground)
        indexes = self._indexes(definition.python.pip_options)
        await check_files(_addresses(definition.python.pip), beside=indexes)
        apart = tuple(definition.python.pip_options.package_indexes.values())
        private = own_choices(own, interpreter.tags)
        async with self._folder("resolve") as folder:
            target = folder / "pylock.toml"
            further = await asyncio.to_thread(place_wheels, folder, own)
            sources = await asyncio.to_thread(write_wishes, folder, definition.python, further)
            below = () if ground is None else ground.distributions
            arguments = _compile_arguments(definition.python.pip_options, interpreter, sources, target)
            if not self._package_code:
                arguments.insert(2, "--no-build")
            if below:
                stubs = await asyncio.to_thread(write_stubs, folder, below)
                arguments[2:2] = ["--constraints", str(stubs)]
            await any_near(apart)
            done = await self._uv(arguments, indexes, say, RESOLVE_SECONDS, variables=definition.build_variables)
            if done.status != 0:
                clash = self._source_refused(done.lines) or ground_clash(done.lines, definition.python.pip, below)
                raise clash or resolve_error(done.lines, definition.python.pip)
            text = without_secrets(await asyncio.to_thread(target.read_text, encoding="utf-8"))
            given = {*(one.name for one in below), *(one.name for one in private)}
            text = without_ground(text, given) if given else text
        choices = (*choose(text, interpreter.tags, definition.python, (*indexes, *apart)), *private)
        text = with_own(text, private) if private else text
        found = "1 package" if len(choices) == 1 else f"{len(choices)} packages"
        await say(f"Resolved {found} for Python {interpreter.version} on {interpreter.platform}")
        return Resolution(
            python=interpreter.version,
            interpreter=interpreter.path,
            platform=interpreter.platform,
            choices=choices,
            pylock=text,
            indexes=indexes,
            package_indexes=apart,
            build_variables=definition.build_variables,
        )

    def _source_refused(self, lines: Sequence[str]) -> Failed | None:
        return None if self._package_code else no_build_error(lines)

    def _indexes(self, options: PipOptions) -> tuple[str, ...]:
        return (options.index_url or self._default_index, *options.extra_index_urls)

    async def _interpreter(self, version: str | None, say: Say) -> Interpreter:
        found = await self._interpreters.find(version)
        if found is None and version is not None and self._managed:
            found = await self._install(version, say)
        if found is None:
            raise not_available(version or "3", await self._interpreters.all())
        return found

    async def _on_ground(self, ground: Ground) -> Interpreter:
        """Return conda's Python, or what stands in for it here: one of its minor version, asked in its name."""
        if ground.interpreter and self._package_code:
            found = await probe(ground.interpreter)
        else:
            found = await self._interpreters.find(".".join(ground.python.split(".")[:2]))
        if found is None:
            why = _WHY_NOT[self._package_code] if ground.interpreter else ""
            raise not_available(ground.python, await self._interpreters.all(), why=why)
        return replace(found, version=ground.python, platform=ground.platform)

    async def _install(self, version: str, say: Say) -> Interpreter | None:
        """Have uv fetch an interpreter; None where it cannot be had."""
        await say(f"Python {version} is not on this machine; trying to fetch it")
        folder = self._root / "python"
        arguments = ("python", "install", *_COMMON, "--no-bin", "--install-dir", str(folder), "--", version)
        try:
            done = await self._uv(arguments, (), say, INSTALL_SECONDS, http_seconds=5)
        except Failed:
            return None
        if done.status != 0:
            return None
        programs = await asyncio.to_thread(lambda: sorted(folder.glob(f"cpython-{version}*/bin/python3")))
        found = await probe(str(programs[-1])) if programs else None
        if found is not None:
            self._interpreters.add(found)
        return found

    async def build_wheel(self, resolution: Resolution, choice: Choice, sdist: str, say: Say) -> BuiltWheel:
        if not self._package_code:
            raise source_build_not_allowed(choice.name)
        folder = await asyncio.to_thread(self._make_folder, "build")
        try:
            source = await asyncio.to_thread(_named_copy, folder, choice.filename, sdist)
            target = folder / "dist"
            arguments = _build_arguments(resolution.interpreter, source, target)
            variables = resolution.build_variables
            done = await self._uv(
                arguments, resolution.indexes, say, BUILD_SECONDS, package=choice.name, variables=variables
            )
            wheel = await asyncio.to_thread(_only_wheel, target, choice, done)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        return BuiltWheel(filename=wheel.name, path=str(wheel))

    async def keep(self, built: BuiltWheel, blobs: Blobs) -> Blob:
        return await blobs.put_file(Path(built.path))

    async def release(self, built: BuiltWheel) -> None:
        folder = Path(built.path).parent.parent
        if folder.parent == self._root / "tmp":
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _shown(self, raw: bytes) -> str:
        """Return a line of uv's as users may see it: without credentials, control characters and paths of ours."""
        line = without_secrets(raw.decode("utf-8", "replace").rstrip())
        return self._own_paths.sub("", re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", line))

    def _make_folder(self, purpose: str) -> Path:
        parent = self._root / "tmp"
        self._made.open()
        return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=parent))

    @asynccontextmanager
    async def _folder(self, purpose: str) -> AsyncIterator[Path]:
        folder = await asyncio.to_thread(self._make_folder, purpose)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _uv(  # noqa: PLR0913 - each says something else of one call
        self,
        arguments: Sequence[str],
        indexes: Sequence[str],
        say: Say,
        seconds: float,
        *,
        http_seconds: int = HTTP_SECONDS,
        package: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> _Finished:
        # uv resolves names itself afterwards: a name that answers differently then is the operator's
        # network to guard, or `registry.allowed_indexes`
        await any_near(indexes)
        environment = {**(variables or {}), **self._environment(indexes, http_seconds)}
        process = await asyncio.create_subprocess_exec(
            *_GUARD,
            uv.find_uv_bin(),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._root,
            env=environment,
            start_new_session=True,
            limit=1 << 20,
        )
        try:
            async with asyncio.timeout(seconds):
                lines = await _follow(process, self._shown, say)
                return _Finished(await process.wait(), lines)
        except TimeoutError:
            raise _too_slow(seconds, package) from None
        finally:
            await _end(process)

    def _environment(self, indexes: Sequence[str], http_seconds: int) -> dict[str, str]:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {
            "HOME": str(self._root),
            "UV_CACHE_DIR": str(self._root / "uv"),
            "UV_HTTP_TIMEOUT": str(http_seconds),
            "UV_HTTP_RETRIES": "2",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if indexes:
            # uv asks its default index last, so the order is kept by making the last one the default.
            environment["UV_DEFAULT_INDEX"] = indexes[-1]
            environment["UV_INDEX"] = " ".join(indexes[:-1])
        return environment


def _addresses(lines: Sequence[str]) -> list[str]:
    """Return the addresses of wheels that are named directly."""
    return [url for line in lines if (url := Requirement(line.partition(" --hash=")[0]).url) is not None]


def _compile_arguments(
    options: PipOptions, interpreter: Interpreter, sources: Sequence[Path], target: Path
) -> list[str]:
    arguments = ["pip", "compile", *_COMMON, "--no-header", "--no-annotate", "--no-python-downloads"]
    arguments += ["--format", "pylock.toml", "--generate-hashes", "--python", interpreter.path]
    if options.pre:
        arguments += ["--prerelease", "allow"]
    for name in options.no_binary:
        arguments += ["--no-binary", name]
    for name in options.only_binary:
        arguments += ["--only-binary", name]
    return [*arguments, "--output-file", str(target), "--", *map(str, sources)]


def _build_arguments(interpreter: str, source: Path, target: Path) -> list[str]:
    arguments = ["build", "--wheel", *_COMMON, "--no-python-downloads", "--python", interpreter]
    return [*arguments, "--no-create-gitignore", "--out-dir", str(target), "--", str(source)]


def _only_wheel(folder: Path, choice: Choice, done: _Finished) -> Path:
    wheels = sorted(folder.glob("*.whl"))
    if done.status != 0 or not wheels:
        raise build_error(done.lines, choice.name, choice.version)
    return wheels[0]


def _named_copy(folder: Path, filename: str, sdist: str) -> Path:
    """Put the sdist under the name that the index gave it, once it is known to be an sdist's name."""
    try:
        parse_sdist_filename(filename)
    except InvalidSdistFilename:
        name = None
    else:
        name = filename
    if name is None or "/" in name:
        raise Failed("compile_error", f"{filename[:200]!r} is not the name of a source archive.")
    return Path(shutil.copyfile(sdist, folder / name))


async def _follow(process: asyncio.subprocess.Process, shown: Callable[[bytes], str], say: Say) -> tuple[str, ...]:
    """Pass uv's lines on as they come and return the last of them."""
    kept: list[str] = []
    if process.stderr is None:
        return ()
    while True:
        try:
            raw = await process.stderr.readline()
        except ValueError:
            continue  # a line of more than 1 MiB is dropped
        if not raw:
            return tuple(kept)
        line = shown(raw)
        kept = [*kept[-KEPT_LINES:], line]
        if line.strip():
            await say(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End uv and whatever it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _too_slow(seconds: float, package: str | None) -> Failed:
    return Failed(
        "build_timeout",
        f"{'Building ' + package if package else 'Resolving the packages'} took more than {seconds:.0f} s.",
        todo="Pin more versions, or use a version that has a wheel.",
        extra={"package": package} if package else {},
    )
