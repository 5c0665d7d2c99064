"""Commits through the program git: fetched into a bare folder of their own, read object by object.

Nothing is checked out, so no hook, filter, link or attribute of the repository has an effect. Names are judged
before git is called, and git connects to the address that was judged (security rule 44).
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cloche_shared.errors import Failed, Invalid, NotFound, TooLarge
from cloche_shared.ports.git import GitTree, git_unavailable
from cloche_shared.store.addresses import is_disguised, reach_of

DEADLINE_S: Final = 60.0
LOOK_EVERY_S: Final = 0.1
RESOLVE_S: Final = 5.0
AT_ONCE: Final = 2
OLDEST: Final = (2, 37)
"""The first git that connects to an address that it is given."""
HTTPS_PORT: Final = 443
_REGULAR: Final = {"100644": False, "100755": True}


@dataclass(frozen=True, slots=True)
class GitLimits:
    """The most that a commit may hold: files, bytes of them, and bytes that may come over the network.

    It may take `seconds`, the wait for others included.
    """

    files: int = 10_000
    file_bytes: int = 64 * 1024 * 1024
    fetched_bytes: int = 128 * 1024 * 1024
    seconds: float = DEADLINE_S


class GitProgram:
    """Git by the program at `path`. `protocol` is the only one that it may speak."""

    def __init__(self, path: str, limits: GitLimits | None = None, *, protocol: str = "https") -> None:
        self.path = path
        self._limits = limits or GitLimits()
        self._protocol = protocol
        self._room = asyncio.Semaphore(AT_ONCE)

    async def fetch(self, url: str, commit: str) -> GitTree:
        """Return the tree of a commit; raises as the port says, `Failed` (`git_failed`) when it does not come."""
        pinned = await _judged(url) if self._protocol == "https" else ()
        try:
            async with asyncio.timeout(self._limits.seconds), self._room, _folder() as folder:
                await self._bring(folder, url, commit, pinned)
                return await self._read(folder, commit)
        except TimeoutError:
            raise _failed(f"It took longer than {self._limits.seconds:.0f} s.") from None

    async def _bring(self, folder: Path, url: str, commit: str, pinned: Sequence[str]) -> None:
        await self._run(folder, "init", "--quiet", "--bare", f"--object-format={_format(commit)}", "--template=", ".")
        options = ("--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-auto-gc")
        watching = asyncio.create_task(self._watch(folder))
        fetching = asyncio.create_task(self._run(folder, *pinned, "fetch", *options, "--", url, commit))
        try:
            await asyncio.wait([watching, fetching], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching
            await fetching
        finally:
            for task in (watching, fetching):
                task.cancel()
            await asyncio.gather(watching, fetching, return_exceptions=True)
        code, _ = await self._run(folder, "cat-file", "-e", f"{commit}^{{commit}}", may_fail=True)
        if code:
            raise NotFound("commit_not_found", f"The repository has no commit {commit}.")

    async def _watch(self, folder: Path) -> None:
        """Return never; raises `TooLarge` once the folder has grown over the limit."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if await asyncio.to_thread(_size, folder) > self._limits.fetched_bytes:
                raise _too_large(f"More than {self._limits.fetched_bytes} bytes came.")

    async def _read(self, folder: Path, commit: str) -> GitTree:
        _, listing = await self._run(folder, "ls-tree", "-r", "-l", "-z", "--full-tree", commit)
        entries = [_entry(line) for line in listing.split(b"\0") if line]
        limits = self._limits
        if len(entries) > limits.files or sum(size for _, _, size, _ in entries) > limits.file_bytes:
            raise _too_large(f"At most {limits.files} files and {limits.file_bytes} bytes.")
        names = b"".join(name.encode() + b"\n" for _, name, _, _ in entries)
        _, blobs = await self._run(folder, "cat-file", "--batch", given=names)
        files: dict[str, bytes] = {}
        place = 0
        for path, _, size, _ in entries:
            start = blobs.index(b"\n", place) + 1
            files[path] = blobs[start : start + size]
            place = start + size + 1
        return GitTree(files, frozenset(path for path, _, _, executable in entries if executable))

    async def _run(
        self, folder: Path, *arguments: str, given: bytes | None = None, may_fail: bool = False
    ) -> tuple[int, bytes]:
        """Run git in the folder; return its status and what it printed. Its own words are shown to nobody."""
        process = await asyncio.create_subprocess_exec(
            self.path,
            *self._settings(),
            *arguments,
            cwd=folder,
            env=_environment(folder),
            stdin=asyncio.subprocess.PIPE if given is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            said, _ = await process.communicate(given)
        finally:
            if process.returncode is None:
                # Also what git started: its helper for https is a process of its own.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode and not may_fail:
            raise _failed(f"git ended with status {process.returncode}.")
        return process.returncode or 0, said

    def _settings(self) -> list[str]:
        values = {
            "protocol.allow": "never",
            f"protocol.{self._protocol}.allow": "always",
            "http.followRedirects": "false",
            "http.proxy": "",
            "http.sslVerify": "true",
            "credential.helper": "",
            "core.hooksPath": os.devnull,
            "core.fsmonitor": "false",
            "core.askPass": "",
            "transfer.fsckObjects": "true",
            "fetch.unpackLimit": "1",
            "gc.auto": "0",
        }
        return [part for name, value in values.items() for part in ("-c", f"{name}={value}")]


class LocalGit:
    """The git of this machine, looked for when it is first needed."""

    def __init__(self, limits: GitLimits | None = None) -> None:
        self._limits = limits
        self._found: GitProgram | None = None

    async def fetch(self, url: str, commit: str) -> GitTree:
        """Return the tree of a commit. Raises `Invalid` (`git_unavailable`) where there is no git."""
        self._found = self._found or await git_program(self._limits)
        if self._found is None:
            raise git_unavailable()
        return await self._found.fetch(url, commit)


async def git_program(limits: GitLimits | None = None) -> GitProgram | None:
    """Return this machine's git, None where there is none, or one too old to be told where to connect."""
    path = shutil.which("git")
    if path is None:
        return None
    process = await asyncio.create_subprocess_exec(
        path, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, env={"PATH": os.defpath}
    )
    said, _ = await process.communicate()
    words = said.decode(errors="replace").split()
    numbers = words[2].split(".") if len(words) > 2 else []  # noqa: PLR2004 - `git version 2.39.5`
    version = tuple(int(part) for part in numbers[:2] if part.isdigit())
    return GitProgram(path, limits) if version >= OLDEST else None


@asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    made = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="cloche-git-"))
    try:
        yield made
    finally:
        await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_DIR": str(folder),
    }


async def _judged(url: str) -> list[str]:
    """Return git's arguments that hold it to the address that was judged. Raises `Invalid` (`url_not_allowed`)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or HTTPS_PORT
    except ValueError:
        raise _not_allowed("It is no address.") from None
    if parts.scheme != "https" or not host or not url.isascii() or not url.isprintable():
        raise _not_allowed("Only https is taken.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _not_allowed("It holds a user name, a query or a fragment.")
    if is_disguised(host):
        raise _not_allowed("It hides which host it means.")
    try:
        async with asyncio.timeout(RESOLVE_S):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        raise _failed("Its host is not known.") from None
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    if not addresses or any(reach_of(address) != "global" for address in addresses):
        raise _not_allowed("Its host is not on the public network.")
    address = addresses[0]
    shown = f"[{address}]" if ":" in address else address
    return ["-c", f"http.curloptResolve={host}:{port}:{shown}"]


def _format(commit: str) -> str:
    return "sha1" if len(commit) == 40 else "sha256"  # noqa: PLR2004 - hexadecimal digits of SHA-1


def _entry(line: bytes) -> tuple[str, str, int, bool]:
    """Return path, object, size and whether it is executable of a line of `ls-tree -l`."""
    about, _, path = line.partition(b"\t")
    mode, _, name, size = about.decode().split()
    try:
        shown = path.decode()
    except UnicodeDecodeError:
        raise _unsafe("A path is not in UTF-8.") from None
    if mode not in _REGULAR:
        raise _unsafe(f"{shown!r} is a link or a repository of its own.")
    return shown, name, int(size), _REGULAR[mode]


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118 - os.walk's own parts
    return total


def _not_allowed(why: str) -> Invalid:
    return Invalid(
        "url_not_allowed", "The repository's address is not taken.", why=why, todo="Name a public https address."
    )


def _unsafe(why: str) -> Invalid:
    return Invalid("unsafe_path", "The commit holds what cannot be taken.", why=why, todo="Leave it out.")


def _too_large(why: str) -> TooLarge:
    return TooLarge("snapshot_too_large", "The commit is too large.", why=why, todo="Send the code as a snapshot.")


def _failed(why: str) -> Failed:
    return Failed(
        "git_failed",
        "The commit could not be fetched.",
        why=why,
        todo="See that the repository answers without credentials and has that commit.",
    )
