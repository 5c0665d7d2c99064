"""Scoring services, and what they are deployed with.

All of them are workers on a node behind Cloche's own front, whichever class they were deployed with: with two
keys, limits, health and an address of the server's. What the classes of Azure offer beyond that is refused by name.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from cloche.client import Service
from cloche.core._notes import kept_out, refused, unavailable
from cloche.core.compute import GIB, no_kubernetes
from cloche.exceptions import WebserviceException, told_as

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace

_KEYS: Final = {"primary": "primary", "secondary": "secondary"}


@dataclass(slots=True)
class ServiceDeploymentConfiguration:
    """What a service gets: CPUs, memory in GiB, tags and more. None: the server's default."""

    cpu_cores: float | None = None
    memory_gb: float | None = None
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    gpu_cores: int = 0
    num_replicas: int | None = None
    scoring_timeout_ms: int | None = None
    compute_type: ClassVar[str] = "ACI"

    def _options(self) -> dict[str, Any]:
        """Return it as `Client.services.deploy` takes it."""
        tags = {**self.tags, **{f"property.{name}": value for name, value in self.properties.items()}}
        return {
            "cpus": self.cpu_cores,
            "memory": None if self.memory_gb is None else int(self.memory_gb * GIB),
            "gpus": self.gpu_cores,
            "workers": self.num_replicas,
            "timeout_ms": self.scoring_timeout_ms,
            "tags": tags,
        }


@dataclass(slots=True)
class AciServiceDeploymentConfiguration(ServiceDeploymentConfiguration):
    """What a service gets that was meant for a container instance."""


@dataclass(slots=True)
class LocalWebserviceDeploymentConfiguration(ServiceDeploymentConfiguration):
    """What a service gets that was meant for this machine."""

    compute_type: ClassVar[str] = "Local"


@dataclass(slots=True)
class AksServiceDeploymentConfiguration(ServiceDeploymentConfiguration):
    """What a service would get on Kubernetes."""

    compute_type: ClassVar[str] = "AKS"


def _positive(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and value <= 0:
            raise refused("invalid_number", f"{name} is {value}.", "It is greater than zero.", kind=WebserviceException)


def _keyed(auth_enabled: bool | None) -> None:
    if auth_enabled is False:
        why = "Every service asks for one of its two keys."
        raise unavailable("A service without keys", why, "Leave auth_enabled out.", WebserviceException)


class Webservice:
    """A scoring service. `Webservice(ws, name)` opens one. Raises `WebserviceException` (`service_not_found`)."""

    compute_type = "ACI"

    def __init__(self, workspace: "Workspace", name: str) -> None:
        self.workspace = workspace
        self.name = name
        self._client = workspace.client
        self._view = self._asked()

    def _asked(self) -> Service:
        with told_as(WebserviceException):
            return self._client.services.get(self.name)

    @staticmethod
    def list(
        workspace: "Workspace",
        compute_type: str | None = None,
        model_name: str | None = None,
        model_id: str | None = None,
        tags: "list_[Any] | None" = None,
        **others: object,
    ) -> "list_[Webservice]":
        """Return the services, those with a model, or with tags (keys or `[key, value]`)."""
        kept_out(WebserviceException, **others)
        with told_as(WebserviceException):
            views = workspace.client.services.list()
        found: list_[Webservice] = []
        for view in views:
            used = {one.name for one in view.models} | {f"{one.name}:{one.version}" for one in view.models}
            if {model_name, model_id} - {None} <= used and compute_type in (None, "ACI"):
                found.append(Webservice._of(workspace, view))
        return [one for one in found if _fits(one.tags, tags)]

    @classmethod
    def _of(cls, workspace: "Workspace", view: Service) -> "Webservice":
        made = cls.__new__(cls)
        made.workspace, made.name, made._client, made._view = workspace, view.name, workspace.client, view
        return made

    @staticmethod
    def deploy_from_model(*_: object, **_options: object) -> "Webservice":
        """Raise `WebserviceException` (`not_available`): images are not made here; use `Model.deploy`."""
        raise unavailable("A service of an image", "No images are made here.", "Use Model.deploy.", WebserviceException)

    deploy = deploy_from_image = deploy_from_model

    # --- what is known of it

    @property
    def state(self) -> str:
        """How it was when it was last looked at: `Transitioning`, `Healthy`, `Unhealthy`, `Failed`."""
        return self._view.status

    @property
    def scoring_uri(self) -> str | None:
        """Where requests go; None until it serves."""
        return self._view.scoring_uri

    @property
    def swagger_uri(self) -> str | None:
        """Where its description is."""
        uri = self.scoring_uri
        return None if uri is None else f"{uri.removesuffix('/score')}/swagger.json"

    @property
    def tags(self) -> dict[str, str]:
        """The tags that it was deployed with."""
        return {key: value for key, value in self._said("tags").items() if not key.startswith("property.")}

    @property
    def properties(self) -> dict[str, str]:
        """The properties that it was deployed with."""
        found = self._said("tags")
        return {key.removeprefix("property."): value for key, value in found.items() if key.startswith("property.")}

    @property
    def error(self) -> dict[str, str] | None:
        """Why it failed."""
        problem = self._view.error
        return None if problem is None else {"code": problem.code, "message": problem.message, "todo": problem.todo}

    auth_enabled = True
    token_auth_enabled = False

    def _said(self, name: str) -> Any:
        return (self._view.model_extra or {}).get(name) or {}

    def update_deployment_state(self) -> None:
        """Look at it again."""
        self._view = self._asked()

    def wait_for_deployment(self, show_output: bool = False, timeout_sec: float | None = None) -> None:
        """Wait until it serves. Raises `WebserviceException` with the code and the reason, `TimeoutError`."""
        with told_as(WebserviceException):
            self._view = self._client.services.wait(self.name, timeout=timeout_sec)
        ended = "Succeeded" if self.state == "Healthy" else "Failed"
        if show_output:
            what = f'{self.compute_type} service creation operation finished, operation "{ended}"'
            sys.stdout.write(f"{ended}\n{what}\n")
        if self.state != "Healthy":
            problem = self._view.error
            code = problem.code if problem is not None else "service_failed"
            why = problem.message if problem is not None else ""
            todo = (problem.todo if problem is not None else "") or "See get_logs()."
            raise refused(code, f"The service {self.name} is {self.state}.", why, todo, WebserviceException)

    def get_logs(self, num_lines: int = 5000, init: bool = False) -> str:
        """Return the last lines that its workers wrote."""
        del init
        with told_as(WebserviceException):
            text = "".join(self._client.services.log(self.name))
        return "\n".join(text.splitlines()[-num_lines:])

    def serialize(self) -> dict[str, object]:
        """Return it as an object of JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "scoringUri": self.scoring_uri,
            "computeType": self.compute_type,
            "tags": self.tags,
            "properties": self.properties,
            "error": self.error,
        }

    # --- using it

    def run(self, input_data: object) -> Any:
        """Send text or bytes to `run()` as they are, anything else as JSON, and return its answer.

        Raises `WebserviceException` with the code and the message of the service.
        """
        with told_as(WebserviceException):
            return self._client.services.score(self.name, input_data, key=self.get_keys()[0])

    def get_keys(self) -> tuple[str, str]:
        """Return its two keys."""
        with told_as(WebserviceException):
            keys = self._client.services.keys(self.name)
        return keys.primary, keys.secondary

    def regen_key(self, key: str, set_key: str | None = None) -> None:
        """Replace the `Primary` or the `Secondary` key; the other one stays valid."""
        if set_key is not None:
            raise unavailable("Choosing a key", "Keys are made by the server.", kind=WebserviceException)
        if key.lower() not in _KEYS:
            raise refused("invalid_key", f"There is no key {key!r}.", "Primary or Secondary.", kind=WebserviceException)
        with told_as(WebserviceException):
            self._client.services.regenerate(self.name, key.lower())

    def get_token(self) -> tuple[str, object]:
        """Raise `WebserviceException` (`not_available`): services have keys."""
        raise unavailable("A token", "Services have two keys.", "Use get_keys().", WebserviceException)

    def delete(self) -> None:
        """Give it up; one that is not there any more is told of."""
        try:
            with told_as(WebserviceException):
                self._client.services.delete(self.name)
        except WebserviceException as error:
            if error.code not in {"service_not_found", "service_deleted"}:
                raise
            sys.stdout.write(f"No service with name {self.name} found.\n")

    def update(self, **changes: object) -> None:
        """Give it a new revision: `inference_config`, `models` and what a deployment configuration says.

        Raises `WebserviceException` (`not_available`) without an `inference_config`.
        """
        from cloche.core.model import InferenceConfig, Model  # noqa: PLC0415 - models need this module

        config = changes.pop("inference_config", None)
        models: Any = changes.pop("models", None)
        if not isinstance(config, InferenceConfig):
            todo = "Give inference_config=, and models=."
            raise unavailable("An update without a script", "A revision is code.", todo, WebserviceException)
        if models is None:
            models = [f"{one.name}:{one.version}" for one in self._asked().models]
        options = {name: value for name, value in changes.items() if value is not None}
        wanted = AciWebservice.deploy_configuration(**options)  # type: ignore[arg-type] # checked there
        Model.deploy(self.workspace, self.name, models, config, wanted, overwrite=True)
        self.update_deployment_state()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(workspace={self.workspace!r}, name={self.name}, state={self.state})"


def _fits(said: Mapping[str, str], wanted: "list_[Any] | None") -> bool:
    pairs = [(one, None) if isinstance(one, str) else (one[0], one[1]) for one in wanted or []]
    return all(key in said and value in (None, said[key]) for key, value in pairs)


class AciWebservice(Webservice):
    """A service of one worker, as Azure's container instances have."""

    @staticmethod
    def deploy_configuration(
        cpu_cores: float | None = None,
        memory_gb: float | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        description: str | None = None,
        location: str | None = None,
        auth_enabled: bool | None = None,
        **others: object,
    ) -> AciServiceDeploymentConfiguration:
        """Return what a service gets; the defaults are the server's. Raises `WebserviceException`."""
        _positive(cpu_cores=cpu_cores, memory_gb=memory_gb)
        _keyed(auth_enabled)
        kept_out(WebserviceException, location=location, **others)
        return AciServiceDeploymentConfiguration(
            cpu_cores, memory_gb, dict(tags or {}), dict(properties or {}), description
        )


class LocalWebservice(Webservice):
    """A service on this machine."""

    compute_type = "Local"

    @staticmethod
    def deploy_configuration(port: int | None = None) -> LocalWebserviceDeploymentConfiguration:
        """Return what a service gets. Services have Cloche's address: a port of its own is refused."""
        if port is not None and not 0 < port < 65_536:  # noqa: PLR2004 - ports
            raise refused("invalid_port", f"{port!r} is no port.", kind=WebserviceException)
        if port is not None:
            why = "Services are reached at the server's address."
            raise unavailable("A port of a service's own", why, "Leave it out.", WebserviceException)
        return LocalWebserviceDeploymentConfiguration()


class AksWebservice(Webservice):
    """A service on Kubernetes."""

    compute_type = "AKS"

    @staticmethod
    def deploy_configuration(*_: object, **_options: object) -> AksServiceDeploymentConfiguration:
        """Raise `WebserviceException` (`kubernetes_not_available`)."""
        raise no_kubernetes(WebserviceException)


list_ = list
__all__ = ["AciWebservice", "AksWebservice", "LocalWebservice", "Webservice"]
