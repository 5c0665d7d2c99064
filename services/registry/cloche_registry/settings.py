"""Settings of the registry: `[registry]` in `config.toml`, `CLOCHE_REGISTRY__<FIELD>` in the environment."""

from pydantic import Field

from cloche_shared.contracts.common import Name
from cloche_shared.contracts.definition import Definition
from cloche_shared.settings import Section


class RegistrySettings(Section):
    """What the registry can be told.

    `default_environment`: the environment that runs and services without one get.
    `default_definition`: what is registered under that name when it is first needed.
    `default_python`: the interpreter (`3.11`) of definitions that name none; empty: that of Cloche itself.
    `platform`: the platform that environments are made for (`linux-x86_64`); empty: that of this machine.
    `allowed_indexes`: the package indexes that definitions may name; not set: any.
    `allowed_channels`: the conda channels (names or addresses) that definitions may name; not set: any, but
    none where `allowed_indexes` is set.
    `max_file_bytes`: the largest file of a model.
    `max_model_bytes`: the largest model, all files together.
    `max_wheel_bytes`: the largest private wheel.
    `sweep_every_s`: seconds between two passes that write all lists again; 0: never.
    """

    default_environment: Name = "cloche-default"
    default_definition: Definition = Definition()
    default_python: str = Field(default="", pattern=r"^(3\.\d{1,2}(\.\d{1,3})?)?$")
    platform: str = Field(default="", pattern=r"^[a-z0-9_.-]{0,64}$")
    allowed_indexes: tuple[str, ...] | None = None
    allowed_channels: tuple[str, ...] | None = None
    max_file_bytes: int = Field(default=2 * 1024**3, ge=1)
    max_model_bytes: int = Field(default=64 * 1024**3, ge=1)
    max_wheel_bytes: int = Field(default=1024**3, ge=1)
    sweep_every_s: float = Field(default=3600.0, ge=0)
