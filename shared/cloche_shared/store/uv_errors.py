"""What uv's output means: codes and remedies for users."""

import re
from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from cloche_shared.errors import Failed

TELLING_LINES = 3
TRUST = (
    "Give the builder a file with the authority of the index, and its path as the variable SSL_CERT_FILE; "
    "the file takes the place of the public authorities, so join them where both are needed."
)
"""What helps where an index has a certificate of a private authority."""

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s\"'<>]+@")
_NOT_FOUND = re.compile(
    r"(?:Because |and )?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*) was not found in the (?:package registry|cache|provided)"
)
_BROKEN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*?)(?:==\S+)? has an invalid package format")
_NO_VERSION = re.compile(r"(?:no versions? of|only) (?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_AUTH = re.compile(r"\b(401 Unauthorized|403 Forbidden|407 Proxy)", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"(error sending request|Failed to fetch|Request failed|dns error|client error \(Connect\)|timed out|"
    r"Could not connect|Connection refused|tcp connect error|invalid peer certificate)",
    re.IGNORECASE,
)
_UNTRUSTED = re.compile(r"invalid peer certificate: *(?P<fault>[^\n]*)", re.IGNORECASE)
_UV_HINT = re.compile(r"--(?:system-certs|native-tls|allow-insecure-host|trusted-host)\b")
_DISK = re.compile(r"(No space left on device|Disk quota exceeded|os error 28|os error 122)", re.IGNORECASE)
_BUILD = re.compile(
    r"Failed to (?:build|download and build|prepare|resolve requirements from)[^`]*`(?P<name>[A-Za-z0-9._-]+)"
)
_NO_BUILD = re.compile(r"Building source distributions .*is disabled|has no usable wheels|no wheels with a matching")
_FAULT = re.compile(r"\b(?:error|Error|ERROR)\b\S*[:!]|\bundefined reference\b|\bcommand not found\b|Error: ")
_HASH = re.compile(r"(Hash mismatch|--require-hashes|has no hash)", re.IGNORECASE)


_DISABLED = re.compile(r"[Bb]uilding (?:from source|source distributions)[^.]{0,80} is disabled")
_WITHOUT_WHEEL = re.compile(r"(?:required for|distributions for) `(?P<name>[A-Za-z0-9._-]+)")


def without_secrets(text: str) -> str:
    """Return text whose addresses hold no user names and passwords."""
    return _CREDENTIALS.sub("", text)


def last_lines(lines: Sequence[str], count: int) -> str:
    """Return the end of an output, without empty lines."""
    return "\n".join([line for line in lines if line.strip()][-count:])


def _failed(code: str, what: str, why: str, todo: str, package: str | None = None, **extra: object) -> Failed:
    named = {"package": package} if package else {}
    return Failed(code, what, why=why, todo=todo, extra={**named, **extra})


def _environmental(lines: Sequence[str]) -> Failed | None:
    """Return the error when the machine or the index is to blame and not a package."""
    text = "\n".join(lines)
    why = last_lines(lines, 6)
    if _DISK.search(text):
        return _failed("disk_full", "There is no room left on the disk.", why, "Free some space, then build again.")
    if _AUTH.search(text):
        return _failed(
            "index_auth", "The package index refused access.", why, "Check the user name and token in its address."
        )
    return None


def _unreachable(lines: Sequence[str]) -> Failed | None:
    text = "\n".join(lines)
    untrusted = _UNTRUSTED.search(text)
    if untrusted is not None:
        return _not_trusted(untrusted["fault"].strip(), lines)
    if not _UNREACHABLE.search(text):
        return None
    return _failed(
        "unreachable",
        "The package index cannot be reached.",
        last_lines(lines, 6),
        "Check the address of the index and this machine's network, then build again.",
    )


def _not_trusted(fault: str, lines: Sequence[str]) -> Failed:
    """Return the error of an index whose certificate no known authority signed; uv's own options are no help here."""
    told = last_lines([line for line in lines if not _UV_HINT.search(line)], 6)
    return _failed(
        "index_certificate",
        f"The certificate of the package index is not trusted: {fault}.",
        told,
        TRUST,
    )


def _names(requirements: Sequence[str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for line in requirements:
        text = line.split(" --hash=")[0]
        try:
            name = canonicalize_name(Requirement(text).name)
        except InvalidRequirement:
            continue
        names.setdefault(name, []).append(text)
    return names


def _joined(lines: Sequence[str]) -> str:
    """Return uv's explanation as one line: it is wrapped and drawn with box characters."""
    return re.sub(r"\s+", " ", " ".join(re.sub(r"[\u2500-\u25ff\u00d7]", " ", line) for line in lines))


def _solution(lines: Sequence[str], requirements: Sequence[str]) -> Failed | None:
    text = _joined(lines)
    if "No solution found" not in text and "unsatisfiable" not in text and "not found in the" not in text:
        return None
    broken = _BROKEN.search(text)
    if broken:
        return _broken(canonicalize_name(broken["name"]), text)
    missing = _NOT_FOUND.search(text)
    if missing:
        name = canonicalize_name(missing["name"])
        return _failed(
            "package_not_found",
            f"The package {name} does not exist on the index.",
            _because(text),
            "Check the spelling, or give the index that has it.",
            name,
        )
    wanted = _names(requirements)
    named = [name for name in wanted if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text)]
    versionless = _NO_VERSION.search(text)
    if versionless and len(named) <= 1:
        return _no_version(canonicalize_name(versionless["name"]), text, wanted)
    clashing = [line for name in named for line in wanted[name]]
    return _failed(
        "solver_conflict",
        f"These requirements cannot be met together: {', '.join(clashing) or 'the packages'}.",
        _because(text),
        "Loosen or remove one of them.",
        named[0] if named else None,
        requirements=clashing,
    )


def _broken(name: str, text: str) -> Failed:
    return _failed(
        "invalid_wheel",
        f"The wheel of {name} cannot be installed.",
        _because(text),
        "Use another version of the package; this file breaks the wheel format or is damaged.",
        name,
    )


def _no_version(name: str, text: str, wanted: dict[str, list[str]]) -> Failed:
    return _failed(
        "package_not_found",
        f"The index has no version of {name} that matches {', '.join(wanted.get(name, [name]))}.",
        _because(text),
        "Ask for a version that exists for this Python and platform.",
        name,
    )


def _because(text: str) -> str:
    start = text.find("Because ")
    return (text if start < 0 else text[start:]).strip()[:2000]


def _build(lines: Sequence[str]) -> Failed | None:
    match = _BUILD.search("\n".join(lines))
    if match is None:
        return None
    name = canonicalize_name(re.split(r"[=<>@ ]", match["name"])[0])
    return build_error(lines, name, "")


def resolve_error(lines: Sequence[str], requirements: Sequence[str]) -> Failed:
    """Return what a failed resolution means."""
    found = _environmental(lines) or _build(lines) or _solution(lines, requirements) or _unreachable(lines)
    if found is not None:
        return found
    if _HASH.search("\n".join(lines)):
        return _failed("hash_missing", "A hash is missing or wrong.", last_lines(lines, 8), "Correct the hashes.")
    return _failed(
        "solver_conflict",
        "The packages could not be resolved.",
        last_lines(lines, 12),
        "See the log above; change the requirement that it names.",
    )


def _telling(lines: Sequence[str]) -> str:
    """Return the few lines of a compiler's output that name the fault; the build's log keeps them all."""
    named = [line.strip() for line in lines if _FAULT.search(line)]
    return "\n".join(named[:TELLING_LINES]) or last_lines(lines, TELLING_LINES)


def build_error(lines: Sequence[str], name: str, version: str) -> Failed:
    """Return what a failed build of a wheel means."""
    found = _environmental(lines)
    if found is not None:
        found.extra["package"] = name
        return found
    label = f"{name} {version}".strip()
    return _failed(
        "compile_error",
        f"The package {label} could not be compiled.",
        _telling(lines),
        "Use a version that has a wheel for this Python and platform, or install the compiler and headers it needs. "
        "The build's log has the whole output.",
        name,
    )


def no_build_error(lines: Sequence[str]) -> Failed | None:
    """Return the error when a package has no wheel that fits and building one is switched off; else None."""
    text = _joined(lines)
    if not _DISABLED.search(text):
        return None
    found = _WITHOUT_WHEEL.search(text)
    return source_build_not_allowed(canonicalize_name(found["name"]) if found else "")


def source_build_not_allowed(name: str) -> Failed:
    """Return the error of a package that would have to be built here."""
    return _failed(
        "source_build_not_allowed",
        f"{name or 'A package'} has no wheel that fits, and source packages are not built here.",
        "Their code would run beside this installation's credentials (`cluster.package_code` is off).",
        "Use a version that has a wheel, or put a wheel of it on an index and name that index.",
        name or None,
    )
