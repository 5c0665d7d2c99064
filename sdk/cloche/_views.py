"""What the SDK returns: the server's documents with attributes. Unknown members are kept."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr


class View(BaseModel):
    """A document as the server showed it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    _client: Any = PrivateAttr(None)


class Problem(View):
    """Why something failed: a stable code, a message, what to do."""

    code: str
    message: str = ""
    todo: str = ""


class Environment(View):
    """One version of an environment."""

    name: str
    version: str
    definition_hash: str = ""
    labels: list[str] = []


class Finding(View):
    """One thing that is wrong with a definition (`error`) or may surprise (`warning`)."""

    severity: str
    pointer: str
    code: str
    detail: str = ""


class Check(View):
    """What a check of a definition found; `definition_hash` is None where there are errors."""

    valid: bool
    definition_hash: str | None = None
    problems: list[Finding] = []


class Change(View):
    """One difference between two definitions; None: nothing there."""

    pointer: str
    before: str | None = None
    after: str | None = None


class PackageChange(View):
    """A package that two locks have in different versions; None: not at all. `kind` is `pip` or `conda`."""

    name: str
    kind: str = "pip"
    before: str | None = None
    after: str | None = None


class Side(View):
    """One of two versions that were compared."""

    name: str
    version: str
    definition_hash: str = ""


class Difference(View):
    """What differs between two versions. `packages` compares their locks; None where one was never built."""

    base: Side
    other: Side
    same_hash: bool
    changes: list[Change] = []
    packages: list[PackageChange] | None = None


class LockSide(View):
    """One of two locks; empty where there is none."""

    digest: str = ""
    python: str = ""


class LockChanges(View):
    """What differs between two locks of one definition."""

    before: LockSide
    after: LockSide
    packages: list[PackageChange] = []


class Drift(LockChanges):
    """What a refresh would change; `after` is only foreseen and has no digest."""

    environment: str = ""

    @property
    def drifted(self) -> bool:
        """Whether a refresh would change anything."""
        return bool(self.packages) or self.before.python != self.after.python


class Explanation(View):
    """What a build would do (`reuse`, `restore`, `build`, `join`), and why."""

    action: str
    reason: str = ""
    text: str = ""
    shared: bool = False
    scope_text: str = ""
    build_id: str = ""
    definition_hash: str = ""
    lock_digest: str = ""
    artefacts: int = 0
    bytes: int = 0
    missing: int = 0
    steps: list[str] = []
    environment: str = ""


class Used(View):
    """An environment or model version that something uses."""

    name: str
    version: str
    definition_hash: str = ""


class Build(View):
    """A build of an environment."""

    id: str
    status: str
    problem: Problem | None = None

    @property
    def ended(self) -> bool:
        """Whether the build is over."""
        return self.status in {"Completed", "Failed"}


class Run(View):
    """A run."""

    id: str
    status: str
    script: str = ""
    environment: Used | None = None
    problem: Problem | None = None
    exit: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.status in {"Completed", "Failed", "Canceled"}

    @property
    def exit_code(self) -> int:
        """The exit code of the user's code: 0 for a completed run, at least 1 for any other end."""
        if self.status == "Completed":
            return 0
        code = (self.exit or {}).get("code")
        return code if isinstance(code, int) and code else 1


class Model(View):
    """One version of a model."""

    name: str
    version: str
    size: int = 0
    run_id: str = ""
    tags: dict[str, str] = {}


class Service(View):
    """A scoring service."""

    name: str
    status: str
    revision: int = 0
    active_revision: int | None = None
    scoring_uri: str | None = None
    environment: Used | None = None
    models: list[Used] = []
    error: Problem | None = None

    @property
    def settled(self) -> bool:
        """Whether the newest revision is up or has failed."""
        return self.status != "Transitioning"


class Keys(View):
    """The two keys of a service."""

    primary: str
    secondary: str


class Event(View):
    """A CloudEvent."""

    id: str
    type: str
    subject: str = ""
    time: str = ""
    correlationid: str = ""
    causationid: str = ""
    data: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The type without prefix and version: `RunSubmitted`."""
        return self.type.split(".")[1] if self.type.count(".") > 1 else self.type


class Project(View):
    """A project."""

    name: str
    description: str = ""
    created_at: str = ""
    created_by: str = ""


class Token(View):
    """What is known of an API key; its `token` only where it was created just now."""

    id: str
    role: str
    status: str = ""
    project: str = ""
    projects: list[str] = []
    description: str = ""
    expires: str | None = None
    last_used: str | None = None
    created_at: str = ""
    created_by: str = ""
    token: str | None = Field(default=None, repr=False)


class Letter(View):
    """A message that no handler could take. `time`: when it says that it happened, else when it was put aside."""

    id: str
    group: str
    reason: str
    attempts: int = 0
    type: str = ""
    subject: str = ""
    project: str = ""
    time: str = ""


class Group(View):
    """A consumer group, and the topics that it reads; a name with `*` stands for all that begin so."""

    group: str
    service: str
    topics: list[str]


class CommandTaken(View):
    """A command on its way: `subject` is its answer's, `correlationid` that of all that it sets going."""

    subject: str
    correlationid: str
    topic: str


class Listing(View):
    """One page."""

    items: list[dict[str, Any]]
    next_page_token: str | None = None
