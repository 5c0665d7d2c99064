"""Channels and platforms by conda's names."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from cloche_shared.errors import Failed

CHANNEL_ALIAS = "https://conda.anaconda.org"
DEFAULT_CHANNELS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
"""What the channel `defaults` stands for, as conda resolves it outside Windows."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/(label/)?[A-Za-z0-9][A-Za-z0-9._-]*)*")
_MACHINES = {"x86_64": "64", "amd64": "64", "arm64": "arm64", "aarch64": "aarch64", "ppc64le": "ppc64le"}
_SYSTEMS = {"linux": "linux", "macosx": "osx", "darwin": "osx", "win": "win"}


def channel_urls(channels: Sequence[str], alias: str = CHANNEL_ALIAS) -> tuple[str, ...]:
    """Return the addresses of channels, in order and each once: a name stands for one below `alias`.

    Raises `Failed` (code `invalid_channel`).
    """
    found: dict[str, None] = {}
    for channel in channels:
        text = channel.strip().rstrip("/")
        for url in DEFAULT_CHANNELS if text == "defaults" else (_url(text, alias),):
            found.setdefault(url)
    return tuple(found)


def _url(text: str, alias: str) -> str:
    if urlsplit(text).scheme in {"http", "https", "file"}:
        return text
    if not _NAME.fullmatch(text):
        raise Failed(
            "invalid_channel",
            f"{text[:200]!r} is no conda channel.",
            todo="Give the channel's name, such as `conda-forge`, or its address.",
        )
    return f"{alias.rstrip('/')}/{text}"


def subdir_of(platform: str) -> str:
    """Return conda's name (`linux-64`) of a platform tag (`linux-x86_64`).

    Raises `Failed` (code `platform_not_supported`).
    """
    system, _, machine = platform.partition("-")
    known = _SYSTEMS.get(re.sub(r"[\d._]*$", "", system)), _MACHINES.get(machine.rpartition("-")[2].lower())
    if None in known:
        raise Failed("platform_not_supported", f"There are no conda packages for {platform[:64]}.")
    return "-".join(part for part in known if part)


def with_user(url: str, channels: Sequence[str]) -> str:
    """Return the address of a file with the credentials of the channel on its host, where it has none of its own."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return url
    for channel in channels:
        user, at, host = urlsplit(channel).netloc.rpartition("@")
        if at and host.lower() == parts.netloc.lower():
            return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc}"))
    return url
