"""The one place that names an image: each role's public default, the variable that overrides it, its local recipe."""

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class Program:
    """A Go program: `package` is built in the recipe's module, whose go.mod and go.sum pin every version."""

    package: str
    binary: str
    # What the linker writes into it, as `name=value`: a program built as a module knows no version of its own.
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What goes into a local image. `on` is the role below it; without one the root is made of `debian` packages."""

    debian: tuple[str, ...] = ()
    program: Program | None = None
    jars: bool = False
    on: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """A server that the tests need, and the images that can play it."""

    name: str
    public: str
    recipe: Recipe

    @property
    def variable(self) -> str:
        """The environment variable that overrides the image, here and in compose.yaml."""
        return "CLOCHE_IMAGE_" + self.name.upper().replace("-", "_")

    @property
    def override(self) -> str:
        return os.environ.get(self.variable, "")

    @property
    def folder(self) -> Path:
        return RECIPES / self.name

    @property
    def digest(self) -> str:
        """What the local image depends on: the recipe, its files, the role below and the processor."""
        found = hashlib.sha256(f"{self.recipe!r} {platform.machine()}".encode())
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            found.update(f"\0{path.relative_to(self.folder)}\0".encode() + path.read_bytes())
        if self.recipe.on:
            found.update(ROLES[self.recipe.on].digest.encode())
        return found.hexdigest()[:12]

    @property
    def local(self) -> str:
        """The name of the image that the local recipe makes."""
        return f"cloche-test/{self.name}:{self.digest}"


ROLES = {
    role.name: role
    for role in (
        Role(
            "python-base",
            "python:3.12-slim",
            Recipe(debian=("python3", "python3-venv", "python-is-python3", "ca-certificates")),
        ),
        Role("kafka", "apache/kafka:4.1.0", Recipe(debian=("openjdk-17-jre-headless",), jars=True)),
        Role("mongo", "mongo:8.0", Recipe(debian=("postgresql-15",), program=Program(".", "mongod"))),
        Role(
            "s3",
            "versity/versitygw:v1.8.0",
            Recipe(program=Program("github.com/versity/versitygw/cmd/versitygw", "versitygw"), on="python-base"),
        ),
        Role(
            "s3-second",
            "minio/minio:RELEASE.2025-09-07T16-13-09Z",
            Recipe(program=Program("github.com/minio/minio", "minio"), on="python-base"),
        ),
        Role("gateway", "nginx:1.28", Recipe(debian=("nginx-light", "ca-certificates"))),
    )
}

# No image: the compose plugin, for an engine that has none.
COMPOSE = Role(
    "compose",
    "",
    Recipe(
        program=Program(
            "github.com/docker/compose/v2/cmd",
            "docker-compose",
            stamp="github.com/docker/compose/v2/internal.Version=v2.40.3",
        )
    ),
)
