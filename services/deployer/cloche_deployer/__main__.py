"""`python -m cloche_deployer`: a deployer as a process of its own, with a node or without."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import cloche_runtime
from cloche_deployer.adapters.node_stage import BASE_ENV, NodeParts, NodeStage
from cloche_deployer.settings import DeployerSettings
from cloche_deployer.wiring import Extras, build
from cloche_shared.cluster.node import NodeHeld, hold_node
from cloche_shared.cluster.settings import ProcessSettings
from cloche_shared.cluster.wiring import Built, Opened, main

OWNER = "deployer"


class Settings(ProcessSettings):
    """All settings of the process."""

    deployer: DeployerSettings = DeployerSettings()


def _stage(opened: Opened[Settings], held: NodeHeld) -> NodeStage:
    return NodeStage(
        NodeParts(
            executor=held.executor,
            files=held.files,
            blobs=opened.platform.blobs,
            random=opened.platform.random,
            runtime=Path(str(cloche_runtime.__file__)).parent.parent,
            sockets=held.folder.sockets,
            base_env=BASE_ENV,
            orphan_after=opened.settings.deployer.orphan_after,
        )
    )


@asynccontextmanager
async def composed(opened: Opened[Settings]) -> AsyncIterator[Built]:
    """Build a deployer; the scoring workers of its node go on when it ends."""
    cluster = opened.settings.cluster
    async with AsyncExitStack() as stack:
        held = await hold_node(opened, OWNER, stack)
        extras = Extras(
            _stage(opened, held) if held is not None else None,
            opened.pepper,
            opened.base_url,
            code_version=opened.version,
            node=cluster.node,
            address=cluster.address,
            elsewhere=opened.elsewhere,
        )
        yield Built(build(opened.platform, opened.settings.deployer, extras))


if __name__ == "__main__":
    sys.exit(main(OWNER, Settings, composed))
