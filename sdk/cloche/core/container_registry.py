"""Where a base image is pulled from."""

from dataclasses import dataclass


@dataclass(slots=True)
class RegistryIdentity:
    """An identity of Azure; there is none here, so one that says anything is refused when it is used."""

    resource_id: str | None = None
    client_id: str | None = None


@dataclass(slots=True)
class ContainerRegistry:
    """The address of a registry, and who asks there."""

    address: str | None = None
    username: str | None = None
    password: str | None = None
    registry_identity: RegistryIdentity | None = None

    def __repr__(self) -> str:
        secret = None if self.password is None else "***"
        return f"ContainerRegistry(address={self.address!r}, username={self.username!r}, password={secret!r})"


__all__ = ["ContainerRegistry", "RegistryIdentity"]
