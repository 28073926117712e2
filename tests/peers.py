"""Importing the peers that the definitions are checked against."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

# torchvision's wheel comes with a C extension that is built for one kind of torch. Beside another
# kind (a CUDA wheel beside a CPU-only torch) the extension does not load, which torchvision
# tolerates, but then registers meta kernels for operators that nobody has declared, and fails with
# "operator torchvision::nms does not exist". Models need none of these operators: declaring the
# schemas is enough to import them. The library object must stay alive as long as the declarations.
NMS_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []


def import_torchvision() -> ModuleType:
    """`torchvision`, also where its C extension does not fit the installed torch; skips where it is
    missing.
    """
    pytest.importorskip("torch")
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        pytest.skip(f"torchvision is not installed ({error})")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in NMS_SCHEMAS:
        library.define(schema)
    _libraries.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # the failed import left its half behind
    return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """`timm`, which imports torchvision; skips where it is missing."""
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        pytest.skip(f"timm is not installed ({error})")
