"""What the naive handlers take and give."""

from pydantic import BaseModel


class Python(BaseModel):
    """Packages."""

    version: str | None = None
    pip: list[str] = []


class Definition(BaseModel):
    """A definition."""

    python: Python = Python()


class Registration(BaseModel):
    """What is registered."""

    name: str
    definition: Definition


class Registered(BaseModel):
    """The answer."""

    id: str
    name: str
