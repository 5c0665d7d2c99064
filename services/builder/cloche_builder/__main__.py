"""`python -m cloche_builder`: a builder as a process of its own."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloche_builder.adapters.file_logs import FileLogs
from cloche_builder.settings import BuilderSettings
from cloche_builder.wiring import OwnPorts, build
from cloche_shared.adapters.conda.machine import virtual_packages
from cloche_shared.adapters.conda.solver import RattlerSolver
from cloche_shared.adapters.folder_lock import FolderLock
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.staged_blobs import Staging
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.cluster.settings import ProcessSettings
from cloche_shared.cluster.wiring import Built, Opened, main


class Settings(ProcessSettings):
    """All settings of the process."""

    builder: BuilderSettings = BuilderSettings()


@asynccontextmanager
async def composed(opened: Opened[Settings]) -> AsyncIterator[Built]:
    """Build a builder on its own folder, where it also proves that environments can be made."""
    settings, data = opened.settings.builder, opened.data
    interpreters = Interpreters(managed=data / "uv" / "python")
    package_code = opened.settings.cluster.package_code
    files = LocalNodeFiles(data / "node", interpreters, package_code=package_code)
    with FolderLock(data / "builder.lock"), Staging(data / "staged") as staging:
        own = OwnPorts(
            UvResolver(data / "uv", interpreters, default_index=settings.default_index, package_code=package_code),
            FileLogs(data / "logs"),
            holder=opened.replica,
            prove=files.prefix,
            warm=files.warm,
            stage=staging.stage,
            conda=RattlerSolver(files.conda_workers),
            virtual=virtual_packages(settings.glibc, settings.cuda),
            address=opened.settings.cluster.address,
            elsewhere=opened.elsewhere,
        )
        try:
            yield Built(build(opened.platform, settings, own))
        finally:
            await files.close()


if __name__ == "__main__":
    sys.exit(main("builder", Settings, composed))
