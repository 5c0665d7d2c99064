"""Makes the images of Cloche: `python compose/images.py [--tag TAG]`. Only here is anything fetched, not in the builds.

The base is `CLOCHE_IMAGE_PYTHON_BASE`, or Python's own slim image. Wheels are those of uv.lock, with its hashes.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = ROOT / "build" / "images"
BASE = "python:3.12-slim"
DOCKERFILES = {
    "executor": ROOT / "compose" / "executor" / "Dockerfile",
    **{name: ROOT / "services" / name / "Dockerfile" for name in ("registry", "builder", "runner", "deployer")},
}
OLDEST_GLIBC = 4
_ASK = (
    "import json, platform, sys; print(json.dumps([*sys.version_info[:2], platform.machine(), platform.libc_ver()[1]]))"
)


def call(*command: str, given: bytes | None = None, **variables: str) -> bytes:
    """Run a command; what it prints on its standard output is returned, and the script ends when it fails.

    What it says besides is shown then only: an engine without BuildKit warns with each image that it has none.
    """
    done = subprocess.run(  # noqa: S603 - an argument list of ours
        command, cwd=ROOT, input=given, capture_output=True, env=os.environ | variables, check=False
    )
    if done.returncode:
        sys.stdout.buffer.write(done.stdout[-4000:] + done.stderr[-4000:])
        sys.exit(f"{' '.join(command[:3])} failed")
    return done.stdout


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stderr.write(f"images: {text}\n")


def wheels(base: str) -> None:
    """Fill the context with the requirements of uv.lock, their wheels for the base's Python, and our own."""
    uv = str(Path(sys.executable).with_name("uv"))
    CONTEXT.mkdir(parents=True, exist_ok=True)
    wanted = CONTEXT / "requirements.txt"
    call(uv, "export", "--quiet", "--frozen", "--no-dev", "--extra", "cluster", "--no-emit-project", "-o", str(wanted))
    python = json.loads(call("docker", "run", "--rm", "--network", "none", base, "python3", "-c", _ASK))
    (CONTEXT / ".python").write_text(json.dumps(python))
    marker, mark = CONTEXT / ".fetched", f"{python} {hashlib.sha256(wanted.read_bytes()).hexdigest()}"
    if not marker.exists() or marker.read_text() != mark:
        fetch(wanted, *python)
        marker.write_text(mark)
    for old in CONTEXT.glob("cloche-*.whl"):
        old.unlink()
    call(uv, "build", "--quiet", "--wheel", "-o", str(CONTEXT))


def fetch(wanted: Path, major: int, minor: int, machine: str, libc: str) -> None:
    """Download the wheels, each with a hash that uv.lock names, into a folder of their own."""
    house = CONTEXT / "wheelhouse"
    shutil.rmtree(house, ignore_errors=True)
    house.mkdir()
    newest = int(libc.split(".")[1])
    platforms = [f"manylinux_2_{one}_{machine}" for one in range(newest, OLDEST_GLIBC, -1)] + [
        f"manylinux2014_{machine}"
    ]
    say(f"fetching wheels for Python {major}.{minor}, {machine}, glibc {libc}")
    call(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--only-binary", ":all:", "--require-hashes", "--python-version", f"{major}.{minor}"),
        *(part for one in platforms for part in ("--platform", one)),
        *("-d", str(house), "-r", str(wanted)),
    )


def build(tag: str, base: str) -> None:
    """Build the common image, then the thin ones on it."""
    common = f"cloche/base:{tag}"
    classic = {"DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")}
    how = ("docker", "build", "--quiet", "--network", "none")
    say(common)
    call(
        *(*how, "-t", common, "--build-arg", f"BASE={base}", "-f", str(ROOT / "compose" / "Dockerfile"), str(CONTEXT)),
        **classic,
    )
    for name, file in DOCKERFILES.items():
        say(f"cloche/{name}:{tag}")
        call(
            *(*how, "-t", f"cloche/{name}:{tag}", "--build-arg", f"BASE={common}", "-"),
            given=file.read_bytes(),
            **classic,
        )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--tag", default=os.environ.get("CLOCHE_TAG", "local"))
    tag = asked.parse_args().tag
    base = os.environ.get("CLOCHE_IMAGE_PYTHON_BASE", BASE)
    wheels(base)
    build(tag, base)


if __name__ == "__main__":
    main()
