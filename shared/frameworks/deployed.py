"""A network as it is deployed, as a function of NumPy images: what `rosetta predict` and `evaluate`
run where they are told `--deployed`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np


def deployed(package: ModuleType, model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """`package.inference(model)`, of images [N, H, W, C] in and logits or features out, NHWC where
    they are an image; half precisions widen to float32.
    """
    run = package.inference(model)
    if package.__name__ == "resnet_torch":
        return lambda images: package.train.to_nhwc(run(package.train.to_tensor(images, model)))

    def infer(images: np.ndarray) -> np.ndarray:
        output = np.array(run(images))
        return output if output.itemsize >= 4 else output.astype(np.float32)

    return infer
