"""The data folder, before anything is in it. Standard library only, for `up -d`."""

import errno
import os
from pathlib import Path

from cloche_shared.errors import ClocheError, Invalid, Unavailable

_TODO = "Choose another folder with CLOCHE_HOME or --home, or see that it is yours and can be written to."


def made(home: Path) -> Path:
    """Return the data folder, made (0700) where it is not there. Raises `Invalid` (`home_unusable`), `Unavailable`."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(home, error) from error
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise Invalid("home_unusable", f"The data folder {home} cannot be written to.", why=_owner(home), todo=_TODO)
    return home


def check_readable(home: Path) -> None:
    """Raise `Invalid` (`home_unusable`) for a data folder that is there and that this user cannot look into."""
    if home.is_dir() and not os.access(home, os.R_OK | os.X_OK):
        what = f"The data folder {home} cannot be read, so it is not known whether Cloche runs there."
        raise Invalid("home_unusable", what, why=_owner(home), todo=_TODO)


def _owner(home: Path) -> str:
    return "It belongs to another user." if home.stat().st_uid != os.getuid() else ""


def _unusable(home: Path, error: OSError) -> ClocheError:
    if error.errno == errno.ENOSPC:
        return Unavailable("disk_full", f"There is no room for the data folder {home}.", todo="Make room.")
    why = f"{error.strerror}." if error.strerror else type(error).__name__
    return Invalid("home_unusable", f"{home} cannot be Cloche's data folder.", why=why, todo=_TODO)
