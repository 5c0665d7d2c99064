"""Private wheels, as both clients offer them."""

from pathlib import Path

from cloche import _operations as ops
from cloche import _wheels as wheels
from cloche._calls import Operation
from cloche._faces import operation
from cloche._resources import Resource

list_ = list


class Wheels(Resource):
    """Private wheels."""

    @operation
    def upload(self, file: str | Path) -> Operation[wheels.Wheel]:
        """Upload a wheel; its name is the one of its own metadata. What is locked already keeps an older content."""
        return wheels.upload(Path(file))

    @operation
    def get(self, filename: str) -> Operation[wheels.Wheel]:
        """Return a wheel's newest upload."""
        return ops.get(wheels.Wheel, "wheels", filename)

    @operation
    def list(self, limit: int | None = None) -> Operation[list_[wheels.Wheel]]:
        """Return the project's wheels by file name."""
        return ops.views(wheels.Wheel, "wheels", limit=limit)
