"""What all contracts share: strict models, names, digests."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Strict(BaseModel):
    """A model of our own API: unknown fields are refused, values are never coerced, instances never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Lenient(BaseModel):
    """A model of a message that a newer version may have extended: unknown fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A name of an environment, model, service or project."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A content digest."""

Variables = Annotated[dict[str, str], Field(max_length=256)]
"""Environment variables; `cloche_shared.store.variables` checks names and values."""
