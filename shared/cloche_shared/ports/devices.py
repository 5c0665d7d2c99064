"""Devices: what a node offers."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU (or MIG slice). `uuid` as NVML names it; `memory` in bytes; `kind` for `--gpus N:kind`."""

    uuid: str
    kind: str
    memory: int


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node has in all: `cpus` in cores, `memory` in bytes, GPUs by UUID."""

    cpus: float
    memory: int
    gpus: tuple[Gpu, ...] = ()


class Devices(Protocol):
    """The inventory of one node."""

    async def offer(self) -> Offer:
        """Return what is there now. A driver that is absent or broken means no GPU, and is logged."""

    async def busy(self, uuid: str) -> bool:
        """Tell whether some process still holds the GPU."""
