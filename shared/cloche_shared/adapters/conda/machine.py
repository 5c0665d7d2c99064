"""What conda is told of the machines that environments are made for: its virtual packages."""

import platform
import re

BASELINE = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64", "ppc64le": "ppc64le"}
"""The least processor of a machine type: what is made for more would not run everywhere."""


def virtual_packages(glibc: str = "", cuda: str = "") -> tuple[str, ...]:
    """Return this machine's virtual packages, each `name=version=build`.

    `glibc` and `cuda` are versions that stand for the machines that run environments; an empty glibc is
    this machine's, an empty cuda none.
    """
    kernel = re.match(r"\d+(\.\d+)*", platform.release())
    found = ["__unix=0=0"]
    if platform.system() == "Linux":
        found.append(f"__linux={kernel[0] if kernel else '0'}=0")
    library, version = platform.libc_ver()
    if glibc or library == "glibc":
        found.append(f"__glibc={glibc or version}=0")
    machine = BASELINE.get(platform.machine().lower())
    if machine is not None:
        found.append(f"__archspec=1={machine}")
    if cuda:
        found.append(f"__cuda={cuda}=0")
    return tuple(found)
