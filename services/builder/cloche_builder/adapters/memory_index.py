"""A package index in memory, as resolver and HTTP client in one: for the simulation.

`packages` maps names to versions; whatever else is asked for is not found. Every file's bytes follow
from its name, so a seed replays whole builds.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cloche_shared.contracts.definition import Definition
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blob, Blobs
from cloche_shared.ports.platform import HttpAnswer
from cloche_shared.ports.resolver import BuiltWheel, Choice, Resolution, Say

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _content(url: str) -> bytes:
    return f"the bytes of {url}".encode()


@dataclass(slots=True)
class MemoryIndex:
    """`Resolver` and `Http`. `seconds` is how long solving takes; `solved` counts how often it was done."""

    packages: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    solved: int = 0

    async def resolve(self, definition: Definition, say: Say) -> Resolution:
        self.solved += 1
        await say(f"Resolving {len(definition.python.pip)} requirements")
        await asyncio.sleep(self.seconds)
        choices = tuple(self._choice(line) for line in definition.python.pip)
        python = definition.python.version or "3.11"
        return Resolution(python, "python3", "linux-x86_64", choices, 'lock-version = "1.0"\n')

    def _choice(self, requirement: str) -> Choice:
        match = _NAME.match(requirement)
        name = match[0] if match else requirement
        version = self.packages.get(name)
        if version is None:
            raise Failed(
                "package_not_found",
                f"There is no package {name}.",
                todo="Correct its name in the requirements.",
                extra={"package": name},
            )
        filename = f"{name}-{version}-py3-none-any.whl"
        url = f"https://index.invalid/{filename}"
        digest = "sha256:" + hashlib.sha256(_content(url)).hexdigest()
        return Choice("wheel", name, version, filename, url, digest, len(_content(url)))

    async def build_wheel(self, resolution: Resolution, choice: Choice, sdist: str, say: Say) -> BuiltWheel:  # noqa: ARG002 - the port's signature
        raise Failed("compile_error", f"{choice.name} cannot be built here.", extra={"package": choice.name})

    async def keep(self, built: BuiltWheel, blobs: Blobs) -> Blob:
        return await blobs.put_bytes(_content(built.filename))

    async def release(self, built: BuiltWheel) -> None:
        """Nothing is left behind."""

    @asynccontextmanager
    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - the port's signature
        timeout: float = 60.0,  # noqa: ARG002, ASYNC109 - the port's signature
    ) -> AsyncIterator[HttpAnswer]:
        yield HttpAnswer(200, {}, _once(_content(url)))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
