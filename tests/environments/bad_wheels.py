"""Wheels that must be refused, each with the code that it gets."""

import base64
import hashlib
import io
import stat
import zipfile
from collections.abc import Mapping

INFO = "alpha-1.0.dist-info"
WHEEL = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
METADATA = "Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n"


def row(name: str, text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(text)}\n"


def wheel(
    files: Mapping[str, str],
    *,
    record: str | None = None,
    wheel_file: str = WHEEL,
    mode: int = 0,
    info: str = INFO,
) -> bytes:
    everything = {**files, f"{info}/METADATA": METADATA, f"{info}/WHEEL": wheel_file}
    rows = "".join(row(name, text) for name, text in everything.items()) if record is None else record
    everything[f"{info}/RECORD"] = rows
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in everything.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (mode if name in files else 0) << 16
            archive.writestr(entry, text)
    return target.getvalue()


GOOD = wheel({"alpha.py": "a = 1\nb = 2\n"})
OTHER = row("alpha.py", "other")
NAME = b"alpha.py"
BIT_ENCRYPTED = 1


def renamed(wheel: bytes, name: bytes, *, local: bool = True, central: bool = True) -> bytes:
    """Return the wheel with `alpha.py` under another name of the same length, in one or both of its headers."""
    first, rest = wheel.split(NAME, 1)
    middle, last = rest.rsplit(NAME, 1)
    return first + (name if local else NAME) + middle + (name if central else NAME) + last


def encrypted(wheel: bytes) -> bytes:
    """Return the wheel with its first file's bit for encryption set in the central directory."""
    at = wheel.index(b"PK\x01\x02") + 8
    return wheel[:at] + bytes([wheel[at] | BIT_ENCRYPTED]) + wheel[at + 1 :]


COMMON = row(f"{INFO}/METADATA", METADATA) + row(f"{INFO}/WHEEL", WHEEL)

BAD_WHEELS: dict[str, tuple[str, bytes]] = {
    "no zip": ("invalid_wheel", b"this is no archive"),
    "empty": ("invalid_wheel", b""),
    "truncated": ("invalid_wheel", GOOD[: len(GOOD) // 2]),
    "damaged": ("invalid_wheel", GOOD[:42] + bytes([GOOD[42] ^ 0xFF]) + GOOD[43:]),
    "content is not what RECORD says": ("invalid_wheel", wheel({"alpha.py": "x"}, record=OTHER + COMMON)),
    "file not in RECORD": ("invalid_wheel", wheel({"alpha.py": "x"}, record=COMMON)),
    "no hash in RECORD": ("invalid_wheel", wheel({"alpha.py": "x"}, record="alpha.py,,\n" + COMMON)),
    "weak hash in RECORD": ("invalid_wheel", wheel({"alpha.py": "x"}, record="alpha.py,md5=aaaa,1\n" + COMMON)),
    "another format": ("invalid_wheel", wheel({}, wheel_file="Wheel-Version: 2.0\n")),
    "no dist-info of its name": ("invalid_wheel", wheel({}, info="other-1.0.dist-info")),
    "unknown scheme": ("invalid_wheel", wheel({"alpha-1.0.data/evil/x": "x"})),
    "replaces the interpreter": ("invalid_wheel", wheel({"alpha-1.0.data/scripts/python": "x"})),
    "replaces pyvenv.cfg": ("invalid_wheel", wheel({"alpha-1.0.data/data/pyvenv.cfg": "home=/x"})),
    "entry point with a path": (
        "invalid_wheel",
        wheel({f"{INFO}/entry_points.txt": "[console_scripts]\n../../evil = alpha:main\n"}),
    ),
    "climbs out": ("unsafe_archive", wheel({"../../../../evil": "x"})),
    "climbs out of its scheme": ("unsafe_archive", wheel({"alpha-1.0.data/data/../../../../evil": "x"})),
    "absolute": ("unsafe_archive", wheel({"/evil": "x"})),
    "drive letter": ("unsafe_archive", wheel({"C:/evil": "x"})),
    "backslash": ("unsafe_archive", wheel({"..\\evil": "x"})),
    "symbolic link": ("unsafe_archive", wheel({"link": "/etc/passwd"}, mode=stat.S_IFLNK | 0o777)),
    "device": ("unsafe_archive", wheel({"device": ""}, mode=stat.S_IFCHR | 0o666)),
    "too deep": ("unsafe_archive", wheel({"/".join(["d"] * 40): "x"})),
    "same name but for case": ("unsafe_archive", wheel({"Alpha.py": "x", "alpha.py": "y"})),
    "file below a file": ("unsafe_archive", wheel({"a": "x", "a/b": "y"})),
    "another name inside than in the directory": ("invalid_wheel", renamed(GOOD, b"../x.pyc", central=False)),
    "climbs out by its directory only": ("unsafe_archive", renamed(GOOD, b"../x.pyc", local=False)),
    "a name with a NUL": ("unsafe_archive", renamed(GOOD, b"alpha\x00py")),
    "encrypted": ("unsafe_archive", encrypted(GOOD)),
    "two files of one name": (
        "unsafe_archive",
        wheel({"alpha.py": "x", "aLpHa.py": "y"}).replace(b"aLpHa.py", b"alpha.py"),
    ),
    "bomb": ("unsafe_archive", wheel({"bomb.txt": "0" * (20 << 20)})),
}
