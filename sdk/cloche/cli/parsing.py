"""Values as they are typed on the command line: sizes, durations, pairs, GPUs, references."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cloche._errors import Invalid

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def parse_size(text: str) -> int:
    """Return bytes: `1048576`, `512M`, `2GiB`, `1.5GB` (powers of 1024 with and without `i`: memory is meant).

    Raises `Invalid` (`invalid_size`).
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise Invalid(
            "invalid_size", f"{text!r} is not a size.", todo="Write bytes, or a number and K, M, G or T: 2GiB."
        )
    return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])


def parse_duration(text: str) -> float:
    """Return seconds: `90`, `90s`, `15m`, `2h`, `1h30m`, `500ms`. Raises `Invalid` (`invalid_duration`)."""
    plain = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", plain):
        return float(plain)
    parts = _DURATION.findall(plain)
    if not parts or "".join(number + unit for number, unit in parts) != plain:
        raise Invalid("invalid_duration", f"{text!r} is not a duration.", todo="Write seconds, or 90s, 15m, 2h, 1h30m.")
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def parse_pairs(texts: Iterable[str], option: str, *, variables: bool = False) -> dict[str, str]:
    """Return what `KEY=VALUE` texts say; the last one of a key wins; a value may hold further `=`.

    `variables`: keys are names of environment variables. Raises `Invalid` (`invalid_pair`).
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key or (variables and not _VARIABLE.fullmatch(key)):
            raise Invalid("invalid_pair", f"{option} {text!r} is not KEY=VALUE.", todo=f"Write {option} NAME=value.")
        pairs[key] = value
    return pairs


@dataclass(frozen=True, slots=True)
class Gpus:
    """How many GPUs, and of which kind (empty: any)."""

    count: int = 0
    kind: str = ""


def parse_gpus(text: str) -> Gpus:
    """Read `2` or `1:H200`; an empty text asks for none. Raises `Invalid` (`invalid_gpus`)."""
    if not text:
        return Gpus()
    count, _, kind = text.partition(":")
    if not count.isdigit() or not count.isascii() or (":" in text and not kind):
        raise Invalid("invalid_gpus", f"{text!r} is not a number of GPUs.", todo="Write 2, or 1:H200 for a kind.")
    return Gpus(int(count), kind)


@dataclass(frozen=True, slots=True)
class Reference:
    """A name with a version or a label; without both it means the latest version."""

    name: str
    version: str | None = None
    label: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return self.name if self.label is None else f"{self.name}@{self.label}"


def parse_reference(text: str) -> Reference:
    """Read `name`, `name:version` or `name@label`; `latest` is what a bare name means.

    Raises `Invalid` (`invalid_reference`).
    """
    name, separator, rest = _split(text)
    if not _NAME.fullmatch(name) or (separator and not rest):
        raise _not_a_reference(text)
    if not separator or rest == "latest":
        return Reference(name)
    if separator == "@":
        return Reference(name, label=rest)
    if not rest.isdigit() or not rest.isascii():
        raise _not_a_reference(text)
    return Reference(name, version=rest)


def check_references(*texts: str) -> None:
    """Check what names something, before anything is sent; empty texts name nothing, and may."""
    for text in texts:
        if text:
            parse_reference(text)


def _split(text: str) -> tuple[str, str, str]:
    return text.partition(":") if ":" in text else text.partition("@")


def _not_a_reference(text: str) -> Invalid:
    return Invalid(
        "invalid_reference",
        f"{text!r} names nothing.",
        why="A name has letters, digits, dots, dashes and underscores; a version is a number.",
        todo="Write NAME, NAME:VERSION or NAME@LABEL.",
    )
