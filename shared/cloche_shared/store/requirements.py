"""Requirements files: what a definition may ask of pip, and in which canonical form.

Only PEP 508 requirements and a short list of options are known. Everything that would read other
files of the server, run code of the user's choice or weaken checks is refused by name
(`requirement_option`), so nothing is ever passed on unread.
"""

import ipaddress
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from cloche_shared.contracts.definition import Definition, PipOptions
from cloche_shared.errors import Invalid, Violation
from cloche_shared.store.indexes import check_indexes
from cloche_shared.store.variables import check_variables
from cloche_shared.store.wheel_refs import referring

MAX_LINES = 20_000
MAX_LENGTH = 2048
MAX_PARENTHESES = 20
MAX_VIOLATIONS = 100
MAX_INCLUDES = 64
MAX_INDEXES = 16
MAX_NAMES = 256
REMEMBERED = 4096

_COMMENT = re.compile(r"(^|\s+)#.*$")
_HASH = re.compile(r"\s+--hash[=\s]\s*(\S+)")
_HASH_VALUE = re.compile(r"sha256:[0-9a-f]{64}")
_PATH_LIKE = re.compile(r"^(\.|/|~|[A-Za-z]:[\\/]|file:|[a-z+]+://|(git|hg|svn|bzr)\+)")
_OPTION = re.compile(r"(--[a-z-]+|-[a-zA-Z])(?:[=\s]\s*|(?<=^-[a-zA-Z]))?(.*)")
_INCLUDE = re.compile(r"^\s*(?:-r|--requirement|-c|--constraint)[=\s]?\s*(\S+)\s*$")
_SEVERAL = frozenset({"--extra-index-url", "--no-binary", "--only-binary"})
_FLAGS = frozenset({"--pre", "--require-hashes"})
_URLS = frozenset({"--index-url", "--extra-index-url"})
_NAMES = frozenset({"--no-binary", "--only-binary"})
_PACKAGE = re.compile(r":all:|:none:|[A-Za-z0-9]([A-Za-z0-9._-]{0,254}[A-Za-z0-9])?")
_NO_URL = re.compile(r"[^\x21-\x7e]|[\"<>\\^`{|}]")
_SHORT = {"-i": "--index-url"}
_PLAIN = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)"
    r"((?:==|!=|<=|>=|<|>)[0-9]{1,18}(?:\.[0-9]{1,18}){0,8}|~=[0-9]{1,18}(?:\.[0-9]{1,18}){1,8})?"
)
"""A name and one release number at most: what most lines are, and what needs no parser."""


class _FaultError(Exception):
    """A line that cannot be accepted: code and sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass
class _Collected:
    requirements: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of the first physical line, content): continued lines joined, comments removed."""
    parts: list[str] = []
    start = 0
    for number, raw in enumerate(text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), start=1):
        line = _COMMENT.sub("", raw) if raw.lstrip().startswith("#") else raw
        start = start if parts else number
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        joined = _COMMENT.sub("", "".join([*parts, line])).strip()
        parts = []
        if joined:
            yield start, joined
    rest = _COMMENT.sub("", "".join(parts)).strip()
    if rest:
        yield start, rest


def parse_requirements(text: str) -> tuple[tuple[str, ...], PipOptions]:
    """Return the requirements of a requirements file in canonical form, and its options.

    Raises `Invalid` with the code of the first fault (`requirement_option`, `invalid_requirement`,
    `url_not_allowed`) and one violation for each; pointers are `/requirements/<line number>`.
    """
    collected = _Collected()
    for number, line in logical_lines(text):
        if number > MAX_LINES:
            collected.violations.append(
                _violation(number, "invalid_requirement", f"a file has {MAX_LINES} lines at most.")
            )
        if len(collected.violations) >= MAX_VIOLATIONS or number > MAX_LINES:
            break
        _take(collected, number, line)
    if collected.violations:
        raise _invalid(collected.violations)
    return tuple(collected.requirements), _options(collected.values)


def _take(collected: _Collected, number: int, line: str) -> None:
    try:
        if line.startswith("-"):
            name, value = _option(line)
            collected.values.setdefault(name, []).append(value)
        else:
            collected.requirements.append(_normalise(line))
    except _FaultError as fault:
        collected.violations.append(_violation(number, fault.code, fault.detail))


def _violation(number: int, code: str, detail: str) -> Violation:
    return Violation(f"/requirements/{number}", code, f"Line {number}: {detail}")


def _invalid(violations: list[Violation]) -> Invalid:
    return Invalid(
        violations[0].code,
        "The requirements cannot be used as written.",
        why=violations[0].detail,
        todo="Correct the line. Allowed are PEP 508 requirements, --hash, --index-url, --extra-index-url, --pre, "
        "--no-binary, --only-binary and --require-hashes.",
        violations=violations,
    )


def _option(line: str) -> tuple[str, str]:
    match = _OPTION.fullmatch(line)
    name = line.split(maxsplit=1)[0] if match is None else match[1]
    name = _SHORT.get(name, name)
    if match is None or name not in _FLAGS | _SEVERAL | _URLS:
        raise _FaultError("requirement_option", f"the option {name[:64]!r} is not available here.")
    value = match[2].strip()
    if name in _FLAGS:
        if value:
            raise _FaultError("requirement_option", f"{name} takes no value.")
    elif not value or " " in value or "${" in value:
        raise _FaultError("requirement_option", f"{name} needs one value without variables.")
    elif name in _URLS and not _is_http(value):
        raise _FaultError("requirement_option", f"{name} needs an http or https address.")
    elif name in _NAMES and not all(map(_PACKAGE.fullmatch, _split([value]))):
        raise _FaultError("requirement_option", f"{name} takes names of packages, or :all:.")
    return name, value


def _is_http(url: str) -> bool:
    if len(url) > MAX_LENGTH or _NO_URL.search(url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme.lower() in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _split(values: list[str]) -> tuple[str, ...]:
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    return tuple(dict.fromkeys(name if name.startswith(":") else canonicalize_name(name) for name in names))


def _options(values: dict[str, list[str]]) -> PipOptions:
    names = [_split(values.get(name, [])) for name in sorted(_NAMES)]
    if len(set(values.get("--extra-index-url", ()))) > MAX_INDEXES or any(len(one) > MAX_NAMES for one in names):
        raise _invalid([Violation("/requirements", "requirement_option", "An option has too many values.")])
    return PipOptions(
        index_url=values["--index-url"][-1] if "--index-url" in values else None,
        extra_index_urls=tuple(dict.fromkeys(values.get("--extra-index-url", ()))),
        pre="--pre" in values,
        no_binary=_split(values.get("--no-binary", [])),
        only_binary=_split(values.get("--only-binary", [])),
        require_hashes="--require-hashes" in values,
    )


def normalise_requirement(line: str) -> str:
    """Return the canonical form of one requirement, with its hashes if it has any.

    Name and extras as PEP 503 has them, extras, specifiers and hashes sorted, markers respaced.
    Raises `Invalid` (code `invalid_requirement`, `requirement_option` or `url_not_allowed`).
    """
    try:
        return _normalise(line)
    except _FaultError as fault:
        raise _invalid([Violation("/python/pip", fault.code, fault.detail)]) from None


@lru_cache(maxsize=REMEMBERED)
def _normalise(line: str) -> str:
    """Remembered, because a definition's lines are normalised when it is checked and when it is hashed."""
    if plain := _PLAIN.fullmatch(line):
        return canonicalize_name(plain[1]) + (plain[2] or "")
    if len(line) > MAX_LENGTH or line.count("(") > MAX_PARENTHESES:
        raise _FaultError("invalid_requirement", f"a requirement has {MAX_LENGTH} characters and is nested little.")
    if line.startswith("-"):
        raise _FaultError("requirement_option", "options have fields of their own, and are no requirements.")
    hashes = sorted({_hash(value) for value in _HASH.findall(line)})
    text = _HASH.sub("", line).strip()
    if re.search(r"\s--?[a-z]", text):
        raise _FaultError("requirement_option", "of the options for one requirement, only --hash is available.")
    found = " ".join([_canonical(_parse(text)), *(f"--hash={value}" for value in hashes)])
    if len(found) > MAX_LENGTH:
        raise _FaultError("invalid_requirement", f"a requirement has {MAX_LENGTH} characters at most.")
    return found


def _hash(value: str) -> str:
    if not _HASH_VALUE.fullmatch(value):
        raise _FaultError("invalid_requirement", "a hash has the form sha256:<64 hexadecimal digits>.")
    return value


def _parse(text: str) -> Requirement:
    if "\n" in text or "\0" in text:
        raise _FaultError("invalid_requirement", "a requirement is one line.")
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        if _PATH_LIKE.match(text) or "/" in text.partition(";")[0].partition("@")[0]:
            detail = "paths, repositories and bare addresses are not available; name a package, or a wheel by https."
            raise _FaultError("requirement_option", detail) from None
        raise _FaultError("invalid_requirement", f"{text[:200]!r} is no requirement: {_first(error)}") from None
    if requirement.url is not None:
        _check_url(requirement.url)
    if any(not specifier.version for specifier in requirement.specifier):
        raise _FaultError("invalid_requirement", f"{text[:200]!r} is no requirement: a version is missing.")
    return requirement


def _first(error: Exception) -> str:
    return str(error).split("\n", 1)[0].rstrip(".") + "."


def _check_url(url: str) -> None:
    if not url.lower().startswith("https:"):
        raise _FaultError("requirement_option", "a direct address must be that of a wheel, by https.")
    if not _is_http(url):
        raise _FaultError("url_not_allowed", "a direct address must be a whole and valid one.")
    parts = urlsplit(url)
    if parts.username is not None or not parts.hostname or _is_local(parts.hostname):
        raise _FaultError("url_not_allowed", "a direct address holds no user name and names a public host.")
    try:
        parse_wheel_filename(posixpath.basename(parts.path).replace("%2B", "+"))
    except InvalidWheelFilename:
        raise _FaultError("requirement_option", "a direct address must be that of a wheel (.whl).") from None


def _is_local(host: str) -> bool:
    """Tell whether a host may be ours or a neighbour's; what URL libraries rewrite (`%31`, wide digits) counts too."""
    host = host.rstrip(".")
    if not host.isascii() or "%" in host:
        return True
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or "." not in host:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(re.fullmatch(r"[0-9.]+|0x[0-9a-f.x]+", host))
    return not address.is_global or address.is_multicast


def _canonical(requirement: Requirement) -> str:
    extras = ",".join(sorted({canonicalize_name(extra) for extra in requirement.extras}))
    text = canonicalize_name(requirement.name) + (f"[{extras}]" if extras else "")
    if requirement.url is not None:
        text += f" @ {requirement.url}"
    else:
        text += ",".join(sorted(str(specifier) for specifier in requirement.specifier))
    if requirement.marker is None:
        return text
    return f"{text}{' ' if requirement.url else ''}; {requirement.marker}"


def check_definition(definition: Definition) -> Definition:
    """Return a definition in canonical form; what came by REST or message is checked as a file's lines are.

    Addresses of private wheels become references.

    Raises `Invalid` with a violation for each requirement (pointers `/python/pip/<n>`), and as
    `check_variables` does.
    """
    check_variables(definition.variables)
    definition = referring(definition)
    lines: list[str] = []
    violations: list[Violation] = []
    for number, line in enumerate(definition.python.pip):
        try:
            lines.append(_normalise(line))
        except _FaultError as fault:
            violations.append(Violation(f"/python/pip/{number}", fault.code, fault.detail))
    violations += _option_violations(definition.python.pip_options)
    if violations:
        raise _invalid(violations[:MAX_VIOLATIONS])
    check_indexes(definition.python.pip_options, pointer="/python/pip_options")
    pip = tuple(dict.fromkeys(lines))
    if pip == definition.python.pip:
        return definition
    section = definition.python.model_copy(update={"pip": pip})
    return definition.model_copy(update={"python": section})


def _option_violations(options: PipOptions) -> list[Violation]:
    """Return what is wrong with names of packages; `cloche_shared.store.indexes` checks the addresses."""
    names = [(f"no_binary/{number}", name) for number, name in enumerate(options.no_binary)]
    names += [(f"only_binary/{number}", name) for number, name in enumerate(options.only_binary)]
    bad = [where for where, name in names if not _PACKAGE.fullmatch(name)]
    detail = "It takes names of packages, or :all:."
    return [Violation(f"/python/pip_options/{where}", "requirement_option", detail) for where in bad]


def inline_includes(name: str, read: Callable[[str], str]) -> str:
    """Return a requirements file with its `-r` and `-c` files in place of those lines, for clients.

    `read` returns the text of a file by its path relative to the first one's folder. Raises
    `Invalid` (code `requirement_option`) for a file outside that folder or an endless inclusion.
    """
    return "\n".join(_inlined(posixpath.normpath(name), read, ()))


def _inlined(name: str, read: Callable[[str], str], above: tuple[str, ...]) -> Iterator[str]:
    if name.startswith(("..", "/")) or name in above or len(above) > MAX_INCLUDES:
        raise Invalid(
            "requirement_option",
            f"The file {name!r} cannot be included.",
            why="It lies outside the first file's folder, or it includes itself.",
            todo="Put it beside the first file, or write its lines there.",
        )
    for line in read(name).removeprefix("\ufeff").splitlines():
        include = _INCLUDE.match(_COMMENT.sub("", line))
        if include is None:
            yield line
        else:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), include[1]))
            yield from _inlined(target, read, (*above, name))
