"""Importing torchvision where its C extension does not fit the installed torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

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
    """`torchvision`. Raises `ModuleNotFoundError` where it is missing."""
    try:
        return importlib.import_module("torchvision")
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
