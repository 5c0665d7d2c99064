"""From a `pylock.toml` (PEP 751) to one file per package."""

import posixpath
import re
import tomllib
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from cloche_shared.contracts.definition import PythonSection
from cloche_shared.errors import Failed
from cloche_shared.ports.resolver import Choice

Table = Mapping[str, object]


def choose(pylock: str, tags: Sequence[str], section: PythonSection, indexes: Sequence[str] = ()) -> tuple[Choice, ...]:
    """Return the best file of each package for an interpreter's `tags` (best first), by name.

    A wheel is preferred to an sdist; credentials of `indexes` go into the addresses of the files on
    their hosts. Raises `Failed` (code `package_not_found`, `hash_missing`).
    """
    ranks = {tag: number for number, tag in reversed(list(enumerate(tags)))}
    wanted = _wanted_hashes(section)
    if section.pip_options.require_hashes:
        _check_hashes(wanted, [str(package["name"]) for package in _packages(pylock)])
    chooser = _Chooser(ranks, wanted, section, _credentials(indexes))
    return tuple(sorted((chooser.choice(package) for package in _packages(pylock)), key=lambda item: item.name))


def _packages(pylock: str) -> list[Table]:
    packages = tomllib.loads(pylock).get("packages", [])
    return [package for package in packages if isinstance(package, dict)]


def _wanted_hashes(section: PythonSection) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for line in section.pip:
        hashes = re.findall(r"--hash=(sha256:[0-9a-f]{64})", line)
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match and hashes:
            name = canonicalize_name(match[0])
            found[name] = found.get(name, frozenset()) | frozenset(hashes)
    return found


def _check_hashes(wanted: Mapping[str, object], names: Sequence[str]) -> None:
    without = [name for name in names if canonicalize_name(name) not in wanted]
    if without:
        raise Failed(
            "hash_missing",
            f"No hash was given for {', '.join(without[:10])}.",
            why="The definition requires hashes for every package, those that others need included.",
            todo="Add the packages with their --hash, or leave --require-hashes out.",
            extra={"package": without[0]},
        )


def _credentials(indexes: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for url in indexes:
        user, at, host = urlsplit(url).netloc.rpartition("@")
        if at:
            found.setdefault(host.lower(), user)
    return found


class _Chooser:
    def __init__(
        self,
        ranks: Mapping[str, int],
        hashes: Mapping[str, frozenset[str]],
        section: PythonSection,
        credentials: Mapping[str, str],
    ) -> None:
        self._ranks = ranks
        self._hashes = hashes
        self._options = section.pip_options
        self._credentials = credentials

    def choice(self, package: Table) -> Choice:
        name = canonicalize_name(str(package["name"]))
        version = str(package.get("version", ""))
        wheel = self._wheel(name, package)
        if wheel is not None:
            return self._made("wheel", name, version or _version(wheel), wheel)
        sdist = package.get("sdist")
        if isinstance(sdist, dict) and self._is_wanted(name, sdist) and not self._has(self._options.only_binary, name):
            return self._made("sdist", name, version, sdist)
        raise self._nothing(name, version)

    def _has(self, names: Sequence[str], name: str) -> bool:
        return ":all:" in names or name in names

    def _wheel(self, name: str, package: Table) -> Table | None:
        archive = package.get("archive")
        wheels = package.get("wheels", [])
        files = [archive] if isinstance(archive, dict) else wheels if isinstance(wheels, list) else []
        if self._has(self._options.no_binary, name):
            return None
        ranked = [
            (rank, file) for file in files if (rank := self._rank(file)) is not None and self._is_wanted(name, file)
        ]
        return min(ranked, key=lambda item: item[0])[1] if ranked else None

    def _rank(self, file: Table) -> tuple[int, tuple[int, str]] | None:
        """Order by tag as pip does, then by build number, highest first."""
        try:
            _, _, build, tags = parse_wheel_filename(_filename(file))
        except InvalidWheelFilename:
            return None
        ranks = [self._ranks[str(tag)] for tag in tags if str(tag) in self._ranks]
        number, suffix = build or (0, "")
        return (min(ranks), (-number, suffix)) if ranks else None

    def _is_wanted(self, name: str, file: Table) -> bool:
        return name not in self._hashes or _hash(file) in self._hashes[name]

    def _made(self, kind: str, name: str, version: str, file: Table) -> Choice:
        size = file.get("size")
        return Choice(
            kind="wheel" if kind == "wheel" else "sdist",
            name=name,
            version=version,
            filename=_filename(file),
            url=self._url(str(file["url"])),
            hash=_hash(file),
            size=size if isinstance(size, int) else None,
        )

    def _url(self, url: str) -> str:
        parts = urlsplit(url)
        user = self._credentials.get(parts.netloc.lower())
        return url if user is None else urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc}"))

    def _nothing(self, name: str, version: str) -> Failed:
        given = name in self._hashes
        return Failed(
            "hash_missing" if given else "package_not_found",
            f"No file of {name} {version} can be used here.",
            why="None has one of the given hashes." if given else "There is no wheel for this Python and platform.",
            todo="Correct the hashes." if given else "Ask for another version, or allow building from source.",
            extra={"package": name},
        )


def _filename(file: Table) -> str:
    name = file.get("name")
    if isinstance(name, str):
        return name
    return unquote(posixpath.basename(urlsplit(str(file.get("url", ""))).path))


def _version(file: Table) -> str:
    return str(parse_wheel_filename(_filename(file))[1])


def _hash(file: Table) -> str | None:
    hashes = file.get("hashes")
    value = hashes.get("sha256") if isinstance(hashes, dict) else None
    return f"sha256:{value}" if isinstance(value, str) else None
