"""What a service does on a node that it shares with an executor of another user: started by a test as that user.

    python shared_node.py run|score DATA SOCKET

Prints what it found as JSON.
"""

import asyncio
import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cloche_runtime
from cloche_deployer.adapters.scoring_links import UnixConnector
from cloche_runner.adapters.attempt_files import LocalAttemptFiles
from cloche_shared.adapters.interpreters import Interpreters, running
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.memory_blobs import MemoryBlobs
from cloche_shared.adapters.node_folder import held_node
from cloche_shared.adapters.sharing import Sharing
from cloche_shared.adapters.socket_executor import SocketExecutor
from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Unavailable
from cloche_shared.ports.executor import ProcessSpec
from cloche_shared.store.hashing import lock_digest

SCRIPT = """
import alpha, os, socket, sys
def tried(step):
    try:
        step()
    except OSError as error:
        return error.strerror
    return "done"
def write(path, mode=0o600, data=b"x"):
    os.write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode), data)
node = sys.argv[1]
os.makedirs("outputs/deep/er", mode=0o700)
write("outputs/private.txt")
write("outputs/deep/er/file.txt")
os.symlink("/etc/passwd", "outputs/link")
os.mkdir("outputs/shut", 0o700)
write("outputs/shut/file.txt", 0o000)
os.chmod("outputs/shut", 0o000)
os.makedirs(os.environ["TMPDIR"] + "/left/behind", mode=0o1777)
write(os.environ["UPLOADS"] + "/upload.txt")
os.symlink("/etc", os.environ["UPLOADS"] + "/etc")
write(os.environ["JOURNAL"], data=b"{}\\n")
write("given.txt", data=b" and more")
write("inner/new.txt")
print(os.getuid(), os.getgid(), alpha.__name__, sys.prefix == os.environ["PREFIX"])
print(tried(lambda: write(alpha.__file__)), tried(lambda: write(node + "/prefixes/new")))
print(tried(lambda: write(node + "/work/new")), tried(lambda: os.unlink(os.environ["JOURNAL"])))
print(tried(lambda: os.listdir(node + "/store")), tried(lambda: os.listdir(node + "/tmp")))
executor = socket.socket(socket.AF_UNIX)
executor.connect(sys.argv[2])
print("executor_refused" in executor.recv(4096).decode(), tried(lambda: open("/proc/1/environ").read()))
print(tried(lambda: write("/usr/new")), tried(lambda: write(node + "/new")), tried(lambda: os.listdir(node + "/work")))
"""
SCORE = "def init():\n    pass\ndef run(data):\n    return data\n"
BIN = "/usr/local/bin:/usr/bin:/bin"


async def tree(blobs: MemoryBlobs, files: dict[str, str]) -> Manifest:
    """Return the snapshot of some texts."""
    kept = {name: await blobs.put_bytes(text.encode()) for name, text in sorted(files.items())}
    return Manifest(files=tuple(FileEntry(path=name, digest=one.digest, size=one.size) for name, one in kept.items()))


async def locked(blobs: MemoryBlobs, wheel: Path) -> Lock:
    """Return a lock of one wheel."""
    kept = await blobs.put_bytes(wheel.read_bytes())
    artefact = Artefact(
        kind="wheel",
        name="alpha",
        version="1.0",
        filename=wheel.name,
        url="https://index.invalid/x",
        digest=kept.digest,
        size=kept.size,
    )
    return Lock(definition_hash="e1:0", python=running().version, platform="any", artefacts=(artefact,), pylock="")


@dataclass(frozen=True)
class Home:
    """The node, as a service's process holds it."""

    root: Path
    sockets: Path
    socket: Path
    executor: SocketExecutor
    files: LocalNodeFiles
    sharing: Sharing


async def run(home: Home, blobs: MemoryBlobs) -> dict[str, object]:
    """Take an attempt through its life."""
    lock = await locked(blobs, home.root.parent.parent / "alpha-1.0-py3-none-any.whl")
    prefix = await home.files.prefix(lock_digest(lock), lock, blobs)
    attempts = LocalAttemptFiles(home.root / "attempts", home.sharing)
    files = {"main.py": SCRIPT, "given.txt": "given", "inner/given.txt": "given"}
    cwd = await home.files.checkout("run-1", await tree(blobs, files), blobs)
    paths = await attempts.prepare("run-1")
    env = {"PATH": BIN, "TMPDIR": str(paths.tmp), "UPLOADS": str(paths.uploads), "JOURNAL": str(paths.journal)}
    env["PREFIX"] = str(prefix.path)
    argv = [str(prefix.python), "main.py", str(home.root), str(home.socket)]
    writes = [paths.uploads, paths.home, paths.tmp]
    process = await home.executor.start(ProcessSpec("run-1", "runner", argv, cwd, env, writes=writes))
    ended = await process.wait()
    log = b"".join([chunk.data async for chunk in process.log()]).decode()
    outputs = await home.files.collect("run-1", ["outputs"], blobs)
    uploads = await attempts.uploads("run-1", blobs)
    found = {
        "ended": ended.ending,
        "code": ended.code,
        "log": log.splitlines(),
        "outputs": [one.path for one in outputs.files],
        "uploads": [one.path for one in uploads],
        "journal": (await attempts.journal("run-1", 0, 100)).decode(),
        "given": (cwd / "given.txt").read_text(),
        "open": list(open_to_others(home.root.parent)),
        "reused": (await home.files.prefix(lock_digest(lock), lock, blobs)).reused,
    }
    await home.executor.forget("run-1")
    await home.files.discard("run-1")
    await attempts.discard("run-1")
    return {**found, "left": [*os.listdir(home.root / "work"), *await attempts.present()]}  # noqa: PTH208 - names


def open_to_others(root: Path) -> Iterator[str]:
    """Yield what users outside the group may write to, or pass into from the top."""
    if root.stat().st_mode & 0o007:
        yield str(root)
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            status = os.lstat(f"{folder}/{name}")
            if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o002:
                yield f"{folder}/{name}"


class _Owner:
    """Whoever a link tells what came."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    def received(self, kind: int, number: int, payload: bytes) -> None:
        self.heard.set()

    def lost(self) -> None: ...


async def score(home: Home, blobs: MemoryBlobs) -> dict[str, object]:
    """Start a scoring worker and reach it."""
    code = await home.files.checkout("svc-1", await tree(blobs, {"score.py": SCORE}), blobs)
    socket = home.sockets / "worker"
    worker = Path(str(cloche_runtime.__file__)).with_name("scoring_worker.py")
    env = {"PATH": BIN, "CLOCHE_SCORING_SOCKET": str(socket), "AML_APP_ROOT": str(code)}
    env |= {"AZUREML_ENTRY_SCRIPT": "score.py", "CLOCHE_SCORING_ORPHAN_SECONDS": "30"}
    argv = [sys.executable, "-u", str(worker)]
    process = await home.executor.start(ProcessSpec("svc-1", "deployer", argv, code, env))
    owner = _Owner()
    link = None
    async with asyncio.timeout(20):
        while link is None:
            try:
                link = await UnixConnector().connect(str(socket), owner)
            except Unavailable:
                await asyncio.sleep(0.02)
        await owner.heard.wait()
    status = socket.stat()
    found = {"owner": status.st_uid, "gid": status.st_gid, "mode": stat.S_IMODE(status.st_mode)}
    link.close()
    await process.cancel(grace=0)
    return {**found, "ended": (await process.wait()).ending}


async def main(step: str, data: Path, socket: str) -> None:
    """Do one of the two and print what was found."""
    owner, work = {"run": ("runner", run), "score": ("deployer", score)}[step]
    sharing = Sharing(os.getgid())
    with held_node(data, "n1", owner, sharing) as node:
        executor = SocketExecutor(Path(socket), owner)
        files = LocalNodeFiles(node.root, Interpreters(path=""), sharing=sharing)
        home = Home(node.root, node.sockets, Path(socket), executor, files, sharing)
        try:
            sys.stdout.write(json.dumps({"uid": os.getuid(), **await work(home, MemoryBlobs())}))
        finally:
            await executor.close()
            await files.close()


if __name__ == "__main__":
    os.umask(0o077)
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
