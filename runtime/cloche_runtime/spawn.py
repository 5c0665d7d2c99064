"""Starting the user's program: fork, clean state, exec, and word of how that went.

A program that says itself when the user's code begins asks for it by having `CLOCHE_STARTED_FD` in
its environment: the number (3 or above) of a descriptor that it finds open, writes one byte to and
closes. Programs without it count as begun when exec succeeded.
"""

import _signal  # type: ignore[import-not-found]
import ctypes
import fcntl
import os
import signal
from typing import Dict, List, Optional, Tuple

STARTED_FD = "CLOCHE_STARTED_FD"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CHANGED = tuple(
    int(number)
    for number in (
        *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
        # a shell lets its background jobs ignore some of these
        *(signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2),
    )
)
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make orphaned descendants our children, so that none can hide by becoming a daemon (prctl(2))."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def die_with_parent() -> None:
    """Be killed when the parent ends, stopped or not (prctl(2)); it holds over exec, not for what is forked."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Child:
    """The user's program: its pid, its output, and where its word of having begun comes from."""

    __slots__ = ("output", "pid", "why", "word")

    def __init__(self, pid: int, output: int, word: Optional[int], why: str) -> None:
        self.pid = pid
        self.output = output
        self.word = word
        self.why = why


class Reborn(BaseException):
    """Raised in a fork of a warm interpreter that is to become the program `argv` with `env`, without exec.

    Its streams, folder and session are the program's; no other descriptor is open, whatever objects say.
    """

    def __init__(self, argv: List[str], env: Dict[str, str]) -> None:
        super().__init__(argv[0])
        self.argv = argv
        self.env = env


def spawn(argv: List[str], cwd: str, env: Dict[str, str], *, warm: bool = False) -> Child:
    """Start `argv` in a session of its own; `why` is a sentence when exec failed, else empty.

    With `warm` nothing is executed: `Reborn` is raised in the new process.
    """
    output, output_end = os.pipe()
    trouble, trouble_end = os.pipe()
    word, word_end = os.pipe() if STARTED_FD in env else (None, None)
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(argv, cwd, env, (output_end, trouble_end, word_end), supervisor, warm=warm)
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
    argv: List[str],
    cwd: str,
    env: Dict[str, str],
    ends: Tuple[int, int, Optional[int]],
    supervisor: int,
    *,
    warm: bool,
) -> None:
    """Turn this forked process into the user's program; never returns. Raises `Reborn` where nothing is executed."""
    output, trouble, word = ends
    is_reborn = False
    try:
        os.setsid()
        die_with_parent()
        if os.getppid() != supervisor:
            return  # it died before the line above could bind us to it
        reset_signals()
        trouble, output = _above(trouble, env), _above(output, env)
        if word is not None:
            os.dup2(word, int(env[STARTED_FD]))
            os.set_inheritable(int(env[STARTED_FD]), True)  # noqa: FBT003 - the function's own signature
        _standard_streams(output)
        os.umask(0o022)
        step = "enter the working folder " + cwd
        os.chdir(cwd)
        step = "start " + argv[0]
        if warm and word is None:
            _close_all()
            is_reborn = True
        else:
            os.execvpe(argv[0], argv, env)  # noqa: S606 - the user's program, without a shell
    except BaseException as error:  # noqa: BLE001 - reported to the supervisor; this process must not live on
        what = locals().get("step", "prepare the process")
        why = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        os.write(trouble, ("cannot %s: %s" % (what, why)).encode("utf-8", "replace"))
    finally:
        if not is_reborn:
            os._exit(127)
    raise Reborn(argv, env)


def _close_all() -> None:
    """Close everything but the standard streams, as exec would."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2:  # noqa: PLR2004 - the standard streams
                os.close(int(name))
        except OSError:
            continue


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


def reset_signals() -> None:
    """Undo what Python, the supervisor and whoever started us changed, so that the program finds the usual state.

    It is done below `signal`, which looks each former handler up among its enumerations: in a fresh fork that
    costs more than the rest of its beginning.
    """
    for number in _CHANGED:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
