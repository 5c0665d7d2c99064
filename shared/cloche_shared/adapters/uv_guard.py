"""Runs a program for Cloche, and ends it with everything that it started when Cloche dies.

Started as `python -I -S -B uv_guard.py <program> <arguments…>` in a session of its own, with a pipe
as stdin whose other end only Cloche holds: its end of file is the proof that Cloche is dead, however
it died. The program gets the same streams but for stdin; its exit status is passed on, 128 + n for
signal n. Standard library only.
"""

import os
import signal
import subprocess
import sys
import threading


def _watch() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the program that the arguments name; return its exit status."""
    threading.Thread(target=_watch, daemon=True).start()
    environment = dict(os.environ)  # the guard's own, which Cloche chose for the program
    done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, env=environment, check=False)  # noqa: S603 - ours
    status = done.returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    os._exit(main())
