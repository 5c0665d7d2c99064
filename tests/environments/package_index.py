"""A package index on loopback that serves small packages made on the fly (PEP 503 pages, PEP 691 JSON)."""

import asyncio
import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cloche_shared.adapters.memory_resolver import Package, wheel_bytes

BACKEND = """
import base64, hashlib, os, zipfile
NAME, VERSION, FAILS = {name!r}, {version!r}, {fails!r}
def get_requires_for_build_wheel(config_settings=None):
    return []
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    if FAILS:
        print("cc -c fast.c")
        print("fast.c:1:10: fatal error: nowhere.h: No such file or directory")
        raise SystemExit(1)
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    files = {{
        f"{{NAME}}.py": f"built = True\\nflavour = {{os.environ.get('FLAVOUR', '')!r}}\\n",
        f"{{info}}/METADATA": f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n",
        f"{{info}}/WHEEL": "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    rows = [
        f"{{n}},sha256={{base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).decode().rstrip('=')}},{{len(t)}}"
        for n, t in files.items()
    ]
    files[f"{{info}}/RECORD"] = "\\n".join([*rows, f"{{info}}/RECORD,,", ""])
    filename = f"{{NAME}}-{{VERSION}}-py3-none-any.whl"
    with zipfile.ZipFile(f"{{wheel_directory}}/{{filename}}", "w") as archive:
        for n, t in files.items():
            archive.writestr(n, t)
    return filename
"""


def sdist_bytes(package: Package) -> bytes:
    stem = f"{package.name.replace('-', '_')}-{package.version}"
    metadata = f"Metadata-Version: 2.2\nName: {package.name}\nVersion: {package.version}\n"
    module = package.name.replace("-", "_")
    files = {
        "PKG-INFO": metadata,
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{package.name}"\nversion = "{package.version}"\n',
        "backend.py": BACKEND.format(name=module, version=package.version, fails=not package.compiles),
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{stem}/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(raw.getvalue(), mtime=0)


@dataclass
class PackageIndex:
    """What the index has, what it asks for, and what it was asked."""

    packages: list[Package] = field(default_factory=list)
    user: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)
    failing: int = 0

    def content(self, package: Package) -> bytes:
        return sdist_bytes(package) if package.only_source else wheel_bytes(package)

    def with_user(self, user: str) -> str:
        return self.url.replace("http://", f"http://{user}@")

    def page(self, name: str) -> bytes | None:
        files = [
            {
                "filename": package.filename,
                "url": f"../../files/{package.filename}",
                "hashes": {"sha256": hashlib.sha256(self.content(package)).hexdigest()},
                "size": len(self.content(package)),
            }
            for package in self.packages
            if package.name == name
        ]
        body = {"meta": {"api-version": "1.0"}, "name": name, "files": files}
        return json.dumps(body).encode() if files else None

    def file(self, filename: str) -> bytes | None:
        for package in self.packages:
            if package.filename == filename:
                return b"corrupt" if filename in self.corrupt else self.content(package)
        return None

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        self.asked.append(path)
        wanted = "Basic " + base64.b64encode(self.user.encode()).decode()
        if self.user and authorization != wanted:
            return 401, b"who are you"
        if path.startswith("/files/"):
            if self.failing > 0:
                self.failing -= 1
                return 503, b"later"
            data = self.file(path.removeprefix("/files/"))
        else:
            data = self.page(path.removeprefix("/simple/").strip("/"))
        return (404, b"not here") if data is None else (200, data)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            headers = {
                line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head.split("\r\n")[1:]
            }
            status, body = self.answer(path, headers.get("authorization", ""))
            kind = "application/octet-stream" if "/files/" in path else "application/vnd.pypi.simple.v1+json"
            challenge = 'WWW-Authenticate: Basic realm="x"\r\n' if status == 401 else ""
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{challenge}"
                "Connection: close\r\n\r\n".encode()
            )
            if not head.startswith("HEAD"):
                writer.write(body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running_index(*packages: Package, user: str = "") -> AsyncIterator[PackageIndex]:
    index = PackageIndex(list(packages), user=user)
    server = await asyncio.start_server(index.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    index.url = f"http://127.0.0.1:{port}/simple"
    async with server:
        yield index
