"""Starting the user's program: fork, clean state, exec, and word of how that went.

A program that says itself when the user's code begins asks for it by having `CLOCHE_STARTED_FD` in
its environment: the number (3 or above) of a descriptor that it finds open, writes one byte to and
closes. Programs without it count as begun when exec succeeded.
"""

import ctypes
import fcntl
import os
import signal
from typing import Dict, List, Optional, Tuple

STARTED_FD = "CLOCHE_STARTED_FD"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make orphaned descendants our children, so that none can hide by becoming a daemon (prctl(2))."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


class Child:
    """The user's program: its pid, its output, and where its word of having begun comes from."""

    __slots__ = ("output", "pid", "why", "word")

    def __init__(self, pid: int, output: int, word: Optional[int], why: str) -> None:
        self.pid = pid
        self.output = output
        self.word = word
        self.why = why


def spawn(argv: List[str], cwd: str, env: Dict[str, str]) -> Child:
    """Start `argv` in a session of its own; `why` is a sentence when exec failed, else empty."""
    output, output_end = os.pipe()
    trouble, trouble_end = os.pipe()
    word, word_end = os.pipe() if STARTED_FD in env else (None, None)
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(argv, cwd, env, (output_end, trouble_end, word_end), supervisor)
    os.close(output_end)
    os.close(trouble_end)
    if word is not None and word_end is not None:
        os.close(word_end)
        os.set_blocking(word, False)
    os.set_blocking(output, False)
    why = _reason(trouble)
    return Child(pid, output, word, why)


def _reason(trouble: int) -> str:
    """Wait for exec (the pipe closes) or for the sentence that says why there was none."""
    with open(trouble, "rb") as pipe:
        return pipe.read().decode("utf-8", "replace")


def _become(
    argv: List[str], cwd: str, env: Dict[str, str], ends: Tuple[int, int, Optional[int]], supervisor: int
) -> None:
    """Turn this forked process into the user's program; never returns."""
    output, trouble, word = ends
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            return  # it died before the line above could bind us to it
        _reset_signals()
        trouble, output = _above(trouble, env), _above(output, env)
        if word is not None:
            os.dup2(word, int(env[STARTED_FD]))
            os.set_inheritable(int(env[STARTED_FD]), True)  # noqa: FBT003 - the function's own signature
        _standard_streams(output)
        os.umask(0o022)
        step = "enter the working folder " + cwd
        os.chdir(cwd)
        step = "start " + argv[0]
        os.execvpe(argv[0], argv, env)  # noqa: S606 - the user's program, without a shell
    except BaseException as error:  # noqa: BLE001 - reported to the supervisor; this process must not live on
        what = locals().get("step", "prepare the process")
        why = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        os.write(trouble, ("cannot %s: %s" % (what, why)).encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _above(fd: int, env: Dict[str, str]) -> int:
    """Move a descriptor out of the way of the standard streams and of the one that is asked for."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(3, int(env.get(STARTED_FD, "3")) + 1))


def _standard_streams(output: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if null > 2:  # noqa: PLR2004 - the standard streams
        os.close(null)


def _reset_signals() -> None:
    """Undo what Python, the supervisor and whoever started us changed, so that the program finds the usual state."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)  # a shell lets its background jobs ignore some of them
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
