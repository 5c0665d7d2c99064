"""Devices of this machine (NVML for the GPUs), and devices in memory for tests and simulations."""

import asyncio
import logging
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from cloche_shared.ports.devices import Gpu, Offer

_log = logging.getLogger(__name__)
_CGROUP = Path("/sys/fs/cgroup")


class MemoryDevices:
    """An inventory as given; `hold` and `release` say which GPUs are busy."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._busy: set[str] = set()

    async def offer(self) -> Offer:
        return self._offer

    async def busy(self, uuid: str) -> bool:
        return uuid in self._busy

    def hold(self, uuid: str) -> None:
        """Make a GPU busy."""
        self._busy.add(uuid)

    def release(self, uuid: str) -> None:
        """Make a GPU idle again."""
        self._busy.discard(uuid)


class _Memory(Protocol):
    total: int


class _Nvml(Protocol):
    """The part of `pynvml` (package nvidia-ml-py) that is used here."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802 - the library's own names, here and below
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: N802
    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> object: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: object) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> _Memory: ...  # noqa: N802
    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[object]: ...  # noqa: N802
    def nvmlDeviceGetMigMode(self, handle: object) -> list[int]: ...  # noqa: N802
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: object, index: int) -> object: ...  # noqa: N802


class NvmlDevices:
    """This machine: processors and memory as its cgroups allow, GPUs as NVML names them."""

    def __init__(self) -> None:
        self._warned = False

    async def offer(self) -> Offer:
        gpus = await asyncio.to_thread(self._gpus)
        return await asyncio.to_thread(lambda: Offer(cpus(), memory(), gpus))

    async def busy(self, uuid: str) -> bool:
        return await asyncio.to_thread(self._busy, uuid)

    def _gpus(self) -> tuple[Gpu, ...]:
        nvml = self._open()
        if nvml is None:
            return ()
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return tuple(_gpu(nvml, part) for whole in handles for part in _parts(nvml, whole))
        except nvml.NVMLError as error:
            self._warn(error)
            return ()
        finally:
            nvml.nvmlShutdown()

    def _busy(self, uuid: str) -> bool:
        """Ask the driver; a GPU that does not answer counts as busy, since nothing proves that it is free."""
        nvml = self._open()
        if nvml is None:
            return True
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid.encode())
            return bool(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except nvml.NVMLError as error:
            _log.warning("gpu_not_readable: %s: %s", uuid, error)
            return True
        finally:
            nvml.nvmlShutdown()

    def _open(self) -> _Nvml | None:
        try:
            nvml = cast("_Nvml", import_module("pynvml"))
        except ImportError as error:
            self._warn(error)
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._warn(error)
            return None
        return nvml

    def _warn(self, error: Exception) -> None:
        """Log once for each object why there are no GPUs: most machines have none."""
        if not self._warned:
            self._warned = True
            _log.info("no_gpu: %s", error)


def _parts(nvml: _Nvml, whole: object) -> list[object]:
    """Return a GPU's MIG slices, or the GPU itself where it has none."""
    try:
        if not nvml.nvmlDeviceGetMigMode(whole)[0]:
            return [whole]
    except nvml.NVMLError:
        return [whole]
    slices = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        with suppress(nvml.NVMLError):
            slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index))
    return slices


def _gpu(nvml: _Nvml, handle: object) -> Gpu:
    kind = _text(nvml.nvmlDeviceGetName(handle)).removeprefix("NVIDIA ")
    return Gpu(_text(nvml.nvmlDeviceGetUUID(handle)), kind, int(nvml.nvmlDeviceGetMemoryInfo(handle).total))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def cpus() -> float:
    """Return the cores that this process may use: its affinity, and the quotas of its cgroups."""
    found = float(len(os.sched_getaffinity(0)))
    for folder in _folders("cpu"):
        quota = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"),
            _read(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and all(one.isdigit() for one in quota) and int(quota[1]):  # noqa: PLR2004 - quota, period
            found = min(found, int(quota[0]) / int(quota[1]))
    return found


def memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, and the limits of its cgroups."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit():
                found = min(found, int(text))
    return found


def _folders(controller: str) -> list[Path]:
    """Return the folders of this process's cgroup and its ancestors, of version 2 and of version 1."""
    found: list[Path] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        for base in (_CGROUP / controller,) if names else (_CGROUP, _CGROUP / "unified"):
            here = base / path.lstrip("/")
            found += [one for one in (here, *here.parents) if one.is_relative_to(base) and one.is_dir()]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
