"""Following a run: the build's log while it is prepared, its own log, and how it ended."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import typer

from cloche._errors import ClocheError, Failed, NotFound, Unavailable
from cloche._views import Run
from cloche.cli import exits
from cloche.cli.output import Output
from cloche.cli.text import DASH, counted, duration, named, seconds_between

if TYPE_CHECKING:
    from cloche.client import Client

ANSWER_SECONDS: Final = 30.0
SLOW_SECONDS: Final = 2.0
"""Seconds from which on it is told that a run's references are not looked up yet."""
_FIRST_PAUSE: Final = 0.03
_LONGEST_PAUSE: Final = 0.5
_BEFORE_BUILD: Final = "NotStarted"
_PREPARING: Final = "Preparing"
_OUT_OF_TIME: Final = "deadline_exceeded"
_LOOK_SECONDS: Final = 2.0
_NO_ROOM: Final = "room"
_LONG_STORING: Final = 1.0
"""Seconds from which on the storing of outputs is told apart."""


def pauses() -> Iterator[float]:
    """Yield the waits between two looks: short ones first."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(_LONGEST_PAUSE, pause * 1.3)


def resolved(output: Output, client: "Client", run: Run, *, after: float = SLOW_SECONDS) -> Run:
    """Return the run once its references were looked up (or it ended over them); tell when that is slow."""
    started, told = time.monotonic(), False
    for pause in pauses():
        waited = time.monotonic() - started
        if run.environment is not None or run.ended or waited > ANSWER_SECONDS:
            break
        if waited >= after and not told:
            told = True
            output.note(
                f"run {run.id} is taken; it waits for its environment to be looked up. If that stays so, messages do "
                "not get through: lists are behind as well, and `cloche status` tells what is not ready"
            )
        time.sleep(pause)
        run = client.runs.get(run.id)
    return run


def environment_note(run: Run) -> str:
    """Return which environment version a run took, and whether its request made it."""
    used = run.environment
    if used is None:
        return "its environment is not known yet"
    made = " (registered by this run)" if used.model_dump().get("registered") else ""
    return f"environment {used.name}:{used.version}{made}"


@contextmanager
def detaching(output: Output, run_id: str) -> Iterator[None]:
    """Let Ctrl-C end the watching and not the run, whose id is told however quiet the call is."""
    try:
        yield
    except KeyboardInterrupt:
        if output.mode.quiet:
            output.warn(f"Run {run_id} goes on.")
        output.note(
            f"\nThe run goes on. Follow it again: cloche run logs -f {run_id}\n"
            f"                 Cancel it:       cloche run cancel {run_id}"
        )
        raise typer.Exit(exits.INTERRUPTED) from None
    except Unavailable:
        output.note(f"Cloche cannot be asked now; the run does not depend on that. Go on: cloche run logs -f {run_id}")
        raise


def to_the_end(output: Output, client: "Client", run: Run) -> Run:
    """Show the run's build and log as they grow; return it as it ended."""
    run = _prepared(output, client, run)
    if not run.ended:
        with _telling_when_it_only_stores(output, client, run.id):
            for piece in client.runs.log(run.id, follow=True):
                output.raw(piece)
            run = client.runs.wait(run.id)
    elif run.model_dump().get("log_bytes"):
        for piece in client.runs.log(run.id, follow=False):
            output.raw(piece)
    return run


@contextmanager
def _telling_when_it_only_stores(output: Output, client: "Client", run_id: str) -> Iterator[None]:
    """Say beside the log, each once, that what the script left is being stored, and that there is no room."""
    over = threading.Event()

    def look() -> None:
        told: set[str] = set()
        while not over.wait(_LOOK_SECONDS):
            with suppress(ClocheError):
                found = client.runs.why(run_id)
                if found["status"] == "Finalizing" and "storing" not in told:
                    told.add("storing")
                    output.note(f"the script of run {run_id} has ended; its outputs and log are being stored …")
                about = f"{found['waits_for']} {found['status']}"
                if found["waits_for"] == _NO_ROOM and about not in told:
                    told.add(about)
                    output.note(str(found["reason"]))

    watcher = threading.Thread(target=look, name="finalizing", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _prepared(output: Output, client: "Client", run: Run) -> Run:
    shown = False
    for pause in pauses():
        if run.status not in {_BEFORE_BUILD, _PREPARING}:
            break
        if not shown and run.status == _PREPARING:
            shown = _build_log(output, client, run)
        else:
            time.sleep(pause)
        run = client.runs.get(run.id)
    return run


def _build_log(output: Output, client: "Client", run: Run) -> bool:
    """Show the log of the build that a run waits for; false if there is none (yet)."""
    build_id = _build_of(client, run)
    if build_id is None:
        return False
    output.note(f"building {named(run.environment.model_dump() if run.environment else None)} ({build_id[:24]}…)")
    for piece in client.builds.log(build_id, follow=True):
        output.note(f"| {piece.rstrip()}")
    return True


def _build_of(client: "Client", run: Run) -> str | None:
    wanted = run.environment.definition_hash if run.environment else ""
    for build in client.builds.list(limit=20):
        if wanted and build.model_dump().get("definition_hash") == wanted:
            return build.id if build.status in {"Queued", "Building"} else None
    return None


def summary(run: Run, metrics: Mapping[str, object], outputs: int) -> str:
    """Return how a run ended, on one line."""
    item = run.model_dump(mode="json")
    took = took_of(item)
    parts = [f"run {run.id} {run.status}"]
    if took != DASH:
        parts.append(took)
    parts.append(ending_of(item.get("exit")))
    parts += [counted(len(metrics), "metric"), counted(outputs, "output file")]
    left_out = item.get("left_out")
    if isinstance(left_out, list) and left_out:
        parts.append(f"not kept: {'; '.join(map(str, left_out))}")
    return " · ".join(part for part in parts if part)


def took_of(item: Mapping[str, object]) -> str:
    """Return how long a run's script took, and how long it took to store what it left where that was long."""
    took = duration(seconds_between(item.get("started_at"), item.get("ended_at")))
    storing = seconds_between(item.get("ended_at"), item.get("stored_at"))
    return f"{took} + {duration(storing)} to store what it left" if storing and storing >= _LONG_STORING else took


def ending_of(ended: object) -> str:
    """Return how a process ended: `exit 3`, `signal 9`, and what is known beyond that."""
    if not isinstance(ended, Mapping):
        return ""
    if ended.get("signal"):
        said = f"signal {ended['signal']}"
    elif ended.get("code") is not None:
        said = f"exit {ended['code']}"
    else:
        said = str(ended.get("ending") or "")
    detail = ended.get("detail")
    return f"{said} ({detail})" if detail and said else said


def tell_end(output: Output, client: "Client", run: Run) -> None:
    """Tell how a run ended: one line, and why it failed."""
    metrics = client.runs.metrics(run.id).get("metrics")
    output.note(summary(run, metrics if isinstance(metrics, dict) else {}, _outputs(client, run)))


def _outputs(client: "Client", run: Run) -> int:
    if not run.model_dump().get("outputs"):
        return 0
    return len(client.runs.outputs(run.id))


def why_failed(run: Run) -> Failed | NotFound | None:
    """Return the error of a run that failed before or beside its script; None when the script's exit says it all."""
    problem = run.problem
    if run.status != "Failed" or problem is None:
        return None
    kind = NotFound if exits.exit_code_of_problem(problem.code) == exits.MISSING else Failed
    return kind(problem.code, problem.message or "The run failed.", todo=problem.todo, extra={"run": run.id})


def end_code(run: Run) -> int:
    """Return the exit code of the job: the script's own, or what the problem stands for."""
    if run.status == "Completed":
        return exits.OK
    if run.status == "Canceled":
        return exits.INTERRUPTED
    if run.problem is not None and run.problem.code == _OUT_OF_TIME:
        return exits.TIMED_OUT
    ended = run.exit or {}
    code = ended.get("code")
    if isinstance(code, int) and code:
        return code
    signal = ended.get("signal")
    if isinstance(signal, int) and signal:
        return 128 + signal
    return exits.exit_code_of_problem(run.problem.code) if run.problem else exits.FAILURE
