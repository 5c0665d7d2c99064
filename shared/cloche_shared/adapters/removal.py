"""Removing folders of ours at the price of what lies in them: most hold a few files and empty folders."""

import os
import shutil
from pathlib import Path


def remove_folder(path: Path) -> None:
    """Remove a folder, as far as that is possible; an absent one is harmless. Links are never followed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError:
        _remove_tree(path)
        return
    try:
        _empty(handle)
        path.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        _remove_tree(path)
    finally:
        os.close(handle)


def _empty(handle: int) -> None:
    """Remove files and empty folders. Raises `OSError` when something else lies there."""
    with os.scandir(handle) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.rmdir(entry.name, dir_fd=handle)
            else:
                os.unlink(entry.name, dir_fd=handle)


def _remove_tree(path: Path) -> None:
    """Remove a tree whatever its modes: who is not root must be let into each folder."""
    if os.geteuid() != 0:
        for folder, _, _ in os.walk(path):
            Path(folder).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
