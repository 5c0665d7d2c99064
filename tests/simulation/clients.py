"""Clients: they register, submit, cancel, deploy, and write down what they were told."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from cloche_deployer.handlers import Deployment
from cloche_registry.handlers import ModelDraft, outcome_version
from cloche_runner.handlers import Submission
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.contracts.facts import BuildSubmitted
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import EnvironmentRef, InlineEnvironment, ModelRef, References
from cloche_shared.contracts.runs import Resources, RunSpec
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.errors import ClocheError, Unavailable
from cloche_shared.journal.commit import Actor, Origin
from cloche_shared.ports.journal import OutcomeUnknownError
from cloche_shared.store.hashing import manifest_bytes
from tests.simulation.record import Op
from tests.simulation.world import LostError, World

Ask = Callable[[Any], Awaitable[Mapping[str, Any]]]
THEMES = {
    "everything": (5, 6, 2, 1, 2, 1, 1),
    "runs": (1, 10, 2, 0, 0, 0, 0),
    "zombies": (1, 10, 1, 0, 0, 0, 0),
    "environments": (10, 2, 0, 2, 0, 0, 1),
    "services": (2, 2, 0, 1, 6, 2, 0),
    "places": (0, 3, 0, 0, 8, 1, 0),
}
"""How often clients register, run, cancel, register a model, deploy, delete a service, and build."""
PROJECTS = ("default", "other")
NAMES = ("sk", "torch")
GIB = 1 << 30
_AGAIN = (LostError, Unavailable, OutcomeUnknownError, asyncio.CancelledError)


async def store_files(world: World, owner: str, project: str, files: Mapping[str, bytes]) -> str:
    """Put files and their manifest into a space and return the manifest's digest."""
    space = world.blobs.space(owner, project)
    entries = []
    for path, data in sorted(files.items()):
        blob = await space.put_bytes(data)
        entries.append(FileEntry(path=path, digest=blob.digest, size=blob.size))
    return (await space.put_bytes(manifest_bytes(Manifest(files=tuple(entries))))).digest


class Client:
    """One client, working through its list."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._draw = random.Random(f"{world.seed}/client-{number}")
        self._number = number
        self._count = 0

    async def work(self, steps: int, within: float) -> None:
        """Do so many things at random moments within a time."""
        draw, pause = self._draw, 2 * within / steps
        chores = (self._register, self._run, self._cancel, self._model, self._deploy, self._undeploy, self._build)
        for _ in range(steps):
            await asyncio.sleep(0.0 if draw.random() < 0.3 else draw.uniform(0.0, pause))
            chore = draw.choices(chores, THEMES[self._world.layout.theme])[0]
            await chore()

    # --- how things are asked

    async def _do(
        self,
        kind: str,
        service: str,
        args: Mapping[str, Any],
        make: Callable[[Origin, str], Ask],
        *,
        surely: bool = False,
    ) -> Op:
        """Ask until the answer is known (with a key), or once (without)."""
        draw, world = self._draw, self._world
        self._count += 1
        keyed = surely or draw.random() < 0.7
        request = f"k-{self._number}-{self._count}" if keyed else ""
        fingerprint = hashlib.sha256(orjson.dumps([kind, dict(args)])).hexdigest() if keyed else ""
        origin = Origin(Actor(f"key:client-{self._number}"), f"chain-{self._number}-{self._count}", request_id=request)
        op = Op(kind, {**args, "request": request})
        world.history.ops.append(op)
        ask = make(origin, fingerprint)
        twins = [op] if not keyed or draw.random() < 0.8 else [op, Op(kind, op.args)]
        world.history.ops.extend(twins[1:])
        await asyncio.gather(*(self._ask(twin, service, ask) for twin in twins))
        if keyed and draw.random() < 0.2:
            later = Op(kind, op.args)
            world.history.ops.append(later)
            await asyncio.sleep(draw.uniform(0.0, 10.0))
            await self._ask(later, service, ask)
        return op

    async def _ask(self, op: Op, service: str, ask: Ask) -> None:
        while True:
            try:
                op.result = await self._once(service, ask)
                op.told = "ok"
            except _AGAIN:
                if not op.args["request"]:
                    break
                await asyncio.sleep(self._draw.uniform(0.1, 1.5))
                continue
            except ClocheError as error:
                op.told, op.result = "fail", {"code": error.code}
            break
        self._world.note("told", op.kind, op.told, orjson.dumps(op.result).decode())

    async def _once(self, service: str, ask: Ask) -> Mapping[str, Any]:
        ready = self._world.ready(service)
        if not ready:
            raise LostError("nobody listens")
        process = self._draw.choice(ready).process
        assert process is not None
        impatient = self._draw.random() < 0.05 and not self._world.climate.clear
        return await process.call(ask, patience=self._draw.uniform(0.0, 0.05) if impatient else 20.0)

    # --- what is asked

    def _definition(self) -> Definition:
        pips = (("alpha",), ("beta==2.0",), ("gamma", "alpha"), ("gamma==9",), ("nothing-like-it",))
        pip = self._draw.choices(pips, (4, 4, 4, 1, 1))[0]
        color = self._draw.choice(("", "", "green"))
        return Definition(python=PythonSection(pip=pip), variables={"COLOR": color} if color else {})

    async def _register(self) -> None:
        project, name, definition = self._draw.choice(PROJECTS), self._draw.choice(NAMES), self._definition()

        def make(origin: Origin, fingerprint: str) -> Ask:
            async def ask(registry: Any) -> Mapping[str, Any]:
                done = await registry.environments.register(project, name, definition, origin, fingerprint=fingerprint)
                return {"version": done.number, "new": done.new}

            return ask

        args = {"project": project, "name": name, "definition": definition.model_dump(mode="json")}
        await self._do("register", "registry", args, make)

    def _references(self) -> References:
        draw = self._draw
        choices: tuple[EnvironmentRef | InlineEnvironment | None, ...] = (
            EnvironmentRef(name=draw.choice(NAMES)),
            EnvironmentRef(name="unknown"),
            EnvironmentRef(name="sk", version=str(draw.randint(1, 3))),
            InlineEnvironment(name=draw.choice(NAMES), definition=self._definition()),
            InlineEnvironment(name="inline", definition=self._definition()),
            None,
        )
        places = self._world.layout.theme == "places"
        environment = draw.choices(choices, (0, 0, 0, 0, 4, 8) if places else (3, 1, 2, 4, 4, 4))[0]
        models = (ModelRef(name="model"),) if draw.random() < 0.1 and not places else ()
        return References(environment=environment, models=models)

    async def _run(self) -> None:
        draw = self._draw
        project = draw.choice(PROJECTS)
        snapshot = await store_files(self._world, "runner", project, {"train.py": b"print('hello')"})
        gpus = draw.choice((0, 0, 0, 1, 2))
        resources = Resources(cpus=draw.choice((0.5, 1.0, 3.0)), memory=GIB, gpus=gpus)
        spec = RunSpec(
            script="train.py",
            snapshot=snapshot,
            resources=resources,
            priority=draw.choice((0, 0, 1)),
            grace=draw.choice((0.0, 1.0)),
            retries=draw.choice((0, 0, 1)),
            deadline=draw.choice((None, None, 2.0)),
        )
        references = self._references()

        def make(origin: Origin, fingerprint: str) -> Ask:
            async def ask(runner: Any) -> Mapping[str, Any]:
                changed = await runner.commands.submit(project, spec, references, Submission(origin, fingerprint))
                return {"id": changed.stream.id}

            return ask

        args = {
            "project": project,
            "spec": spec.model_dump(mode="json"),
            "references": references.model_dump(mode="json"),
        }
        await self._do("submit", "runner", args, make)

    async def _cancel(self) -> None:
        runs = [op for op in self._world.history.ops if op.kind == "submit" and op.told == "ok"]
        if runs:
            op = self._draw.choice(runs)
            await self.cancel(op.args["project"], op.result["id"])

    async def cancel(self, project: str, run_id: str, *, surely: bool = False) -> None:
        """Ask for a run's end; `surely` until it is known that it was heard."""

        def make(origin: Origin, fingerprint: str) -> Ask:
            async def ask(runner: Any) -> Mapping[str, Any]:
                await runner.commands.cancel(project, run_id, Submission(origin, fingerprint))
                return {}

            return ask

        await self._do("cancel", "runner", {"project": project, "id": run_id}, make, surely=surely)

    async def _model(self) -> None:
        project = self._draw.choice(PROJECTS)
        content = str(self._draw.randrange(3)).encode()
        manifest = await store_files(self._world, "registry", project, {"model.pkl": content})

        def make(origin: Origin, fingerprint: str) -> Ask:
            async def ask(registry: Any) -> Mapping[str, Any]:
                draft = ModelDraft("model", "", {})
                changed = await registry.models.register_files(project, draft, manifest, origin, fingerprint)
                return {"version": outcome_version(changed)}

            return ask

        await self._do("model", "registry", {"project": project, "name": "model", "manifest": manifest}, make)

    async def _deploy(self) -> None:
        draw = self._draw
        project, name, update = draw.choice(PROJECTS), draw.choice(("iris", "wine")), draw.random() < 0.4
        snapshot = await store_files(self._world, "deployer", project, {"score.py": b"def run(data): ..."})
        resources = Resources(cpus=0.5, memory=GIB, gpus=draw.choice((0, 0, 0, 1)))
        if self._world.layout.theme == "places":
            resources = resources.model_copy(update={"gpus": 1})
        spec = ServiceSpec(entry_script="score.py", snapshot=snapshot, resources=resources, init_timeout=20.0)
        command = Deployment(name, spec, self._references())

        def make(origin: Origin, fingerprint: str) -> Ask:
            async def ask(deployer: Any) -> Mapping[str, Any]:
                handlers = deployer.handlers
                done = await handlers.deploy(project, command, origin, update=update, fingerprint=fingerprint)
                return {"seq": done.seq}

            return ask

        await self._do("deploy", "deployer", {"project": project, "name": name, "update": update}, make)

    async def _undeploy(self) -> None:
        project, name = self._draw.choice(PROJECTS), self._draw.choice(("iris", "wine"))

        def make(origin: Origin, fingerprint: str) -> Ask:
            async def ask(deployer: Any) -> Mapping[str, Any]:
                stream = deployer.streams.id(project, name)
                done = await deployer.handlers.delete(stream, origin, fingerprint)
                return {"seq": done.seq}

            return ask

        await self._do("undeploy", "deployer", {"project": project, "name": name}, make)

    async def _build(self) -> None:
        draw = self._draw
        project = draw.choice(PROJECTS)
        wanted = BuildSubmitted(references=self._references(), refresh=draw.random() < 0.3)
        fresh = f"b{self._number}-{self._count}"

        def make(origin: Origin, fingerprint: str) -> Ask:
            async def ask(builder: Any) -> Mapping[str, Any]:
                request = origin.request_id or fresh
                done = await builder.requests.submit(project, request, wanted, origin, fingerprint=fingerprint)
                return {"id": done.stream.id}

            return ask

        await self._do("build", "builder", {"project": project, "wanted": wanted.model_dump(mode="json")}, make)
