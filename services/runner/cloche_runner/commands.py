"""The runner's commands by message: the same handlers as for REST."""

from cloche_runner.handlers import SERVICE, Commands, Submission
from cloche_shared.bus.commands import CommandDesk, DeskParts, asked_resources
from cloche_shared.bus.dispatch import Consumer
from cloche_shared.contracts.commands import CancelRun, SubmitRun
from cloche_shared.contracts.runs import kept_spec
from cloche_shared.journal.commit import Origin
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.ports.git import Git, git_unavailable
from cloche_shared.store.inline import checked_references
from cloche_shared.store.inline_files import put_texts, put_tree


class RunCommands:
    """Carries out what producers ask for; `git` fetches commits, where that is possible."""

    def __init__(self, commands: Commands, blobs: BlobStore, git: Git | None = None) -> None:
        self._commands = commands
        self._blobs = blobs
        self._git = git

    def consumer(self, parts: DeskParts) -> Consumer:
        """Return what takes the commands."""
        desk = CommandDesk(SERVICE, parts)
        desk.on(SubmitRun, self.submit, may_come=frozenset(("git_failed",)))
        desk.on(CancelRun, self.cancel)
        return desk.consumer()

    async def submit(self, project: str, command: SubmitRun, origin: Origin) -> str:
        """Accept a run, in the command's chain."""
        references = checked_references(command.environment, command.models)
        resources = asked_resources(command.resources)
        spec = kept_spec(command, resources, await self._snapshot(project, command))
        changed = await self._commands.submit(project, spec, references, Submission(origin, joins=True))
        return str(changed.stream)

    async def cancel(self, project: str, command: CancelRun, origin: Origin) -> str:
        """Ask for a run's end."""
        changed = await self._commands.cancel(project, command.run_id, Submission(origin))
        return str(changed.stream)

    async def _snapshot(self, project: str, command: SubmitRun) -> str:
        """Return the code's digest; files and commits are stored first, again harmlessly."""
        space = self._blobs.space(SERVICE, project)
        if command.files is not None:
            return await put_texts(space, command.files)
        if command.git is not None:
            if self._git is None:
                raise git_unavailable()
            tree = await self._git.fetch(command.git.url, command.git.commit)
            return await put_tree(space, tree.files, tree.executable)
        return str(command.snapshot)
