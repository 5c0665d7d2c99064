"""The registry's commands by message, and the topics on which every service takes them."""

from typing import Final

from cloche_registry.definitions import with_requirements
from cloche_registry.handlers import OWNER, Environments, ModelDraft, Models
from cloche_shared.bus.commands import CommandDesk, DeskParts
from cloche_shared.bus.dispatch import Consumer
from cloche_shared.contracts.commands import RegisterEnvironment, RegisterModel, command_topic
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import fact_type
from cloche_shared.contracts.facts import TOPICS, ProjectCreated
from cloche_shared.journal.commit import Origin
from cloche_shared.ports.bus import Bus

LONGEST_PROJECT: Final = 180
"""Characters of a project's name that has a topic: with prefix and `.dead` a broker takes 249."""
_NOT_SEEN_YET: Final = frozenset(("run_not_found", "run_not_finished"))


class RegistryCommands:
    """Carries out what producers ask for."""

    def __init__(self, environments: Environments, models: Models) -> None:
        self._environments = environments
        self._models = models

    def consumer(self, parts: DeskParts) -> Consumer:
        """Return what takes the commands."""
        desk = CommandDesk(OWNER, parts)
        desk.on(RegisterEnvironment, self.register_environment)
        desk.on(RegisterModel, self.register_model, may_come=_NOT_SEEN_YET)
        return desk.consumer()

    async def register_environment(self, project: str, command: RegisterEnvironment, origin: Origin) -> str:
        """Register a definition."""
        definition = with_requirements(command.definition, command.requirements)
        await self._environments.register(project, command.name, definition, origin)
        return str(self._environments.streams.id(project, command.name))

    async def register_model(self, project: str, command: RegisterModel, origin: Origin) -> str:
        """Register files that are here, or outputs of a run."""
        draft = ModelDraft(command.name, command.description, command.tags)
        source = command.from_run
        if source is not None:
            changed = await self._models.register_from_run(project, draft, source.run_id, source.path, origin)
        else:
            changed = await self._models.register_files(project, draft, str(command.manifest), origin)
        return str(changed.stream)


class CommandTopics:
    """Makes the topic of each project's commands, and that of its dead letters."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def made(self, event: Event) -> None:
        """Provide a project's topic when the project is created."""
        await self.provide(event.project)

    async def provide(self, project: str) -> None:
        """Provide a project's topic; projects with names too long for one have none."""
        if len(project) <= LONGEST_PROJECT:
            await self._bus.provide([command_topic(project)])

    def consumer(self, parts: DeskParts) -> Consumer:
        """Return what hears of projects."""
        return Consumer(
            parts.bus,
            "registry.projects",
            [TOPICS["access"]],
            {fact_type(ProjectCreated): self.made},
            random=parts.random,
            code_version=parts.code_version,
        )
