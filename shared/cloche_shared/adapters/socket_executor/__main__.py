"""The executor's process: `python -m cloche_shared.adapters.socket_executor --socket PATH --root FOLDER …`.

It holds no secret, and what runs below it sees none: it starts again with an environment of a few
harmless names, and programs get exactly what their spec says. As the first process of its container
(pid 1) it reaps who was left behind, so it needs no other init; with one in front it does as well.
SIGTERM and SIGINT end every group as lost, which their owners hear of, and then the executor.
"""

import argparse
import asyncio
import ctypes
import grp
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cloche_shared.adapters.socket_executor.link import answers
from cloche_shared.adapters.socket_executor.server import Rules, Server
from cloche_shared.adapters.socket_executor.session import is_owner
from cloche_shared.errors import ClocheError

KEPT = frozenset(("PATH", "LANG", "LC_ALL", "TZ", "HOME", "PYTHONPATH", "PYTHONUNBUFFERED", "VIRTUAL_ENV"))
"""Variables that the executor keeps of its own; the rest is gone before anything runs."""
STOP_S = 8.0
"""Seconds in which groups end when the executor is stopped: less than a container engine waits (10 s)."""
_PR_SET_DUMPABLE = 4

_log = logging.getLogger("cloche.executor")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cloche-executor", description="Holds runs and scoring workers.")
    parser.add_argument("--socket", required=True, type=Path, help="where it listens")
    parser.add_argument("--root", type=Path, help="the folder for logs and states, on a volume of its own")
    parser.add_argument("--share", type=Path, help="the node's folder, which services and executor both work in")
    parser.add_argument("--group", help="the name or number of the group that they have in common")
    parser.add_argument(
        "--client", action="append", default=[], type=_client, metavar="OWNER=UID", help="who may act for whom"
    )
    parser.add_argument("--check", action="store_true", help="only see whether one answers at the socket")
    found = parser.parse_args(argv)
    if not found.check and found.root is None:
        parser.error("--root is needed")
    return found


def _client(text: str) -> tuple[str, int]:
    owner, _, uid = text.partition("=")
    if not is_owner(owner) or not uid.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not OWNER=UID, such as runner=10001")
    return owner, int(uid)


def _gid(text: str | None) -> int | None:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    return grp.getgrnam(text).gr_gid


def _rules(found: argparse.Namespace) -> Rules:
    clients: dict[str, frozenset[int]] = {}
    for owner, uid in found.client:
        clients[owner] = clients.get(owner, frozenset()) | {uid}
    return Rules(found.socket.absolute(), found.root.absolute(), clients, _gid(found.group), found.share)


def _clean(environ: Mapping[str, str]) -> None:
    """Start anew without what others may have put into our environment: programs of our user can read it."""
    kept = {name: value for name, value in environ.items() if name in KEPT}
    if len(kept) < len(environ):
        os.execve(sys.executable, [*sys.orig_argv], kept)  # noqa: S606 - ourselves, without a shell


def _reap() -> None:
    """Bury who ended below us: supervisors whose nursery died, and what they left."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def _run(rules: Rules) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if os.getpid() == 1:
        loop.add_signal_handler(signal.SIGCHLD, _reap)
    server = Server(rules)
    await server.start()
    _log.info("executor_listens: %s", rules.socket)
    await stopping.wait()
    _log.info("executor_stops")
    await server.stop(STOP_S)


def main(argv: Sequence[str]) -> int:
    """Run until a signal; returns the exit code."""
    found = _arguments(argv)
    if found.check:
        return 0 if asyncio.run(answers(found.socket)) else 1
    _clean(os.environ)
    os.umask(0o077)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no program of our user may trace us
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_run(_rules(found)))
    except (ClocheError, KeyError, OSError) as error:
        sys.stderr.write(f"cloche-executor: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
