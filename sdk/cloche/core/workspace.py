"""`Workspace`: a project at a Cloche address; without an address the embedded Cloche of this machine.

    ws = Workspace.from_config()             the workspace of a config.json, else the default one
    ws = Workspace(url="http://…", token=…)  another server

The embedded Cloche is started when it is needed, as `cloche up -d` starts it; `cloche down` ends it.
"""

import json
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloche._config import home_folder
from cloche._errors import Conflict, Forbidden, NotFound
from cloche.client import Client
from cloche.core._named import Named
from cloche.core._notes import log, refused, unavailable
from cloche.core._process import used
from cloche.exceptions import UserErrorException, WorkspaceException, told_as

if TYPE_CHECKING:
    from cloche.core.compute import ComputeTarget
    from cloche.core.datastore import Datastore
    from cloche.core.environment import Environment
    from cloche.core.experiment import Experiment
    from cloche.core.model import Model
    from cloche.core.webservice import Webservice

DEFAULT_NAME: Final = "default"
_CONFIGS: Final = (".azureml/config.json", "aml_config/config.json", "config.json")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def project_of(name: str) -> str:
    """Return the project that a workspace's name means: small letters, digits and dashes.

    Raises `WorkspaceException` (`invalid_name`).
    """
    if not _NAME.fullmatch(name):
        todo = "Begin with a letter or digit; letters, digits, dashes and underscores follow, 63 at most."
        raise refused("invalid_name", f"{name[:80]!r} cannot be a workspace.", todo=todo, kind=WorkspaceException)
    return name.lower().replace("_", "-")


def _connected(url: str | None, token: str | None, project: str, home: Path | None) -> Client:
    """Return a client; where no address is named, for the embedded Cloche, which is started if it does not run."""
    with told_as(WorkspaceException):
        if url is None and not os.environ.get("CLOCHE_URL"):
            url = _embedded(home or home_folder())
        return Client(url, token, project, home=home)


def _embedded(home: Path) -> str:
    from cloche.cli.processes import started  # noqa: PLC0415 - only where there is no other server

    try:
        server, new = started(home, [])
    except Conflict as error:
        if error.code != "port_in_use":
            raise
        server, new = started(home, ["--port", "0"])
    if new:
        log.info("Cloche was started at %s; `cloche down` ends it.", server.url)
    return server.url


class Workspace:
    """A project with its environments, runs, models and services.

    `workspace_name` is the project's (case and underscores are not told apart); without it, the one that the token
    opens. `subscription_id` and `resource_group` are kept and mean nothing. Raises `WorkspaceException`
    (`workspace_not_found` …), `AuthenticationException`.
    """

    def __init__(
        self,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        workspace_name: str | None = None,
        auth: object = None,
        *,
        url: str | None = None,
        token: str | None = None,
        home: str | os.PathLike[str] | None = None,
    ) -> None:
        if auth is not None:
            raise unavailable("The option 'auth'", "A token opens a project.", "Give token=, or set CLOCHE_TOKEN.")
        self.subscription_id = subscription_id or ""
        self.resource_group = resource_group or ""
        self._home = Path(home) if home is not None else home_folder()
        project = "" if workspace_name is None else project_of(workspace_name)
        self.client = _connected(url, token, project, None if home is None else self._home)
        self.project = project or self.client.endpoint.project or DEFAULT_NAME
        self.name = workspace_name or self.project
        if project:
            self._see_that_it_is_there(project)
        used(self)

    def _see_that_it_is_there(self, project: str) -> None:
        try:
            with told_as(WorkspaceException):
                self.client.projects.get(project)
        except WorkspaceException as error:
            if isinstance(error.__cause__, NotFound | Forbidden):
                self.client.close()
                raise refused(
                    "workspace_not_found",
                    f"There is no workspace {self.name!r} at {self.client.endpoint.url} for this token.",
                    todo=f"Make it with Workspace.create({self.name!r}), or leave the name out for the default one.",
                    kind=WorkspaceException,
                ) from error
            raise

    # --- ways to one

    @staticmethod
    def get(
        name: str, subscription_id: str | None = None, resource_group: str | None = None, **where: Any
    ) -> "Workspace":
        """Return a workspace by name; `url`, `token` and `home` say where."""
        return Workspace(subscription_id, resource_group, name, **where)

    @staticmethod
    def create(
        name: str,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        exist_ok: bool = False,
        description: str = "",
        **where: Any,
    ) -> "Workspace":
        """Make a workspace and return it. Needs a token that opens every project. Raises `WorkspaceException`."""
        known = {"url", "token", "home"}
        others = sorted(set(where) - known - {"location", "create_resource_group", "sku", "show_output"})
        if others:
            raise unavailable(f"The option {others[0]!r}", "Nothing here would follow it.", "Leave it out.")
        place = {key: value for key, value in where.items() if key in known}
        home = place.get("home")
        client = _connected(place.get("url"), place.get("token"), "", None if home is None else Path(home))
        try:
            with told_as(WorkspaceException):
                client.projects.create(project_of(name), description=description)
        except WorkspaceException as error:
            if not (exist_ok and isinstance(error.__cause__, Conflict)):
                raise
        finally:
            client.close()
        return Workspace(subscription_id, resource_group, name, **place)

    @staticmethod
    def from_config(path: str | os.PathLike[str] | None = None, auth: object = None, **where: Any) -> "Workspace":
        """Return the workspace that a config.json names, here or in a folder above; without one, the default one.

        Raises `UserErrorException` (`config_not_found`) where a path is named, and for a file that cannot be read.
        """
        file = _config(Path(path) if path is not None else None)
        if file is None:
            return Workspace(auth=auth, **where)
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            names: list[str | None] = [said.get(key) for key in ("subscription_id", "resource_group", "workspace_name")]
        except (ValueError, AttributeError) as error:
            raise refused("invalid_config", f"{file} names no workspace.", f"{error}.") from error
        if said.get("url") and "url" not in where:
            where["url"] = str(said["url"])
        return Workspace(names[0], names[1], names[2], auth, **where)

    def write_config(self, path: str | os.PathLike[str] | None = None, file_name: str = "config.json") -> None:
        """Write `.azureml/config.json` below a folder: the name and the server's address, but not the token."""
        folder = Path(path or ".") / ".azureml"
        folder.mkdir(parents=True, exist_ok=True)
        said = {
            "subscription_id": self.subscription_id,
            "resource_group": self.resource_group,
            "workspace_name": self.name,
            "url": self.client.endpoint.url,
        }
        (folder / file_name).write_text(json.dumps(said, indent=4) + "\n", encoding="utf-8")

    # --- what it has

    @cached_property
    def names(self) -> Named:
        """The targets and datastores that this user gave names to."""
        with told_as(WorkspaceException):
            installation = str(self.client.version().get("installation", ""))
        return Named(self._home, re.sub(r"[^A-Za-z0-9]", "", installation), self.project)

    @property
    def location(self) -> str:
        """The server's address."""
        return self.client.endpoint.url

    @property
    def environments(self) -> "Mapping[str, Environment]":
        """The latest version of each environment, by name."""
        from cloche.core.environment import Environment  # noqa: PLC0415 - it needs this module

        return Environment.list(self)

    @property
    def experiments(self) -> "Mapping[str, Experiment]":
        """The experiments that have runs, by name."""
        from cloche.core.experiment import Experiment  # noqa: PLC0415 - the same

        return {one.name: one for one in Experiment.list(self)}

    @property
    def models(self) -> "Mapping[str, Model]":
        """The latest version of each model, by name."""
        from cloche.core.model import Model  # noqa: PLC0415 - the same

        return {one.name: one for one in Model.list(self, latest=True)}

    @property
    def webservices(self) -> "Mapping[str, Webservice]":
        """The scoring services, by name."""
        from cloche.core.webservice import Webservice  # noqa: PLC0415 - the same

        return {one.name: one for one in Webservice.list(self)}

    @property
    def compute_targets(self) -> "Mapping[str, ComputeTarget]":
        """The named compute targets."""
        from cloche.core.compute import ComputeTarget  # noqa: PLC0415 - the same

        return {one.name: one for one in ComputeTarget.list(self)}

    @property
    def datastores(self) -> "Mapping[str, Datastore]":
        """The named datastores."""
        from cloche.core.datastore import Datastore  # noqa: PLC0415 - the same

        return Datastore._all(self)

    @property
    def images(self) -> Mapping[str, object]:
        """Images of the legacy flow: there are none."""
        return {}

    @property
    def datasets(self) -> Mapping[str, object]:
        """Registered datasets: there are none."""
        return {}

    def get_default_datastore(self) -> "Datastore":
        """Return the datastore that is used where none is named."""
        from cloche.core.datastore import Datastore  # noqa: PLC0415 - the same

        return Datastore.get_default(self)

    def set_default_datastore(self, name: str) -> None:
        """Let another datastore be used where none is named."""
        from cloche.core.datastore import Datastore  # noqa: PLC0415 - the same

        Datastore.get(self, name).set_as_default()

    def get_default_keyvault(self) -> object:
        """Raise `UserErrorException` (`not_available`): secrets cannot be kept here yet."""
        from cloche.core.keyvault import Keyvault  # noqa: PLC0415 - the same

        return Keyvault(self)

    def get_details(self) -> dict[str, object]:
        """Return what is known of it."""
        with told_as(UserErrorException):
            project = self.client.projects.get(self.project)
        return {"id": self.project, "name": self.name, "location": self.location, "description": project.description}

    def __repr__(self) -> str:
        return f"Workspace.get(name={self.name!r}, url={self.location!r})"


def _config(path: Path | None) -> Path | None:
    """Return the file that names a workspace: the one that is meant, else the nearest one here or above."""
    if path is not None and path.is_file():
        return path
    start = (path or Path()).resolve()
    for folder in (start,) if path is not None else (start, *start.parents):
        found = next((folder / name for name in _CONFIGS if (folder / name).is_file()), None)
        if found is not None:
            return found
    if path is not None:
        raise refused("config_not_found", f"There is no config.json at {path}.", todo="Write one with write_config.")
    return None


__all__ = ["Workspace"]
