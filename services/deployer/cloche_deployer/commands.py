"""The deployer's commands by message: the same handlers as for REST."""

from cloche_deployer.handlers import Deployment, Handlers
from cloche_shared.bus.commands import CommandDesk, DeskParts, asked_resources
from cloche_shared.bus.dispatch import Consumer
from cloche_shared.contracts.commands import DeleteService, DeployService
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.errors import Conflict
from cloche_shared.journal.commit import Origin
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.store.inline import checked_references
from cloche_shared.store.inline_files import put_texts

SERVICE = "deployer"
_SAME = frozenset(ServiceSpec.model_fields) - {"snapshot", "resources"}
"""Fields that a command and a revision's settings have in common."""


class ServiceCommands:
    """Carries out what producers ask for."""

    def __init__(self, handlers: Handlers, blobs: BlobStore) -> None:
        self._handlers = handlers
        self._blobs = blobs

    def consumer(self, parts: DeskParts) -> Consumer:
        """Return what takes the commands."""
        desk = CommandDesk(SERVICE, parts)
        desk.on(DeployService, self.deploy)
        desk.on(DeleteService, self.delete)
        return desk.consumer()

    async def deploy(self, project: str, command: DeployService, origin: Origin) -> str:
        """Take the name, or ask for another revision where the service exists."""
        references = checked_references(command.environment, command.models)
        resources = asked_resources(command.resources)
        snapshot = command.snapshot
        if command.files is not None:
            snapshot = await put_texts(self._blobs.space(SERVICE, project), command.files)
        fields = {name: getattr(command, name) for name in _SAME}
        spec = ServiceSpec(snapshot=str(snapshot), resources=resources.plain(), **fields)
        wanted = Deployment(command.name, spec, references)
        try:
            changed = await self._handlers.deploy(project, wanted, origin, update=False)
        except Conflict as error:
            if error.code != "service_exists":
                raise
            changed = await self._handlers.deploy(project, wanted, origin, update=True)
        return str(changed.stream)

    async def delete(self, project: str, command: DeleteService, origin: Origin) -> str:
        """Give up a name."""
        changed = await self._handlers.delete(self._handlers.streams.id(project, command.name), origin)
        return str(changed.stream)
