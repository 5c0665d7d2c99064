"""Where the server is and how to show who we are: `CLOCHE_URL`, `CLOCHE_TOKEN`, `CLOCHE_HOME`."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloche._errors import Unauthenticated

DEFAULT_URL = "http://127.0.0.1:8571"
LOG = "cloche.log"
"""What a server in the background says, in its data folder."""
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

    Raises `Unauthenticated` (code `no_token`) when no token can be found.
    """
    home = home or home_folder()
    here = _running(home)
    chosen = url or os.environ.get("CLOCHE_URL") or here.get("url") or DEFAULT_URL
    secret = token or os.environ.get("CLOCHE_TOKEN") or _token(home)
    if not secret:
        raise Unauthenticated(
            "no_token",
            "There is no token for Cloche.",
            why=f"CLOCHE_TOKEN is not set and {home / 'token'} does not exist.",
            todo="Start Cloche on this machine with `cloche up -d`, or set CLOCHE_URL and CLOCHE_TOKEN.",
        )
    return Endpoint(chosen.rstrip("/"), secret, project or os.environ.get("CLOCHE_PROJECT", ""))


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
