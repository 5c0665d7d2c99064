"""The supervisor: one small process for each group, which outlives the services.

It starts the user's program, spools its output, holds it to its limits and proves its end. In the
group's folder (0700) lie

    spec.json    what to do, written by the executor before the supervisor is asked for; locked (flock)
                 as long as the supervisor lives: whoever gets the lock knows that it is dead
    sock         where owners connect
    state.json   {boot, supervisor: [pid, start], child: [pid, start], started, strays: [[pid, start]]}
    log          stdout and stderr as they came
    exit.json    the end; it is written when no process of the group lives any more
    trouble      the traceback of a supervisor that failed

Owners speak JSON lines. To the supervisor: `{"do": "cancel", "grace": s}`, `{"do": "grant",
"seconds": s}`, `{"do": "follow"}` (tell about a growing log). From it, on connecting and then as it
happens: `{"at": "up", "supervisor", "pid", "started", "size"}`, `{"at": "started"}` or
`{"at": "not_started"}`, `{"at": "log", "size"}`, `{"at": "exited", …exit.json}`.

A connection is an owner's word: `orphan_after` runs only while nobody is connected. The first grant
arms a stricter clock: when it runs out, the group is killed, connected or not.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` adds costs a fresh fork too much
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any, Dict, List, Optional

from cloche_runtime import procfs
from cloche_runtime.durable import Note, reserve, write_json
from cloche_runtime.owner import Owner
from cloche_runtime.spawn import Reborn, become_subreaper, spawn
from cloche_runtime.spool import Spool

_CHUNK = 256 * 1024
_LAST_CHUNKS = 8  # a pipe holds at most 1 MiB; a stranger who was handed its end must not hold us up
_NOTIFY = 0.004  # seconds between two words about a growing log
_DETAIL = 2000  # characters of a detail, far below that
_DEAF_TO = (int(signal.SIGHUP), int(signal.SIGINT))
_FOREVER = float("inf")


class Supervisor:
    """The life of one group, as one loop over descriptors and times (all by the monotonic clock)."""

    def __init__(self, spec: Dict[str, Any], *, warm: bool = False) -> None:
        limits = spec["limits"]
        self._spec = spec
        self._warm = warm
        self._memory: Optional[int] = limits["memory"]
        self._deadline: Optional[float] = limits["deadline"]
        self._grace: float = limits["grace"]
        self._orphan_after: float = limits["orphan_after"]
        self._spool = Spool("log", limits["log"], spec["redact"])
        self._state = Note("state.json")
        self._identities: Dict[str, Any] = {}
        self._poll = select.poll()
        self._owners: Dict[int, Owner] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._wake, self._wake_end = os.pipe()
        self._output: Optional[int] = None
        self._word: Optional[int] = None
        self._pid = 0
        self._began = time.monotonic()
        self._started: Optional[bool] = None
        self._status: Optional[int] = None
        self._ending = ""
        self._detail = ""
        self._kill_at = _FOREVER
        self._orphan_at = _FOREVER
        self._granted_until = _FOREVER
        self._tick_at = _FOREVER
        self._tick = 0.2 if self._memory else 1.0
        self._told_at = 0.0
        self._told_size = 0
        self._peak = 0
        self._strays: List[List[int]] = []
        self._kills_before = 0
        self._killing = 0

    # --- the course of things

    def run(self, first: Optional[socket.socket]) -> None:
        """Supervise from beginning to end; returns when everything is dead and written down."""
        self._listen()
        if first is not None:
            self._join(first)
        self._start()
        while not self._over():
            self._wait()
            self._keep_time(time.monotonic())
        self._finish()

    def _listen(self) -> None:
        for number in _DEAF_TO:
            _signal.signal(number, _signal.SIG_IGN)
        for end in (self._wake, self._wake_end):
            os.set_blocking(end, False)
        _signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        _signal.signal(signal.SIGCHLD, _nothing)
        _signal.signal(signal.SIGTERM, self._asked_to_end)
        become_subreaper()
        self._listener.bind("sock")
        self._listener.listen(16)
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(self._listener, select.POLLIN)

    def _start(self) -> None:
        spec = self._spec
        try:
            child = spawn(spec["argv"], spec["cwd"], spec["env"], warm=self._warm)
        except Reborn:
            self._disown()
            raise
        self._pid, self._output, self._word = child.pid, child.output, child.word
        self._began = now = time.monotonic()
        self._tick_at = now + (0.02 if self._memory else self._tick)
        if not self._owners:
            self._orphan_at = now + self._orphan_after
        self._poll.register(child.output, select.POLLIN)
        if child.why:
            self._ending, self._detail, self._started = "not_started", child.why, False
        elif child.word is None:
            self._started = True
        else:
            self._poll.register(child.word, select.POLLIN)
        self._note()
        self._tell({"at": "up", **self._present()})
        self._kills_before = procfs.kernel_kills()
        reserve("exit.json.new")

    def _disown(self) -> None:
        """Forget descriptors that are closed in this process: their numbers may be others' when the objects end."""
        for sock in (self._listener, *(one.sock for one in self._owners.values())):
            sock.detach()

    def _over(self) -> bool:
        """Tell whether the program and every descendant of it are dead."""
        if self._status is None:
            return False
        if not self._reap():
            return True
        now = time.monotonic()
        if now >= self._kill_at or self._killing == 0:
            self._kill_everything(now)
        return False

    def _finish(self) -> None:
        for _ in range(_LAST_CHUNKS):
            self._drain()
        self._spool.end()
        if self._word is not None:
            self._hear_word()
        if self._started is None:
            self._begun(started=False)
        record = self._exit()
        write_json("exit.json", record)
        opened = [os.open(one, os.O_RDONLY | os.O_CLOEXEC) for one in ("exit.json", ".")]
        self._tell({"at": "exited", **record})  # from here on the owner may remove the folder
        self._spool.close()
        for one in opened:
            os.fsync(one)

    # --- waiting

    def _wait(self) -> None:
        for fd, _ in self._poll.poll(self._timeout()):
            if fd == self._output:
                self._drain()
            elif fd == self._wake:
                os.read(self._wake, 4096)
                self._reap()
            elif fd == self._word:
                self._hear_word()
            elif fd == self._listener.fileno():
                self._accept()
            elif fd in self._owners:
                self._hear(self._owners[fd])

    def _timeout(self) -> Optional[int]:
        at = min(self._kill_at, self._orphan_at, self._granted_until, self._tick_at, self._deadline_at())
        if self._spool.size > self._told_size and any(one.follows for one in self._owners.values()):
            at = min(at, self._told_at + _NOTIFY)
        if at == _FOREVER:
            return None
        return max(0, min(60_000, int((at - time.monotonic()) * 1000) + 1))

    def _deadline_at(self) -> float:
        return _FOREVER if self._deadline is None or self._ending else self._began + self._deadline

    def _keep_time(self, now: float) -> None:
        """Do what is due."""
        if now >= self._told_at + _NOTIFY:
            self._tell_size(now)
        if now >= self._tick_at:
            self._look(now)
        if now >= self._deadline_at():
            self._end("deadline", self._grace)
        if now >= min(self._orphan_at, self._granted_until):
            self._orphan_at = self._granted_until = _FOREVER
            self._end("orphaned", 0.0)
        if now >= self._kill_at and self._status is None:
            self._kill_everything(now)

    # --- output

    def _drain(self) -> None:
        """Take a chunk of what lies in the pipe."""
        if self._output is None:
            return
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._spool.feed(data)
            return
        self._poll.unregister(self._output)
        os.close(self._output)
        self._output = None

    def _tell_size(self, now: float) -> None:
        size = self._spool.size
        if size == self._told_size:
            return
        self._told_size, self._told_at = size, now
        for one in list(self._owners.values()):
            if one.follows:
                one.tell({"at": "log", "size": size})

    # --- owners

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        owner = self._join(sock)
        if self._pid:
            owner.tell({"at": "up", **self._present()})

    def _join(self, sock: socket.socket) -> Owner:
        owner = Owner(sock)
        self._owners[sock.fileno()] = owner
        self._poll.register(sock, select.POLLIN)
        self._orphan_at = _FOREVER
        return owner

    def _leave(self, owner: Owner) -> None:
        for fd, one in list(self._owners.items()):
            if one is owner:
                del self._owners[fd]
                self._poll.unregister(fd)
        owner.sock.close()
        if not self._owners:
            self._orphan_at = time.monotonic() + self._orphan_after

    def _hear(self, owner: Owner) -> None:
        lines = owner.lines()
        if lines is None:
            self._leave(owner)
            return
        for line in lines:
            try:
                self._obey(json.loads(line), owner)
            except (ValueError, KeyError, TypeError):
                self._leave(owner)
                return

    def _obey(self, command: Dict[str, Any], owner: Owner) -> None:
        what = command["do"]
        if what == "cancel":
            grace = command.get("grace")
            self._end("canceled", self._grace if grace is None else float(grace))
        elif what == "grant":
            self._granted_until = time.monotonic() + float(command["seconds"])
        elif what == "follow":
            owner.follows = True
            owner.tell({"at": "log", "size": self._spool.size})

    def _tell(self, message: Dict[str, Any]) -> None:
        for one in list(self._owners.values()):
            one.tell(message)

    def _present(self) -> Dict[str, Any]:
        return {"supervisor": os.getpid(), "pid": self._pid, "started": self._started, "size": self._spool.size}

    # --- the beginning

    def _hear_word(self) -> None:
        """Take the program's word that the user's code begins, or that it can no longer give it."""
        assert self._word is not None  # noqa: S101 - registered only with a descriptor
        try:
            said = os.read(self._word, 1)
        except BlockingIOError:
            return
        self._poll.unregister(self._word)
        os.close(self._word)
        self._word = None
        if said:
            self._begun(started=True)

    def _begun(self, *, started: bool) -> None:
        self._started = started
        self._note_again()
        self._tell({"at": "started" if started else "not_started", "pid": self._pid})

    def _note_again(self) -> None:
        """Write it down anew; on a full disk what was written before has to do."""
        try:
            self._note()
        except OSError:
            return

    def _note(self) -> None:
        """Write down who lives, for whoever finds this supervisor dead."""
        if not self._identities:
            self._identities = {
                "boot": procfs.boot_id(),
                "supervisor": procfs.identity(os.getpid()),
                "child": procfs.identity(self._pid),
            }
        self._state.write({**self._identities, "started": self._started, "strays": self._strays})

    # --- limits

    def _look(self, now: float) -> None:
        """Measure memory and note descendants that left the group."""
        living = procfs.descendants(os.getpid())
        used = procfs.resident(living)
        if self._memory and used > self._memory:
            used = procfs.proportional(living)
        self._peak = max(self._peak, used)
        if self._memory and used > self._memory:
            self._end("out_of_memory", 0.0)
        near = self._memory is not None and used > self._memory // 2
        self._tick_at = now + (0.02 if near else self._tick)
        if self._memory is None:
            self._tick = min(5.0, self._tick * 1.5)
        strays = [one for one in map(procfs.stat, living) if one is not None and one.session != self._pid]
        known = [[one.pid, one.start] for one in strays]
        if known != self._strays:
            self._strays = known
            self._note_again()

    # --- the end

    def _asked_to_end(self, _number: int, _frame: object) -> None:
        """SIGTERM to the supervisor itself: the machine goes down, or an operator means it."""
        self._detail = self._detail or "the supervisor was told to end (SIGTERM)"
        self._end("lost", 0.0)

    def _end(self, ending: str, grace: float) -> None:
        """Decide how the group ends, if it is not decided, and begin with it."""
        if self._status is not None:
            return
        now = time.monotonic()
        if not self._ending:
            self._ending = ending
            if grace > 0:
                _signal_group(self._pid, signal.SIGTERM)
        self._kill_at = min(self._kill_at, now + grace)

    def _kill_everything(self, now: float) -> None:
        """SIGKILL to every descendant; again until none is left, ever more slowly."""
        for pid in procfs.descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        self._killing += 1
        self._kill_at = now + min(0.1, 0.001 * 2 ** min(self._killing, 7))

    def _reap(self) -> bool:
        """Collect who died; false when no child is left, and so no descendant."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = status

    def _exit(self) -> Dict[str, Any]:
        status = self._status or 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        ending = self._ending or ("exited" if number is None else "signaled")
        if ending == "signaled" and number == signal.SIGKILL and procfs.kernel_kills() > self._kills_before:
            ending, self._detail = "out_of_memory", "the kernel ended it for want of memory"
        return {
            "ending": ending,
            "code": None if ending == "not_started" else code,
            "signal": number,
            "started": bool(self._started),
            "log_bytes": self._spool.size,
            "log_dropped": self._spool.dropped,
            "wall_seconds": time.monotonic() - self._began,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_memory": max(self._peak, used.ru_maxrss * 1024),
            "detail": self._detail[:_DETAIL],
        }


def _nothing(_number: int, _frame: object) -> None:
    """Let the wake-up descriptor tell of a signal."""


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except OSError:
        return


def main(folder: str, first: Optional[socket.socket], *, warm: bool = False) -> None:
    """Supervise the group of `folder`, unless another does or it has ended already.

    With `warm` this is a fork of the program's own interpreter, and `Reborn` is raised in the program.
    """
    os.umask(0o077)
    os.chdir(folder)
    lock = os.open("spec.json", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    if os.path.exists("exit.json") or os.path.exists("state.json"):
        return
    try:
        Supervisor(json.loads(procfs.read("spec.json")), warm=warm).run(first)
    except Reborn:
        raise
    except BaseException:  # noqa: BLE001 - whatever it was, nothing of the group may live on
        with open("trouble", "w") as file:
            traceback.print_exc(file=file)
        for pid in procfs.descendants(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        sys.exit(70)
