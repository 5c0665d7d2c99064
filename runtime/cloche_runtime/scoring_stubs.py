"""Stand-ins for the modules that raw-HTTP scripts import, used only where no real one is installed."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from typing import TYPE_CHECKING, Dict, Optional, Sequence

from cloche_runtime import scoring_http
from cloche_runtime.model import Model

if TYPE_CHECKING:
    from types import ModuleType

_REQUEST = {"AMLRequest": scoring_http.AMLRequest, "rawhttp": scoring_http.rawhttp}
_RESPONSE = {"AMLResponse": scoring_http.AMLResponse}
_CONTENTS: Dict[str, Dict[str, object]] = {
    "azureml": {},
    "azureml.core": {"Model": Model},
    "azureml.core.model": {"Model": Model},
    "azureml.contrib": {},
    "azureml.contrib.services": {},
    "azureml.contrib.services.aml_request": dict(_REQUEST),
    "azureml.contrib.services.aml_response": dict(_RESPONSE),
    "cloche": {},
    "cloche.core": {"Model": Model},
    "cloche.core.model": {"Model": Model},
    "cloche.contrib": {},
    "cloche.contrib.services": {},
    "cloche.contrib.services.aml_request": dict(_REQUEST),
    "cloche.contrib.services.aml_response": dict(_RESPONSE),
    "azureml_inference_server_http": {},
    "azureml_inference_server_http.api": {},
    "azureml_inference_server_http.api.aml_request": dict(_REQUEST),
    "azureml_inference_server_http.api.aml_response": dict(_RESPONSE),
}


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]],  # noqa: ARG002  the import system's signature
        target: Optional[ModuleType] = None,  # noqa: ARG002  the same
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if fullname not in _CONTENTS:
            return None
        package = any(name.startswith(fullname + ".") for name in _CONTENTS)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=package)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(_CONTENTS[module.__name__])


def install() -> None:
    """Offer the stand-ins after everything that is really installed."""
    sys.meta_path.append(_Stubs())
