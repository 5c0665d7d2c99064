"""The builder's commands by message: the same handlers as for REST."""

from cloche_builder.handlers import SERVICE, Requests
from cloche_shared.bus.commands import CommandDesk, DeskParts
from cloche_shared.bus.dispatch import Consumer
from cloche_shared.contracts.commands import BuildImage
from cloche_shared.contracts.facts import BuildSubmitted
from cloche_shared.journal.commit import Origin
from cloche_shared.store.inline import checked_references


def commands_consumer(requests: Requests, parts: DeskParts) -> Consumer:
    """Return what takes the builder's commands."""

    async def build(project: str, command: BuildImage, origin: Origin) -> str:
        wanted = BuildSubmitted(
            references=checked_references(command.environment), target=command.target, refresh=command.refresh
        )
        changed = await requests.submit(project, origin.request_id, wanted, origin)
        return str(changed.stream)

    desk = CommandDesk(SERVICE, parts)
    desk.on(BuildImage, build)
    return desk.consumer()
