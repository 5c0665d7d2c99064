"""Images for the roles: found, pulled, or built here from packages by the recipes, and kept by their digests."""

import hashlib
import platform
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import docker
from docker.errors import APIError, BuildError, DockerException, ImageNotFound

from tests.environments.catalogue import COMPOSE, ROLES, Role
from tests.environments.engine import at, ours, plugins
from tests.environments.places import NotPossible, cache, call, locked, say

PULL_SECONDS = 900


class Registry:
    """Whether images can be pulled at all; the first refusal answers for all that follow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refusal = ""

    def pull(self, engine: docker.DockerClient, image: str) -> bool:
        with self._lock:
            if self._refusal:
                return False
            say(f"pulling {image}")
            try:
                engine.images.pull(image)
            except DockerException as error:
                self._refusal = str(error)
                say("no image registry is reachable; local recipes are used")
                return False
            return True


REGISTRY = Registry()


def present(engine: docker.DockerClient, image: str) -> bool:
    try:
        engine.images.get(image)
    except ImageNotFound:
        return False
    return True


def found(engine: docker.DockerClient, role: Role) -> str | None:
    """The image to use for a role without making one: the override, the local one, the public one where present."""
    if role.override:
        return role.override
    return next((image for image in (role.local, role.public) if present(engine, image)), None)


def image(engine: docker.DockerClient, role: Role) -> str:
    """The image of a role, pulled or built when it must be. Raises NotPossible with the reason."""
    with locked(f"image-{role.name}"):
        known = found(engine, role)
        if known:
            return known
        if not ours() and REGISTRY.pull(engine, role.public):
            return role.public
        return build(engine, role)


def images(engine: docker.DockerClient, roles: list[Role]) -> dict[str, str]:
    """The images of several roles, two at a time: packages are unpacked beside a compilation."""
    with ThreadPoolExecutor(2) as lanes:
        made = {role.name: lanes.submit(image, engine, role) for role in roles}
        plugin = lanes.submit(compose)
        plugin.result()
        chosen = {name: each.result() for name, each in made.items()}
    forget(engine)
    return chosen


def build(engine: docker.DockerClient, role: Role) -> str:
    """Make the local image of a role."""
    began = time.monotonic()
    say(f"{role.name}: building {role.local}")
    base = image(engine, ROLES[role.recipe.on]) if role.recipe.on else root(engine, role.recipe.debian)
    with tempfile.TemporaryDirectory(prefix="cloche-image-") as folder:
        context = Path(folder) / "context"
        shutil.copytree(role.folder, context)
        if role.recipe.program:
            shutil.copy2(program(role), context / role.recipe.program.binary)
        if role.recipe.jars:
            jars(context)
        assemble(engine, context, role.local, base)
    say(f"{role.name}: built in {time.monotonic() - began:.0f} s")
    return role.local


def assemble(engine: docker.DockerClient, context: Path, name: str, base: str) -> None:
    try:
        engine.images.build(
            path=str(context),
            tag=name,
            buildargs={"BASE": base},
            rm=True,
            forcerm=True,
            labels={"cloche.test": "image"},
        )
    except (BuildError, APIError) as error:
        raise NotPossible(f"The image {name} cannot be made: {error}") from error


def program(role: Role) -> Path:
    """Compile the Go program of a recipe into a file of its own; go.sum verifies what was downloaded."""
    if not shutil.which("go"):
        raise NotPossible(f"{role.name} is compiled where its image cannot be pulled, and Go is not installed.")
    wanted = role.recipe.program
    assert wanted is not None
    folder = cache() / "programs"
    folder.mkdir(exist_ok=True)
    target = folder / f"{wanted.binary}-{role.digest}"
    if target.exists():
        return target
    stamp = f"-X {wanted.stamp}" if wanted.stamp else ""
    flags = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}
    with tempfile.TemporaryDirectory(prefix="cloche-go-") as scratch:
        module = Path(scratch) / "module"
        shutil.copytree(role.folder, module)
        call(
            ["nice", "-n", "10", "go", "build", f"-ldflags=-s -w {stamp}", "-o", "../made", wanted.package],
            module,
            **flags,
        )
        shutil.move(Path(scratch) / "made", target)
    return target


def jars(context: Path) -> None:
    """Fetch the jars that pom.xml names and compare them with the committed digests."""
    if not shutil.which("mvn"):
        raise NotPossible("Kafka's image is made from Maven's packages where it cannot be pulled, and mvn is missing.")
    call(
        ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs"], context
    )
    call(["sha256sum", "--quiet", "--strict", "-c", "../jars.sha256"], context / "libs")


def root(engine: docker.DockerClient, packages: tuple[str, ...]) -> str:
    """An image of Debian's packages alone, from the system's own sources (its extra lists are left out)."""
    if not at("mmdebstrap"):
        raise NotPossible("A base image is made by mmdebstrap where none can be pulled, and it is not installed.")
    known = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
    sources = next((path for path in known if Path(path).is_file()), None)
    if not sources:
        raise NotPossible("A base image is made of Debian's packages, and this system has no list of their sources.")
    left_out = ("doc/*", "info/*", "locale/*")
    options = [
        "--variant=minbase",
        # It is thrown away when it is not whole: nothing is gained by waiting for the disk after each file.
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}" for folder in left_out),
        f"--include={','.join(packages)}",
    ]
    tag = hashlib.sha256(f"{options} {release()} {platform.machine()}".encode()).hexdigest()[:12]
    name = f"cloche-test/debian:{tag}"
    if not present(engine, name):
        with tempfile.TemporaryDirectory(prefix="cloche-root-") as folder:
            target = Path(folder) / "root.tar"
            call(["mmdebstrap", *options, release(), target, sources])
            engine.api.import_image(str(target), repository="cloche-test/debian", tag=tag)
    return name


def release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME="))


def forget(engine: docker.DockerClient) -> None:
    """Remove all but the two newest local images of each role; those of running containers stay."""
    for role in ROLES.values():
        repository = role.local.partition(":")[0]
        found = sorted(engine.images.list(repository), key=lambda each: str(each.attrs["Created"]), reverse=True)
        for old in found[2:]:
            with suppress(APIError):
                for tag in old.tags:
                    engine.images.remove(tag)


def compose() -> Path | None:
    """The compose plugin for an engine of ours; the user's own Docker brings its own."""
    if not ours():
        return None
    with locked("image-compose"):
        target = plugins() / "docker-compose"
        marker = plugins() / f".{COMPOSE.digest}"
        if not (target.exists() and marker.exists()):
            began = time.monotonic()
            say("compose: building the plugin")
            shutil.copy2(program(COMPOSE), target)
            marker.touch()
            say(f"compose: built in {time.monotonic() - began:.0f} s")
        return target
