"""torchvision without its compiled operators.

`import torchvision` fails if its compiled library does not match the installed torch (for example a build for another
device), although the parts used here (downloads, per-image transforms) are plain Python.
"""

import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = [f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")]
_declared: list[torch.library.Library] = []  # a Library's declarations last as long as the object


def load(module: str) -> ModuleType | None:
    """The module (such as "torchvision.transforms.functional"), or None where torchvision cannot be used."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
    except RuntimeError:  # "operator torchvision::nms does not exist"
        pass
    _declare_operators()
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError):
        return None


def _declare_operators() -> None:
    """Declare the operators for which torchvision registers shape functions on import; forget the failed import."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
