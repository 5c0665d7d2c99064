"""Where the server is and how to show who we are: `CLOCHE_URL`, `CLOCHE_TOKEN`, `CLOCHE_HOME`."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cloche._errors import Unauthenticated

DEFAULT_URL = "http://127.0.0.1:8571"
LOG = "cloche.log"
"""What a server in the background says, in its data folder."""
_PORTS = {"http": 80, "https": 443}
_HERE = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on
POSITIONS_KEPT = 16
POSITIONS_SECONDS = 600


def home_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the data folder: `CLOCHE_HOME`, or `~/.cloche`."""
    found = (os.environ if environ is None else environ).get("CLOCHE_HOME")
    return Path(found) if found else Path.home() / ".cloche"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, a token for it, and the project (empty: the token's own)."""

    url: str
    token: str
    project: str = ""


def find_endpoint(
    url: str | None = None, token: str | None = None, project: str | None = None, home: Path | None = None
) -> Endpoint:
    """Return where to go: what is given, else the environment, else the data folder of this machine.

    A token is shown to the server that it is for and to no other: `CLOCHE_TOKEN` to that of `CLOCHE_URL`, where that
    is set, and the data folder's token to the data folder's server. Raises `Unauthenticated` (code `no_token`) when
    there is none for the server.
    """
    home = home or home_folder()
    chosen = url or os.environ.get("CLOCHE_URL") or _running(home).get("url") or DEFAULT_URL
    secret = token or _token_for(chosen, home)
    if not secret:
        raise _no_token(chosen, home)
    return Endpoint(chosen.rstrip("/"), secret, project or os.environ.get("CLOCHE_PROJECT", ""))


def _token_for(url: str, home: Path) -> str:
    given = os.environ.get("CLOCHE_TOKEN", "")
    if given and same_server(url, os.environ.get("CLOCHE_URL") or url):
        return given
    return _token(home) if same_server(url, _running(home).get("url") or DEFAULT_URL) else ""


def _no_token(url: str, home: Path) -> Unauthenticated:
    named = os.environ.get("CLOCHE_URL", "")
    if os.environ.get("CLOCHE_TOKEN") and named:
        return Unauthenticated(
            "no_token",
            f"There is no token for Cloche at {url}.",
            why=f"CLOCHE_TOKEN is for {named} (CLOCHE_URL) and is shown to no other server.",
            todo="Set CLOCHE_URL and CLOCHE_TOKEN to a server and a token of it.",
        )
    if not (home / "token").exists():
        why = f"CLOCHE_TOKEN is not set and {home / 'token'} does not exist."
    else:
        why = f"CLOCHE_TOKEN is not set, and {home / 'token'} is for the server of that folder."
    return Unauthenticated(
        "no_token",
        "There is no token for Cloche.",
        why=why,
        todo="Start Cloche on this machine with `cloche up -d`, or set CLOCHE_URL and CLOCHE_TOKEN.",
    )


def same_server(one: str, other: str) -> bool:
    """Whether two addresses name one server: scheme, host and port; this machine's own names count as one."""
    return _place(one) == _place(other)


def _place(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return url, "", 0
    host = parts.hostname or ""
    return parts.scheme, "localhost" if host in _HERE else host, port


def _running(home: Path) -> dict[str, str]:
    try:
        found = json.loads((home / "server.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _token(home: Path) -> str:
    try:
        return (home / "token").read_text().strip()
    except OSError:
        return ""


class Positions:
    """What this user wrote lately, so that the next request reads it: the newest 16 places of ten minutes.

    They lie in the data folder, because one command may be followed by another.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._places: dict[str, tuple[str, float]] = {}
        self._load()

    def header(self) -> str:
        """Return the value of `Cloche-Position`, or an empty text."""
        now = time.time()
        fresh = [(key, owner) for key, (owner, at) in self._places.items() if now - at < POSITIONS_SECONDS]
        owner = fresh[-1][1] if fresh else ""
        places = [key for key, one in fresh if one == owner][-POSITIONS_KEPT:]
        return f"{owner}:{','.join(places)}" if places else ""

    def note(self, header: str) -> None:
        """Remember what an answer's `Cloche-Position` says."""
        owner, _, places = header.partition(":")
        if not places:
            return
        now = time.time()
        for place in places.split(","):
            stream = place.rpartition("@")[0]
            for known in [key for key in self._places if key.rpartition("@")[0] == stream]:
                del self._places[known]
            self._places[place] = (owner, now)
        for key in list(self._places)[:-POSITIONS_KEPT]:
            del self._places[key]
        self._save()

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            found = json.loads(self._path.read_text())
            self._places = {str(key): (str(owner), float(at)) for key, (owner, at) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._places = {}

    def _save(self) -> None:
        if self._path is None:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(self._places))
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)


def kept_positions(endpoint: Endpoint, home: Path | None = None) -> Positions:
    """Return the positions that are kept for this user; in memory only where there is no data folder."""
    home = home or home_folder()
    name = "positions.json" if endpoint.url in {DEFAULT_URL, _running(home).get("url")} else ""
    return Positions(home / name if name and home.is_dir() else None)
