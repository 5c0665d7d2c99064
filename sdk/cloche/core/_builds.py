"""Builds of environments, as `Environment.build` returns them."""

import sys
import time
from typing import TYPE_CHECKING, Final

from cloche import _views
from cloche.exceptions import UserErrorException, told_as

if TYPE_CHECKING:
    from cloche.client import Client

_STATUSES: Final = {"Completed": "Succeeded", "Failed": "Failed"}
_LOOK_SECONDS: Final = 0.5


class ImageBuildDetails:
    """A build: its status, its log, and whether it went well."""

    def __init__(self, client: "Client", build: _views.Build) -> None:
        self._client = client
        self._build = build

    @property
    def build_id(self) -> str:
        """The id of the build."""
        return self._build.id

    @property
    def status(self) -> str:
        """How it is now: `Queued`, `Running`, `Succeeded` or `Failed`."""
        if not self._build.ended:
            with told_as(UserErrorException):
                self._build = self._client.builds.get(self._build.id)
        return _STATUSES.get(self._build.status, self._build.status)

    @property
    def succeeded(self) -> bool:
        """Whether it is over and went well."""
        return self.status == "Succeeded"

    @property
    def lock(self) -> str:
        """The lock: every file with its hash."""
        with told_as(UserErrorException):
            return self._client.builds.lock(self._build.id)

    def get_log(self) -> str:
        """Return the log as it is now."""
        with told_as(UserErrorException):
            return "".join(self._client.builds.log(self._build.id, follow=False))

    def wait_for_completion(self, show_output: bool = True) -> "ImageBuildDetails":
        """Wait for the end and return self; with `show_output` the log is shown as it grows.

        Raises `UserErrorException` with the code of what failed.
        """
        with told_as(UserErrorException):
            if show_output:
                sys.stdout.write(f"Image Build Status: {self.status}\n")
                for line in self._client.builds.log(self._build.id):
                    sys.stdout.write(line)
            while not self._build.ended:
                self._build = self._client.builds.wait(self._build.id)
                time.sleep(0 if self._build.ended else _LOOK_SECONDS)
        if show_output:
            sys.stdout.write(f"Image Build Status: {self.status}\n")
        problem = self._build.problem
        if problem is not None:
            raise UserErrorException(problem.code, problem.message, todo=problem.todo)
        return self


class DockerImageDetails(dict[str, object]):
    """What there is of an environment's image, as an object of JSON."""

    @property
    def image_exist(self) -> bool:
        """Whether there is an image."""
        return bool(self["imageExistsInRegistry"])

    @property
    def repository(self) -> str:
        """The name of the image's repository: `cloche/cloche_<32 hex digits of the definition's hash>`."""
        image = self["dockerImage"]
        return str(image["name"]) if isinstance(image, dict) else ""

    @property
    def dockerfile(self) -> str | None:
        """The Dockerfile; there is none, because images are put together without one."""
        found = self["ingredients"]
        return found.get("dockerfile") if isinstance(found, dict) else None


def image_details(client: "Client", definition_hash: str) -> DockerImageDetails:
    """Return what builds of a definition made."""
    builds = client.builds.list(limit=500)
    made = [one.model_extra or {} for one in builds if one.status == "Completed"]
    image = next((one.get("image") for one in made if one.get("definition_hash") == definition_hash), None)
    name = f"cloche/cloche_{definition_hash.removeprefix('e1:')[:32]}"
    return DockerImageDetails(
        imageExistsInRegistry=bool(image),
        dockerImage={"name": name, "registry": {"address": None, "username": None, "password": None}},
        pythonEnvironment={"interpreterPath": "python", "condaEnvironmentPath": None},
        ingredients={"dockerfile": None},
    )
