"""Why a run is where it is."""

from cloche_runner.domain.runs import Run
from cloche_runner.scheduling import Scheduling
from cloche_runner.schemas import WhyView
from cloche_shared.journal.commit import StreamId


def why(stream: StreamId, run: Run, scheduling: Scheduling, room: str = "") -> WhyView:
    """Return what a run waits for, as a sentence; `room` says what the full disk of its node means for it."""
    if room:
        return _view(stream, run, "room", room)
    if run.phase == "submitted":
        return _view(stream, run, "references", "The run waits until its environment and models are looked up.")
    if run.phase == "preparing":
        named = f"{run.environment.name}:{run.environment.version}" if run.environment is not None else "it"
        return _view(stream, run, "environment", f"The run waits for its environment {named} to be built.")
    if run.phase == "queued":
        return _view(stream, run, "resources", f"The run {scheduling.why(str(stream))}")
    if run.phase == "claimed":
        return _view(stream, run, "node", f"The run is being started on the node {run.node}.")
    return _view(stream, run, "nothing", _not_waiting(run))


def _not_waiting(run: Run) -> str:
    if run.phase == "running":
        return f"The run is running on the node {run.node}, since {run.started_at}."
    if run.phase == "finalizing":
        return "The script has ended; what it left is being collected."
    if run.phase == "failed" and run.problem is not None:
        return f"The run has failed: {run.problem.message}"
    return f"The run has ended: it is {run.status}."


def _view(stream: StreamId, run: Run, waits_for: str, reason: str) -> WhyView:
    return WhyView.model_validate({"id": stream.id, "status": run.status, "waits_for": waits_for, "reason": reason})
