"""What conda's solver says means: codes and remedies for users."""

import re
from collections.abc import Sequence

from cloche_shared.errors import Failed
from cloche_shared.store.uv_errors import without_secrets

_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})")
_NO_SUBDIR = re.compile(r"could not find subdir '[^']*' in channel '([^']*)'")
_UNREACHABLE = re.compile(r"error sending request|client error \(Connect\)|dns error|timed out|operation timed out")
_DISK = re.compile(r"No space left on device|Disk quota exceeded|os error (?:28|122)\b")
_NO_CANDIDATES = re.compile(r"No candidates were found for ([^\s.]+) ([^\n]*)")
_VIRTUAL = re.compile(r"\b(__[a-z]+)\b[^\n]*for which no candidates were found")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SPEC = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._/:-]*::)?[A-Za-z0-9_][A-Za-z0-9_.-]*([ =<>!~][ A-Za-z0-9_.,*+!=<>~|()^$-]*)?"
)
MAX_SPEC = 1024
_FETCHING = frozenset({"GatewayError", "FetchRepoDataError", "CacheDirError", "IoError"})
_REFUSED = frozenset({"401", "403", "407"})
_TOLD = 2000


def check_specs(specs: Sequence[str]) -> None:
    """Refuse what is no plain spec: name, version, build, perhaps a channel's name before it.

    Addresses, files and bracketed fields would bring packages from elsewhere than the channels. Raises
    `Failed` (code `invalid_conda_spec`).
    """
    for spec in specs:
        if len(spec) > MAX_SPEC or not _SPEC.fullmatch(spec.strip()):
            raise _no_spec(f"{spec[:200]!r} is not such a spec.")


def _no_spec(why: str) -> Failed:
    return Failed(
        "invalid_conda_spec",
        "A conda package is not written as conda understands it.",
        why=why,
        todo="Write it as `name`, `name=1.2` or `name>=1.2,<2`.",
    )


def spec_name(spec: str) -> str:
    """Return the canonical name of the package that a spec such as `conda-forge::NumPy >=1.2` asks for."""
    match = _NAME.match(spec.strip().rpartition("::")[2])
    return match[0].lower() if match else ""


def solve_error(kind: str, text: str, specs: Sequence[str]) -> Failed:
    """Return what a failed solution means; `kind` is the name of rattler's error."""
    told = without_secrets(re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", "", text)).strip()[:_TOLD]
    if kind == "spec":
        return _no_spec(told)
    if kind == "SolverError":
        return _no_solution(told, specs)
    if kind in _FETCHING:
        return _channel_error(told)
    return Failed(
        "conda_failed",
        "The conda packages could not be chosen.",
        why=f"{kind}: {told}",
        todo="Build again; if it happens again, report it with this message.",
    )


def _channel_error(told: str) -> Failed:
    status = _STATUS.search(told)
    if _DISK.search(told):
        return Failed(
            "disk_full", "There is no room left on the disk.", why=told, todo="Free some space, then build again."
        )
    if status is not None and status[1] in _REFUSED:
        return Failed(
            "index_auth",
            "A conda channel refused access.",
            why=told,
            todo="Check the user name and token in its address.",
        )
    missing = _NO_SUBDIR.search(told)
    if missing is not None:
        return Failed(
            "channel_not_found",
            f"There is no conda channel at {without_secrets(missing[1])}.",
            why=told,
            todo="Check the channel's name or address.",
        )
    return Failed(
        "unreachable",
        "A conda channel cannot be reached." if _UNREACHABLE.search(told) else "A conda channel gave no usable answer.",
        why=told,
        todo="Check the address of the channel and this machine's network, then build again.",
    )


def _no_solution(told: str, specs: Sequence[str]) -> Failed:
    because = told.removeprefix("Cannot solve the request because of: ")
    missing = _NO_CANDIDATES.search(told)
    if missing is not None:
        return _missing(missing[1].lower(), because, specs)
    virtual = _VIRTUAL.search(told)
    named = _named(told, specs)
    if virtual is not None:
        return _other_platform(virtual[1], because, named)
    first = spec_name(named[0]) if named else ""
    listed = ", ".join(named) or "the packages"
    what = (
        f"{listed} cannot be installed" if len(named) == 1 else f"These conda packages cannot be had together: {listed}"
    )
    return Failed(
        "solver_conflict",
        f"{what}.",
        why=because,
        todo="Loosen or remove one of them.",
        extra={"requirements": named, **({"package": first} if first else {})},
    )


def _named(told: str, specs: Sequence[str]) -> list[str]:
    """Return the specs whose packages the explanation names."""
    return [
        spec for spec in specs if re.search(rf"(?<![\w.-]){re.escape(spec_name(spec))}(?![\w-])", told, re.IGNORECASE)
    ]


def _missing(name: str, because: str, specs: Sequence[str]) -> Failed:
    asked = [spec for spec in specs if spec_name(spec) == name]
    if name == "python":
        return Failed(
            "python_not_available",
            f"The channels have no {' or '.join(asked) or 'python'} for this platform.",
            why=because,
            todo="Ask for a version of Python that a channel has, or add a channel that has it.",
            extra={"package": name},
        )
    return Failed(
        "package_not_found",
        f"The channels have no {' or '.join(asked) or name} for this platform.",
        why=because,
        todo="Check the spelling and the version, or add the channel that has it. A pin that came from another "
        "system, with its build, fits that system only: leave the build out.",
        extra={"package": name},
    )


def _other_platform(virtual: str, because: str, named: Sequence[str]) -> Failed:
    first = spec_name(named[0]) if named else ""
    return Failed(
        "wrong_platform",
        f"{', '.join(named) or 'A package'} cannot be used on this platform: it needs {virtual}.",
        why=because,
        todo="Leave out what is made for another system, driver or C library, or take a version that fits this one.",
        extra={"requirements": list(named), **({"package": first} if first else {})},
    )
