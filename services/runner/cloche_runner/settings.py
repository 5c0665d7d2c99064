"""The runner's settings (`CLOCHE_RUNNER__<FIELD>`)."""

from pydantic import Field

from cloche_shared.settings import Section


class RunnerSettings(Section):
    """How runs are accepted, placed, driven and watched. Times in seconds, sizes in bytes.

    `node`: this replica's node id; empty: it drives none and only answers requests.
    `cpus`: how many CPUs the node offers; None: all that this process may use. 0: it takes no run.
    `address`: where other replicas reach this one.
    `shared`: the node runs the code of any project. Programs of a node have one user of the system, and can read and
    disturb each other: only for projects that trust each other. Otherwise it is for one project (an embedded Cloche has
    one user, and no such limit).
    `project`: the one that the node is for; empty: the first that gets anything there, from then on for always.
    `snapshot_bytes`, `snapshot_files`: the largest snapshot that is accepted.
    `losses`: attempts that may be lost for reasons of the infrastructure before a run fails.
    `loss_delay`: the wait before the next attempt after the first loss; it doubles with each.
    `patience`: how long a run that does not fit is passed by smaller ones before it reserves a node.
    `starving`: after this wait a run goes first within its priority, whatever its project holds.
    `lease`: the time to live of a node's lease where several replicas share a journal.
    `orphan_after`: how long an attempt lives on when nobody comes back for it (single-process installations).
    `cancel_margin`: beyond a run's grace, the time after which a cancelled run counts as ended.
    `measure_every`: the pause between two looks at what a script logged.
    `measure_bytes`: how much of it is kept for one attempt.
    `log_bytes`: how much of an attempt's log is kept.
    `log_kept_every`: the pause between two stores of a running attempt's log, where several replicas share a journal;
    it grows with the attempt's age to 5 % of it. What was written since is missing when the node is lost.
    `outputs_bytes`: how much of what a run leaves is kept; files that do not fit are left out, and the run says so.
    `room_wait`: how long it is tried to store what a run leaves while the disk is full; then the run fails with what
    could be kept, and its working folder is removed.
    `sweep_every`: the pause of the safety net that looks for work without being woken.
    `sweep_lists`: the pause between two passes that write all lists again; 0: none. The first one comes
    after `sweep_every`: a start knows the active runs from the lists.
    """

    node: str = ""
    cpus: float | None = Field(default=None, ge=0)
    address: str = ""
    shared: bool = False
    project: str = ""
    snapshot_bytes: int = Field(default=300 * 1024 * 1024, ge=0)
    snapshot_files: int = Field(default=10_000, ge=0)
    losses: int = Field(default=3, ge=1)
    loss_delay: float = Field(default=1.0, ge=0)
    patience: float = Field(default=30.0, ge=0)
    starving: float = Field(default=600.0, gt=0)
    lease: float = Field(default=30.0, gt=0)
    orphan_after: float = Field(default=24 * 3600.0, gt=0)
    cancel_margin: float = Field(default=5.0, ge=0)
    measure_every: float = Field(default=1.0, gt=0)
    measure_bytes: int = Field(default=16 * 1024 * 1024, ge=0)
    log_bytes: int = Field(default=1024 * 1024 * 1024, ge=0)
    log_kept_every: float = Field(default=10.0, gt=0)
    outputs_bytes: int = Field(default=50 * 1024**3, ge=0)
    room_wait: float = Field(default=60.0, ge=0)
    sweep_every: float = Field(default=30.0, gt=0)
    sweep_lists: float = Field(default=3600.0, ge=0)
