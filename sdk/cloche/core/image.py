"""Images of the legacy flow: the names are here so that imports work; images are made by builds of environments."""

from cloche.core._builds import ImageBuildDetails
from cloche.core._notes import unavailable
from cloche.exceptions import WebserviceException


class Image:
    """An image. `Environment.build` makes what runs and services need; images of models are not made."""

    @staticmethod
    def create(*_: object, **_options: object) -> "Image":
        """Raise `WebserviceException` (`not_available`)."""
        raise unavailable(
            "An image of a model", "No images are made here yet.", "Use Model.deploy.", WebserviceException
        )

    image_configuration = list = create


class ContainerImage(Image):
    """An image with a scoring script."""


__all__ = ["ContainerImage", "Image", "ImageBuildDetails"]
