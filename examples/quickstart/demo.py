"""The whole job, twice: environment, build, run, model, service, score. `make demo` runs this.

Cloche is started on a free port of this machine with a data folder of its own (`.demo/`); it and
everything that it started ends with this script, also on Ctrl-C.

    python examples/quickstart/demo.py --running

does it with a Cloche that runs already, the one that `CLOCHE_URL` and `CLOCHE_TOKEN` name: a cluster, for example.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cloche import Client, Event

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / ".demo"
NAME = "quickstart"
BEGIN = ("Submitted", "EnvironmentRegistered", "ModelRegistered")
ROWS = [
    [13.2, 1.78, 2.14, 11.2, 100.0, 2.65, 2.76, 0.26, 1.28, 4.38, 1.05, 3.4, 1050.0],
    [12.37, 0.94, 1.36, 10.6, 88.0, 1.98, 0.57, 0.28, 0.42, 1.95, 1.05, 1.82, 520.0],
    [13.71, 5.65, 2.45, 20.5, 95.0, 1.68, 0.61, 0.52, 1.06, 7.7, 0.64, 1.74, 740.0],
]
console = Console(highlight=False, width=min(Console().width, 110))


class Steps:
    """Says what is done and how long it took."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    @contextmanager
    def __call__(self, title: str) -> Iterator[list[str]]:
        """Time one step; the block may append words on what came of it."""
        began = time.perf_counter()
        console.print(f"[bold]▸ {title}[/]")
        words: list[str] = []
        yield words
        took = self.took[title] = time.perf_counter() - began
        console.print(f"  [green]✓[/] {took:6.2f} s  {' '.join(words)}", soft_wrap=True)


@contextmanager
def server() -> Iterator[Client]:
    """Start Cloche, and end it with all that it runs."""
    HOME.mkdir(mode=0o700, exist_ok=True)
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "cloche._embedded", "--home", str(HOME), "--port", "0"]
    with (HOME / "cloche.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--ready-fd", str(writer)], pass_fds=[writer], stderr=log, start_new_session=True
        )
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            started = json.loads(ready.readline() or "{}")
        if "url" not in started:
            problem = started.get("error", {})
            raise SystemExit(f"Cloche did not start: {problem.get('what', f'see {HOME}/cloche.log')}")
        token = Path(started["token_file"]).read_text().strip()
        with Client(started["url"], token, home=HOME) as client:
            try:
                yield client
            finally:
                end_runs(client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def end_runs(client: Client) -> None:
    """End the runs that are still going."""
    for run in client.runs.list(limit=20):
        if not run.ended:
            run.cancel().wait(timeout=30)


def job(client: Client) -> tuple[list[str], dict[str, float]]:
    """Do the whole job; return the aggregates whose events tell of it, and each step's seconds."""
    step = Steps()
    with step("register the environment") as words:
        environment = client.environments.register(NAME, requirements_file=HERE / "requirements.txt")
        words.append(f"{NAME}:{environment.version}" + ("" if environment.created else " (unchanged)"))
    with step("build it") as words:
        build = client.builds.start(NAME)
        with contextlib.suppress(TimeoutError):  # what is there already takes no second
            build = client.builds.wait(build.id, timeout=1)
        for line in client.builds.log(build.id) if not build.reused else ():
            console.print(f"    [dim]{line.rstrip()}[/]", soft_wrap=True)
        build = client.builds.wait(build.id, timeout=600)
        if build.status != "Completed":
            raise SystemExit(f"The build failed: {build.problem}")
        words.append("reused" if build.reused else "built")
    with step("train: submit train.py and follow its log") as words:
        run = client.runs.submit(HERE / "train.py", environment=NAME, arguments=["--trees", 80])
        for piece in run.log():
            console.print(f"    [dim]{piece.decode().rstrip()}[/]")
        run = run.wait(timeout=300)
        if run.status != "Completed":
            raise SystemExit(f"The run ended as {run.status}: {run.problem}")
        words.append(f"accuracy {run.metrics()['metrics']['accuracy']:.3f}")
    with step("register the model") as words:
        model = client.models.register(NAME, from_run=run.id, path="outputs/model.pkl")
        words.append(f"{NAME}:{model.version}, {model.size:,} bytes")
    with step("deploy score.py") as words:
        exists = any(service.name == NAME for service in client.services.list())
        service = client.services.deploy(NAME, HERE / "score.py", model=NAME, environment=NAME, update=exists)
        service = service.wait(timeout=300)
        if service.status != "Healthy" or service.error is not None:
            raise SystemExit(f"The service is {service.status}: {service.error}")
        words.append(f"revision {service.active_revision} at {service.scoring_uri}")
    with step("score three wines over HTTP") as words:
        words.append(json.dumps(service.score({"data": ROWS})))
    subjects = [f"environment/default/{NAME}"] if environment.created else []
    subjects += [f"buildrequest/default/{build.id}", f"run/default/{run.id}"]
    subjects += [f"model/default/{NAME}", f"service/default/{NAME}"]
    return subjects, step.took


def chain(client: Client, subject: str) -> list[Event]:
    """Return every event of the chain that an aggregate's newest request began."""
    own = list(client.events(follow=False, from_start=True, subject=subject))
    begun = max((event for event in own if event.name.endswith(BEGIN)), key=lambda event: event.time)
    found = client.events(follow=False, from_start=True, correlation=begun.correlationid)
    return sorted(found, key=lambda event: event.time)


def show_chains(client: Client, subjects: list[str]) -> None:
    """Print the chains of events with their times."""
    table = Table("event", "about", "after", title="What happened", title_justify="left")
    for subject in subjects:
        events = chain(client, subject)
        began = datetime.fromisoformat(events[0].time)
        for event in events:
            after = (datetime.fromisoformat(event.time) - began).total_seconds()
            kind, _, name = event.subject.split("/")
            table.add_row(event.name, f"{kind} {name[:12]}", f"{after * 1000:8.0f} ms")
        table.add_section()
    console.print(table)


def compare(first: dict[str, float], second: dict[str, float]) -> None:
    """Print how long each step took both times."""
    table = Table("step", "first", "again", title="The second time nothing is built again", title_justify="left")
    for title, took in first.items():
        table.add_row(title, f"{took:7.2f} s", f"{second[title]:7.2f} s")
    table.add_row("[bold]all[/]", f"{sum(first.values()):7.2f} s", f"{sum(second.values()):7.2f} s")
    console.print(table)


def main() -> int:
    """Run the demo."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began, running = time.perf_counter(), "--running" in sys.argv[1:]
    try:
        console.print("Asking the Cloche that runs …" if running else f"Starting Cloche in {HOME.name}/ …")
        with Client() if running else server() as client:
            console.print(f"Ready at {client.endpoint.url} after {time.perf_counter() - began:.2f} s\n")
            subjects, first = job(client)
            show_chains(client, subjects)
            console.print("\n[bold]Once more.[/]")
            _, second = job(client)
            compare(first, second)
    except KeyboardInterrupt:
        console.print("\nInterrupted." if running else "\nInterrupted; everything was ended.")
        return 130
    console.print(f"All of it took {time.perf_counter() - began:.1f} s. `make demo` can be run again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
