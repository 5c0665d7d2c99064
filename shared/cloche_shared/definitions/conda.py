"""What may be asked of conda: match specifications and channels, and their one canonical form.

Two ways to write the same specification have one form: `numpy=1.26`, `numpy 1.26.*` and
`numpy[version='1.26.*']` are `numpy=1.26.*`. What is not understood is refused, never passed on.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from cloche_shared.store.addresses import is_disguised

_HEAD: Final = re.compile(r"(?:([A-Za-z0-9._/:-]{1,200})::)?([A-Za-z0-9_][A-Za-z0-9._-]{0,127})")
_BRACKET: Final = re.compile(r"\[([^\[\]]*)\]$")
_PAIR: Final = re.compile(r"\s*(\w+)\s*=\s*(?:'([^']*)'|\"([^\"]*)\"|([^\s,'\"]+))\s*")
_PIECE: Final = re.compile(r"(>=|<=|==|!=|~=|>|<|=)?([0-9a-z_.!+-]*(?:\*)?)")
_BUILD: Final = re.compile(r"[A-Za-z0-9_.*+-]{1,128}")
_EXACT: Final = re.compile(r"={0,2}([^=<>!~,|]+)=([^=<>!~,|]+)")
_CHANNEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+){0,4}")


class ConfusedError(ValueError):
    """A text that is no specification or channel; the message is a sentence for people."""


def canonical_spec(text: str) -> str:
    """Return the one form of a match specification: `channel::name`, versions sorted, then `=build`.

    Raises `ConfusedError`.
    """
    head = _HEAD.match(text.strip())
    if head is None:
        raise ConfusedError(f"{text[:80]!r} does not begin with the name of a package.")
    rest = text.strip()[head.end() :]
    asked = _bracket(rest, text)
    version, build = _parts(_BRACKET.sub("", rest), text)
    version, build = asked.get("version", version), asked.get("build", build)
    channel = asked.get("channel", head[1])
    if build and not _BUILD.fullmatch(build):
        raise ConfusedError(f"{text[:80]!r} names a build that cannot be read.")
    where = f"{canonical_channel(channel)}::" if channel else ""
    return f"{where}{head[2].lower()}{_versions(version, text, exact=bool(build))}{f'={build}' if build else ''}"


def name_of(spec: str) -> str:
    """Return the name of the package that a canonical specification asks for."""
    name = re.match(r"[a-z0-9._-]+", spec.rpartition("::")[2])
    return name[0] if name else ""


def is_pinned(spec: str) -> bool:
    """Whether a canonical specification leaves no choice of version."""
    return "==" in spec and not set(spec) & {",", "|"}


def _bracket(rest: str, text: str) -> dict[str, str]:
    found = _BRACKET.search(rest)
    if found is None:
        return {}
    pairs = [_PAIR.fullmatch(part) for part in re.split(r",(?=\s*\w+\s*=\s*['\"\w])", found[1]) if part.strip()]
    asked = {pair[1]: pair[2] or pair[3] or pair[4] or "" for pair in pairs if pair}
    if None in pairs or set(asked) - {"version", "build", "channel"}:
        raise ConfusedError(f"{text[:80]!r}: in brackets stand version, build and channel, each with a value.")
    return asked


def _parts(rest: str, text: str) -> tuple[str, str]:
    """Return version and build of what follows the name."""
    plain = re.sub(r"\s*([,|])\s*", r"\1", re.sub(r"([<>=!~])\s+", r"\1", rest.strip()))
    words = plain.split()
    if len(words) > 2:  # noqa: PLR2004 - version and build
        raise ConfusedError(f"{text[:80]!r} has more parts than name, version and build.")
    if len(words) == 2:  # noqa: PLR2004 - the same
        return words[0], words[1]
    exact = _EXACT.fullmatch(plain)
    return (exact[1], exact[2]) if exact and plain.startswith("=") else (plain, "")


def _versions(version: str, text: str, *, exact: bool) -> str:
    if version in {"", "*", "=*", "==*"}:
        return "==*" if exact else ""
    pieces = (sorted({_piece(one, text) for one in part.split(",")}) for part in version.lower().split("|"))
    return "|".join(sorted({",".join(part) for part in pieces}))


def _piece(piece: str, text: str) -> str:
    match = _PIECE.fullmatch(piece.strip())
    if match is None or not match[2].strip("*"):
        raise ConfusedError(f"{text[:80]!r} has a version that cannot be read.")
    operator, version = match[1] or "", match[2]
    stem = version.removesuffix("*").removesuffix(".")
    if operator == "=" or (operator in {"", "=="} and version.endswith("*")):
        return f"={stem}.*"
    return (operator or "==") + version


def canonical_channel(text: str) -> str:
    """Return a channel by name or http(s) address, without a trailing slash. Raises `ConfusedError`."""
    plain = text.strip().rstrip("/")
    if _CHANNEL.fullmatch(plain) and ".." not in plain:
        return plain
    try:
        parts = urlsplit(plain)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", 0
    if parts_bad(plain) or parts.scheme.lower() not in {"http", "https"} or not host or port == 0:
        raise ConfusedError(f"{text[:80]!r} is neither a channel's name nor its http or https address.")
    if parts.username is not None or parts.password is not None:
        raise ConfusedError("The address of a channel holds no user name and no password.")
    if is_disguised(host):
        raise ConfusedError("The host of the channel is written in a way that hides which one it is.")
    return plain.replace(parts.netloc, parts.netloc.lower(), 1)


def parts_bad(url: str) -> bool:
    """Whether a text holds characters that no address has."""
    return bool(re.search(r"[^\x21-\x7e]|[\"<>\\^`{|}$]", url))
