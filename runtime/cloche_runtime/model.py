"""`Model.get_model_path`: where the files of a model lie inside a scoring service.

    from azureml.core.model import Model

    path = Model.get_model_path("mymodel")

Scripts that were written for Azure ML find their models so. Standard library only; Python 3.8 or newer.
"""

import os
from typing import Optional

_FOLDER = "azureml-models"


class Model:
    """A model inside a scoring service; there is nothing more to it than where it lies."""

    @staticmethod
    def get_model_path(model_name: str, version: Optional[int] = None, _workspace: object = None) -> str:
        """Return the one file or folder of a model (of the newest version, unless one is named).

        Raises FileNotFoundError, which says where was looked.
        """
        for root in _roots():
            folder = _version(os.path.join(root, model_name), version)
            if folder is not None:
                inside = sorted(os.listdir(folder))
                return os.path.join(folder, inside[0]) if len(inside) == 1 else folder
        if version is None and os.path.exists(model_name):
            return model_name
        raise FileNotFoundError("There is no model %r here; looked below %s." % (model_name, ", ".join(_roots())))


def _roots() -> "list[str]":
    """Return the folders in which models may lie: above AZUREML_MODEL_DIR, and in the working folder."""
    found = os.path.join(os.getcwd(), _FOLDER)
    head, part, _ = os.environ.get("AZUREML_MODEL_DIR", "").partition(_FOLDER)
    return [head + part, found] if part else [found]


def _version(folder: str, version: Optional[int]) -> Optional[str]:
    if not os.path.isdir(folder):
        return None
    if version is not None:
        chosen = os.path.join(folder, str(version))
        return chosen if os.path.isdir(chosen) else None
    numbers = [int(name) for name in os.listdir(folder) if name.isdigit()]
    return os.path.join(folder, str(max(numbers))) if numbers else None
