"""Compute targets: names for what a run asks of the nodes.

A target of Cloche is a size (CPUs, memory, GPUs) and a place in the queue; the nodes that are there take the run
when they have the room. `local` needs no name: the server's defaults. Targets lie in the user's data folder, for
each workspace. Containers and Kubernetes are not available as targets yet, and say so.
"""

import builtins
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cloche.core._notes import log, refused, unavailable
from cloche.exceptions import ComputeTargetException, told_as

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace

KIND: Final = "targets"
LOCAL: Final = "local"
GIB: Final = 1024**3
LOW_PRIORITY: Final = -10
VM_SIZES: Final[Mapping[str, tuple[float, float, int]]] = {
    "STANDARD_D1_V2": (1, 3.5, 0),
    "STANDARD_D2_V2": (2, 7, 0),
    "STANDARD_D3_V2": (4, 14, 0),
    "STANDARD_D4_V2": (8, 28, 0),
    "STANDARD_D12_V2": (4, 28, 0),
    "STANDARD_DS2_V2": (2, 7, 0),
    "STANDARD_DS3_V2": (4, 14, 0),
    "STANDARD_DS12_V2": (4, 28, 0),
    "STANDARD_F2S_V2": (2, 4, 0),
    "STANDARD_F4S_V2": (4, 8, 0),
    "STANDARD_NC6": (6, 56, 1),
    "STANDARD_NC12": (12, 112, 2),
    "STANDARD_NC24": (24, 224, 4),
    "STANDARD_NC6S_V3": (6, 112, 1),
    "STANDARD_NC12S_V3": (12, 224, 2),
    "STANDARD_NC24S_V3": (24, 448, 4),
    "STANDARD_ND40RS_V2": (40, 672, 8),
}
"""What machines of Azure have: CPUs, GiB of memory, GPUs."""


@dataclass(frozen=True, slots=True)
class ProcessConfiguration:
    """What runs on a target get: CPUs, memory (GiB), GPUs of a kind, and their priority. None: the server's default."""

    cpus: float | None = None
    memory_gb: float | None = None
    gpus: int = 0
    gpu_kind: str = ""
    priority: int | None = None
    vm_size: str = ""

    def resources(self) -> dict[str, Any]:
        """Return it as `Client.runs.submit` takes it."""
        memory = None if self.memory_gb is None else int(self.memory_gb * GIB)
        asked = {"cpus": self.cpus, "memory": memory, "gpus": self.gpus, "gpu_kind": self.gpu_kind}
        return {**asked, "priority": self.priority}


def vm(size: str, priority: str | None = None) -> ProcessConfiguration:
    """Return what a machine of Azure's sizes has. Raises `ComputeTargetException` (`vm_size_not_known`)."""
    found = VM_SIZES.get(size.upper())
    if found is None:
        raise refused(
            "vm_size_not_known",
            f"What a machine of the size {size!r} has is not known here.",
            todo=f"Known are {', '.join(VM_SIZES)}; or make a target with ProcessCompute.provisioning_configuration.",
            kind=ComputeTargetException,
        )
    low = (priority or "").lower() == "lowpriority"
    return ProcessConfiguration(*found, priority=LOW_PRIORITY if low else None, vm_size=size.upper())


@dataclass(frozen=True, slots=True)
class ComputeStatus:
    """How a target is, and how many nodes are there."""

    provisioning_state: str
    vm_size: str = ""
    current_node_count: int = 0
    errors: tuple[str, ...] = field(default=())

    def serialize(self) -> dict[str, object]:
        """Return it as an object of JSON."""
        return {
            "provisioningState": self.provisioning_state,
            "vmSize": self.vm_size,
            "currentNodeCount": self.current_node_count,
            "errors": [*self.errors],
        }


class ComputeTarget:
    """A named target. `ComputeTarget(ws, name)` opens one. Raises `ComputeTargetException` (`target_not_found`)."""

    type = "process"

    def __new__(cls, workspace: "Workspace", name: str) -> "ComputeTarget":  # noqa: PYI034 - a subclass, maybe
        """Return the target as what it was made as."""
        said = workspace.names.all(KIND).get(name, {})
        kinds: dict[str, builtins.type[ComputeTarget]] = {"amlcompute": AmlCompute, "process": ProcessCompute}
        return object.__new__(kinds.get(str(said.get("type")), cls))

    def __init__(self, workspace: "Workspace", name: str) -> None:
        known = workspace.names.all(KIND)
        if name not in known:
            here = ", ".join(sorted(known)) or "none"
            todo = f"Known are: {here}. Make one with ComputeTarget.create; 'local' needs no name."
            raise refused(
                "target_not_found", f"There is no compute target {name!r}.", todo=todo, kind=ComputeTargetException
            )
        self.workspace = workspace
        self.name = name
        said = {key: value for key, value in known[name].items() if key != "type"}
        self.configuration = ProcessConfiguration(**said)

    @staticmethod
    def create(workspace: "Workspace", name: str, provisioning_configuration: ProcessConfiguration) -> "ComputeTarget":
        """Give a size a name, in place of what had the name. Raises `ComputeTargetException`."""
        if name == LOCAL:
            raise refused("invalid_name", "'local' is always there.", kind=ComputeTargetException)
        with told_as(ComputeTargetException):
            made = "amlcompute" if provisioning_configuration.vm_size else "process"
            workspace.names.put(KIND, name, {"type": made, **asdict(provisioning_configuration)})
        return ComputeTarget(workspace, name)

    @staticmethod
    def list(workspace: "Workspace") -> "builtins.list[ComputeTarget]":
        """Return the targets, by name."""
        return [ComputeTarget(workspace, name) for name in sorted(workspace.names.all(KIND))]

    @staticmethod
    def attach(*_: object, **_options: object) -> "ComputeTarget":
        """Raise `ComputeTargetException` (`not_available`): machines join by running Cloche's services."""
        todo = "Run a node there (docs/how-to/cluster.md)."
        raise unavailable("Attaching a machine", "Nodes join by themselves.", todo, ComputeTargetException)

    def get_status(self) -> ComputeStatus:
        """Return how it is: always ready; and how many nodes are there."""
        with told_as(ComputeTargetException):
            nodes = self.workspace.client.nodes.list()
        return ComputeStatus("Succeeded", self.configuration.vm_size, len(nodes))

    @property
    def provisioning_state(self) -> str:
        """Always `Succeeded`: there is nothing to wait for."""
        return "Succeeded"

    @property
    def vm_size(self) -> str:
        """The size of Azure that it was made with, or an empty text."""
        return self.configuration.vm_size

    def wait_for_completion(
        self, show_output: bool = False, min_node_count: int | None = None, timeout_in_minutes: float | None = None
    ) -> None:
        """Return at once: a target is there when it has a name."""
        del min_node_count, timeout_in_minutes
        if show_output:
            log.info("The target %s is ready.", self.name)

    def update(self, **changes: object) -> None:
        """Change CPUs, memory, GPUs or priority."""
        said = {**asdict(self.configuration), **changes}
        with told_as(ComputeTargetException):
            self.configuration = ProcessConfiguration(**said)
            self.workspace.names.put(KIND, self.name, {"type": self.type, **said})

    def delete(self) -> None:
        """Forget the name; runs that were submitted keep what they asked for."""
        self.workspace.names.drop(KIND, self.name)

    def serialize(self) -> dict[str, object]:
        """Return it as an object of JSON."""
        return {"name": self.name, "computeType": self.type, "properties": asdict(self.configuration)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class ProcessCompute(ComputeTarget):
    """A target whose runs are processes of a node, of a size that is said in Cloche's own words."""

    @staticmethod
    def provisioning_configuration(
        *,
        cpus: float | None = None,
        memory_gb: float | None = None,
        gpus: int = 0,
        gpu_kind: str = "",
        priority: int | None = None,
    ) -> ProcessConfiguration:
        """Return a size; `memory_gb` in GiB, a higher `priority` goes first."""
        return ProcessConfiguration(cpus, memory_gb, gpus, gpu_kind, priority)


class AmlCompute(ComputeTarget):
    """A target of the size of a machine of Azure."""

    type = "amlcompute"

    @staticmethod
    def provisioning_configuration(
        vm_size: str = "STANDARD_D2_V2",
        vm_priority: str = "dedicated",
        min_nodes: int = 0,
        max_nodes: int | None = None,
        idle_seconds_before_scaledown: int | None = None,
        **others: object,
    ) -> ProcessConfiguration:
        """Return the size of a machine; `lowpriority` goes after other runs.

        Nodes are not started and stopped here, so their numbers are not followed, which is logged.
        """
        for name, value in others.items():
            raise unavailable(f"The option {name!r} ({value!r})", "Nothing here would follow it.")
        if min_nodes or max_nodes is not None or idle_seconds_before_scaledown is not None:
            log.warning("Nodes are not started or stopped on demand: numbers of nodes and idle times are not followed.")
        return vm(vm_size, vm_priority)

    @staticmethod
    def supported_vmsizes(workspace: "Workspace | None" = None) -> "builtins.list[dict[str, object]]":
        """Return the sizes that are known here."""
        del workspace
        return [
            {"name": name, "vCPUs": size[0], "memoryGB": size[1], "gpus": size[2]} for name, size in VM_SIZES.items()
        ]


class DockerCompute(ComputeTarget):
    """A target whose runs are containers."""

    @staticmethod
    def provisioning_configuration(**_options: object) -> ProcessConfiguration:
        """Raise `ComputeTargetException` (`not_available`)."""
        why = "This server runs environments as folders on its nodes, not in containers, yet."
        raise unavailable("A target of containers", why, "Use ProcessCompute.", ComputeTargetException)


class NodeGroup(ComputeTarget):
    """A target that only some nodes take runs of."""

    @staticmethod
    def provisioning_configuration(**_options: object) -> ProcessConfiguration:
        """Raise `ComputeTargetException` (`not_available`)."""
        why = "Nodes have no groups yet; kinds of GPUs tell them apart."
        raise unavailable("A group of nodes", why, "Use ProcessCompute with gpu_kind.", ComputeTargetException)


class AksCompute(ComputeTarget):
    """A target on Kubernetes."""

    @staticmethod
    def provisioning_configuration(*_: object, **_options: object) -> ProcessConfiguration:
        """Raise `ComputeTargetException` (`kubernetes_not_available`)."""
        raise no_kubernetes(ComputeTargetException)


def no_kubernetes(kind: builtins.type[Any]) -> Exception:
    """Return the error for what would need Kubernetes."""
    return refused(
        "kubernetes_not_available",
        "Kubernetes is not available as a target.",
        "There is no adapter for a Kubernetes cluster; services and runs are processes of Cloche's nodes.",
        "Use a process target, or AciWebservice.deploy_configuration for services.",
        kind,
    )


def configuration_of(workspace: "Workspace", target: object) -> ProcessConfiguration:
    """Return what a run on a target gets: of a target, the name of one, or `local`."""
    if isinstance(target, ComputeTarget):
        return target.configuration
    if target in (None, "", LOCAL):
        return ProcessConfiguration()
    return ComputeTarget(workspace, str(target)).configuration


__all__ = ["AksCompute", "AmlCompute", "ComputeTarget", "DockerCompute", "NodeGroup", "ProcessCompute"]
