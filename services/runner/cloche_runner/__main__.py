"""`python -m cloche_runner`: a runner as a process of its own, with a node or without."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from cloche_runner.settings import RunnerSettings
from cloche_runner.wiring import build, local_node
from cloche_shared.adapters.devices import NvmlDevices
from cloche_shared.adapters.git_fetch import LocalGit
from cloche_shared.cluster.node import hold_node
from cloche_shared.cluster.settings import ProcessSettings
from cloche_shared.cluster.wiring import Built, Opened, main

OWNER = "runner"


class Settings(ProcessSettings):
    """All settings of the process."""

    runner: RunnerSettings = RunnerSettings()


@asynccontextmanager
async def composed(opened: Opened[Settings]) -> AsyncIterator[Built]:
    """Build a runner; what runs on its node goes on when it ends."""
    cluster = opened.settings.cluster
    settings = opened.settings.runner.model_copy(update={"node": cluster.node, "address": cluster.address})
    async with AsyncExitStack() as stack:
        held = await hold_node(opened, OWNER, stack)
        node = None
        if held is not None:
            node = local_node(held.folder.root, held.executor, held.files, NvmlDevices(), sharing=opened.sharing)
        yield Built(build(opened.platform, settings, node, opened.elsewhere, LocalGit()))


if __name__ == "__main__":
    sys.exit(main(OWNER, Settings, composed))
