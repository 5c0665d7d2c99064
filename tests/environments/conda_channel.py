"""A small real conda channel that is made on the spot, and a loopback server for it.

The interpreter at hand becomes the package `python`, with its prefix as placeholder; the other packages
are of a few files each. Both package formats are written with the standard library alone: the zstd frames of
`.conda` files hold raw blocks (RFC 8878 §3.1.1.2), which every reader takes and nobody has to compress.
"""

import asyncio
import base64
import bz2
import functools
import hashlib
import io
import json
import os
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

SUBDIR = "linux-64" if os.uname().machine == "x86_64" else f"linux-{os.uname().machine}"
PLACEHOLDER = "/opt/anaconda1anaconda2anaconda3" + "_placehold" * 22
"""As conda-build makes them: longer than any prefix, so that it can be replaced inside a binary."""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = f"{MINOR}.{sys.version_info.micro}"
LEFT_OUT = {"site-packages", "pydoc_data", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip"}
BLOCK = 128 << 10


@dataclass(frozen=True)
class File:
    """A file of a package. `mode`: how its placeholder is replaced (`text`, `binary`, or empty); `mtime` in seconds."""

    data: bytes
    mode: str = ""
    placeholder: str = PLACEHOLDER
    executable: bool = False
    mtime: int = 0


@dataclass(frozen=True)
class Link:
    """A symbolic link of a package."""

    target: str


@dataclass(frozen=True)
class CondaPackage:
    """One build of a package. `noarch` is empty, `generic` or `python`; `format` `conda` or `tar.bz2`."""

    name: str
    version: str
    files: Mapping[str, bytes | File | Link] = field(default_factory=dict)
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    noarch: str = "generic"
    entry_points: tuple[str, ...] = ()
    format: str = "conda"
    info: Mapping[str, bytes] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def subdir(self) -> str:
        return "noarch" if self.noarch else SUBDIR

    @property
    def build(self) -> str:
        return {"python": "pyh0_0", "generic": "h0_0"}.get(self.noarch, "h1_0")

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def filename(self) -> str:
        return f"{self.stem}.{self.format}"


def python_module(name: str, version: str, source: str, **more: object) -> CondaPackage:
    """Return a noarch Python package of one module, with the metadata that pip's world knows it by."""
    info = f"site-packages/{name}-{version}.dist-info"
    files = {
        f"site-packages/{name}.py": source.encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/INSTALLER": b"conda\n",
        f"{info}/RECORD": f"{name}.py,,\n{info.rpartition('/')[2]}/METADATA,,\n".encode(),
    }
    more.setdefault("depends", ("python",))
    return CondaPackage(name, version, files, noarch="python", **more)  # type: ignore[arg-type] - fields by name


PACKAGES = (
    # two versions, the newer of which depends on another package
    CondaPackage("alpha", "1.0", {"share/alpha.txt": b"one\n"}),
    CondaPackage("alpha", "2.0", {"share/alpha.txt": b"two\n"}, ("beta <2",)),
    CondaPackage("beta", "1.5", {"share/beta.txt": b"beta\n"}, format="tar.bz2"),
    CondaPackage("beta", "2.0", {"share/beta.txt": b"beta two\n"}),
    # cannot be had together with alpha 2
    CondaPackage("gamma", "1.0", {"share/gamma.txt": b"gamma\n"}, ("beta >=2",)),
    # what placeholders, links and scripts need
    CondaPackage(
        "placed",
        "1.0",
        {
            "bin/placed": File(f"#!{PLACEHOLDER}/bin/python\nprint('placed')\n".encode(), "text", executable=True),
            "etc/placed.conf": File(f"home={PLACEHOLDER}/share\nagain={PLACEHOLDER}\n".encode(), "text"),
            "lib/placed.bin": File(b"\x7fBIN" + PLACEHOLDER.encode() + b"/lib:rest\0tail\0\xff", "binary"),
            "lib/libplaced.so": Link("placed.bin"),
        },
        ("python",),
        noarch="",
    ),
    CondaPackage("scripted", "1.0", {"bin/.scripted-post-link.sh": b"#!/bin/sh\ntouch $PREFIX/ran\n"}, noarch=""),
    python_module("numlike", "1.26.4", "version = '1.26.4'\n"),
    python_module("numlike", "2.0.0", "version = '2.0.0'\n"),
    python_module(
        "learner",
        "1.0",
        "import numlike\ndef main():\n    print('learner with', numlike.version)\n",
        depends=("python >=3.8", "numlike <2"),
        entry_points=("learner = learner:main",),
        format="tar.bz2",
    ),
    # is there for another platform only, as a pin from a laptop is
    CondaPackage("vs2015_runtime", "14.0", {"share/vs.txt": b""}, ("__win",)),
)


def _record(package: CondaPackage) -> dict[str, object]:
    record: dict[str, object] = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "build_number": 0,
        "depends": list(package.depends),
        "constrains": list(package.constrains),
        "subdir": package.subdir,
        "timestamp": 1_700_000_000_000,
        "license": "MIT",
        **package.extra,
    }
    if package.noarch:
        record["noarch"] = package.noarch
    else:
        record |= {"platform": "linux", "arch": SUBDIR.removeprefix("linux-").replace("64", "x86_64", 1)}
    return record


def _path(path: str, content: bytes | File | Link) -> dict[str, object]:
    if isinstance(content, Link):
        return {"_path": path, "path_type": "softlink", "sha256": hashlib.sha256(b"").hexdigest(), "size_in_bytes": 0}
    file = content if isinstance(content, File) else File(content)
    entry: dict[str, object] = {
        "_path": path,
        "path_type": "hardlink",
        "sha256": hashlib.sha256(file.data).hexdigest(),
        "size_in_bytes": len(file.data),
    }
    return entry | ({"file_mode": file.mode, "prefix_placeholder": file.placeholder} if file.mode else {})


def _info(package: CondaPackage) -> dict[str, bytes]:
    paths = [_path(path, content) for path, content in package.files.items()]
    info = {
        "info/index.json": json.dumps(_record(package)).encode(),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}).encode(),
        **package.info,
    }
    if package.noarch == "python":
        noarch = {"type": "python", "entry_points": list(package.entry_points)}
        info["info/link.json"] = json.dumps({"noarch": noarch, "package_metadata_version": 1}).encode()
    return info


def _tar(files: Mapping[str, bytes | File | Link]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            if isinstance(content, Link):
                member.type, member.linkname = tarfile.SYMTYPE, content.target
                archive.addfile(member)
                continue
            file = content if isinstance(content, File) else File(content)
            member.size, member.mode = len(file.data), 0o755 if file.executable else 0o644
            member.mtime = file.mtime
            archive.addfile(member, io.BytesIO(file.data))
    return raw.getvalue()


def raw_zstd(data: bytes) -> bytes:
    """Return a zstd frame that holds the bytes as they are."""
    # single segment, content size in 8 bytes, no checksum; each block: last flag, type 0 (raw), size
    out = [b"\x28\xb5\x2f\xfd", b"\xe0", len(data).to_bytes(8, "little")]
    starts = range(0, max(len(data), 1), BLOCK)
    for start in starts:
        block = data[start : start + BLOCK]
        header = (start == starts[-1]) | len(block) << 3
        out += [header.to_bytes(3, "little"), block]
    return b"".join(out)


def package_bytes(package: CondaPackage) -> bytes:
    """Return the file of a package."""
    if package.format == "tar.bz2":
        return bz2.compress(_tar({**_info(package), **package.files}), 1)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (
            ("metadata.json", json.dumps({"conda_pkg_format_version": 2}).encode()),
            (f"pkg-{package.stem}.tar.zst", raw_zstd(_tar(package.files))),
            (f"info-{package.stem}.tar.zst", raw_zstd(_tar(_info(package)))),
        ):
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return whole.getvalue()


def _stdlib(prefix: str) -> dict[str, bytes | File | Link]:
    """Return the standard library with the bytecode that lies beside it, as conda's own python brings it."""
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": prefix, "base": prefix}))
    found: dict[str, bytes | File | Link] = {}
    for folder, below, names in os.walk(stdlib):
        below[:] = sorted(name for name in below if name not in LEFT_OUT and not name.startswith("config-"))
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix == ".pyc" and not name.endswith(f".{sys.implementation.cache_tag}.pyc"):
                continue
            data = path.read_bytes()
            named = name.startswith("_sysconfigdata") and prefix.encode() in data and len(prefix) > len("/usr/x")
            file = File(data, "text" if named else "", prefix, mtime=int(path.stat().st_mtime))
            found[f"lib/python{MINOR}/{path.relative_to(stdlib)}"] = file
    return found


@functools.cache
def python_package(version: str = PYTHON) -> CondaPackage:
    """Return the interpreter that runs this as a package; it finds its library by its own place."""
    prefix = sys.base_prefix
    program = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    files = _stdlib(prefix)
    files[f"bin/python{MINOR}"] = File(program.read_bytes(), executable=True)
    files["bin/python3"] = files["bin/python"] = Link(f"python{MINOR}")
    files[f"lib/python{MINOR}/site-packages/README.txt"] = b"Packages are here.\n"
    for library in Path(prefix, "lib").glob(f"libpython{MINOR}.so*"):
        if not library.is_symlink():
            files[f"lib/{library.name}"] = File(library.read_bytes(), executable=True)
    return CondaPackage("python", version, files, noarch="")


def write_channel(folder: Path, *packages: CondaPackage) -> None:
    """Write the packages' files into the folders of a channel; `index` makes it one."""
    for subdir in (SUBDIR, "noarch"):
        (folder / subdir).mkdir(parents=True, exist_ok=True)
    for package in packages:
        (folder / package.subdir / package.filename).write_bytes(package_bytes(package))


async def make_channel(folder: Path, *packages: CondaPackage) -> Path:
    """Make a channel of these packages; returns its folder."""
    from rattler.index import index_fs  # noqa: PLC0415 - large: only tests of conda packages load it

    await asyncio.to_thread(write_channel, folder, *packages)
    await index_fs(folder)
    return folder


@dataclass
class CondaServer:
    """A channel over HTTP: what it asks for, what it was asked, and how it misbehaves."""

    root: Path
    user: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)
    status: int = 0

    def with_user(self, user: str) -> str:
        return self.url.replace("http://", f"http://{user}@")

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        self.asked.append(path)
        wanted = "Basic " + base64.b64encode(self.user.encode()).decode()
        if self.user and authorization != wanted:
            return 401, b"who are you"
        if self.status:
            return self.status, b"no"
        file = self.root / unquote(path.partition("?")[0]).removeprefix("/channel/")
        if not file.is_file():
            return 404, b"not here"
        return 200, b"corrupt" if file.name in self.corrupt else file.read_bytes()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = [line.partition(":") for line in head.split("\r\n")[1:]]
            headers = {name.lower(): value.strip() for name, _, value in lines}
            status, body = self.answer(head.split(" ")[1], headers.get("authorization", ""))
            challenge = 'WWW-Authenticate: Basic realm="x"\r\n' if status == 401 else ""
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{challenge}Connection: close\r\n\r\n".encode()
            )
            if not head.startswith("HEAD"):
                writer.write(body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running_channel(root: Path, user: str = "") -> AsyncIterator[CondaServer]:
    """Serve a channel's folder on loopback; `user` is `name:password` where it asks for one."""
    channel = CondaServer(root, user)
    server = await asyncio.start_server(channel.serve, "127.0.0.1", 0)
    channel.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/channel"
    async with server:
        yield channel
