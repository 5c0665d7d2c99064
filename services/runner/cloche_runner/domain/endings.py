"""What the end of a process group means for a run."""

import errno
import os
import signal
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from cloche_shared.contracts.references import Problem
from cloche_shared.contracts.runs import Ended, RunSpec

Kind = Literal["completed", "canceled", "user", "final", "infrastructure"]
_NO_SCRIPT = 2
"""The exit code with which the bootstrap says that it cannot open the script."""

NODES_FAULTS = frozenset({"disk_full", "storage_failed", "store_changed", "worker_lost"})
"""Codes of what keeps a node from preparing an attempt for reasons of its own: another attempt may go well."""
NO_ROOM = "disk_full"
_CANNOT_START = "cannot start "
"""How the supervisor's child begins to say that the interpreter cannot be executed."""
_SCARCE = tuple(
    os.strerror(number) for number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ETXTBSY)
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`user`: the user's code failed and may be tried again if that was asked for; `final`: trying again is no use.

    `left_out` names what was not kept of the outputs; `stored_at` is when the others were.
    """

    kind: Kind
    problem: Problem | None = None
    left_out: tuple[str, ...] = ()
    stored_at: str = ""


def judge(ended: Ended, spec: RunSpec, *, log_tail: str = "") -> Verdict:
    """Return what an end means. `log_tail` are the last lines of the log, shown with a failure."""
    match ended.ending:
        case "exited":
            verdict = _exited(ended, spec, log_tail)
        case "canceled":
            verdict = Verdict("canceled")
        case "signaled":
            verdict = Verdict("user", _signaled(ended, log_tail))
        case "out_of_memory":
            verdict = Verdict("user", _out_of_memory(ended, spec, log_tail))
        case "deadline":
            verdict = Verdict("final", _deadline(spec, log_tail))
        case "not_started" if _cannot_ever_start(ended):
            verdict = Verdict("final", _not_started(ended))
        case _:
            verdict = Verdict("infrastructure", _infrastructure(ended))
    return verdict


def without_outputs(verdict: Verdict, problem: Problem) -> Verdict:
    """Return what an end means when outputs are missing: what else went wrong weighs more.

    The user's code has ended, so it is never run again for that. A full disk is told first: the rest may come of it.
    """
    if verdict.kind == "completed":
        return replace(verdict, kind="final", problem=problem)
    former = verdict.problem
    if problem.code != NO_ROOM or former is None:
        return verdict
    both = {"message": f"{problem.message} {former.message}", "extra": {**former.extra, **problem.extra}}
    return replace(verdict, problem=problem.model_copy(update=both))


def ended_at(started_at: str, ended: Ended, now: str) -> str:
    """Return when an attempt ended: after the time that its supervisor measured, which may be long before `now`."""
    if not started_at or not ended.wall_seconds:
        return now
    end = datetime.fromisoformat(started_at) + timedelta(seconds=ended.wall_seconds)
    if end >= datetime.fromisoformat(now):
        return now
    return end.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _problem(code: str, message: str, todo: str, log_tail: str = "", **extra: object) -> Problem:
    shown = {**extra, "log_tail": log_tail} if log_tail else extra
    last = next((line for line in reversed(log_tail.splitlines()) if line.strip()), "")
    text = f"{message} Its last line: {last.strip()[:500]}" if last else message
    return Problem(code=code, message=text, todo=todo, extra=dict(shown))


def _exited(ended: Ended, spec: RunSpec, log_tail: str) -> Verdict:
    if ended.code == 0:
        return Verdict("completed")
    if "cloche: cannot open the script" in log_tail and ended.code == _NO_SCRIPT:
        problem = _problem(
            "script_not_found", f"The script {spec.script!r} cannot be opened.", "Check the script's path.", log_tail
        )
        return Verdict("final", problem)
    message = f"The script {spec.script!r} ended with exit code {ended.code}."
    todo = "Read the run's log; the traceback or message before the end says why."
    return Verdict("user", _problem("user_code_failed", message, todo, log_tail, exit_code=ended.code))


def signal_name(number: int | None) -> str:
    """Return `SIGSEGV` for 11, or the number as text."""
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number or 0}"


def _signaled(ended: Ended, log_tail: str) -> Problem:
    name = signal_name(ended.signal)
    todo = "Look for a crash in native code, or for whoever sent the signal."
    return _problem("killed_by_signal", f"The script was ended by {name}.", todo, log_tail, signal=name)


def _out_of_memory(ended: Ended, spec: RunSpec, log_tail: str) -> Problem:
    limit = spec.resources.memory
    message = f"The script used more memory than its limit of {_mib(limit)} (peak {_mib(ended.peak_memory)})."
    todo = "Ask for more with --memory, or use less."
    return _problem("out_of_memory", message, todo, log_tail, limit=limit, peak=ended.peak_memory)


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _deadline(spec: RunSpec, log_tail: str) -> Problem:
    message = f"The script ran longer than its deadline of {spec.deadline:g} s."
    return _problem("deadline_exceeded", message, "Set a longer deadline, or none.", log_tail, deadline=spec.deadline)


def _cannot_ever_start(ended: Ended) -> bool:
    """Tell an interpreter that cannot be executed from a machine that could not execute it just then."""
    return ended.detail.startswith(_CANNOT_START) and not ended.detail.endswith(_SCARCE)


def _not_started(ended: Ended) -> Problem:
    message = f"The environment's interpreter could not be started: {ended.detail}."
    return _problem("not_started", message, "Build the environment again, or look at this machine's limits.")


def _infrastructure(ended: Ended) -> Problem:
    reason = ended.detail or ("its node did not renew its lease" if ended.ending == "orphaned" else ended.ending)
    return _problem("attempt_lost", f"The attempt was lost: {reason}.", "Nothing: another attempt is made.")
