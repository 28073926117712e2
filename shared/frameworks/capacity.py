"""What taking the traces of a network needs: memory, and room in the folder where they go."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.architecture.plan import Plan
from shared.errors import FrameworkError
from shared.frameworks.inputs import Inputs
from shared.machine import free_memory, in_memory
from shared.verification.recording import EVAL, expected_shapes

_DOUBLE = 8  # bytes


def memory_for(plan: Plan, inputs: Inputs) -> int:
    """Bytes that one framework takes for a network, roughly.

    Weights count three times and activations twice; with training (gradients, optimizer state, a
    copy of the model, and what is kept of the last step) eleven times and eight times: 12.9 GiB for
    ResNet-152, measured 12.7.
    """
    copies, kept = (3, 2) if inputs.checks == (EVAL,) else (11, 8)
    activations = sum(math.prod(row.output) for row in plan.layers) * inputs.images_in_batch
    return _DOUBLE * (copies * plan.params + kept * activations) + (1 << 30)


def trace_bytes(plan: Plan, inputs: Inputs, checks: Sequence[str], framework: str) -> int:
    """Bytes of all tensors in one framework's trace.

    Half precisions are saved as float32; the reference computes in float64, whatever the others do,
    and so are losses and projections.
    """
    low = inputs.dtype != "float64" and framework != "reference"
    total = 0
    for check in checks:
        shapes = expected_shapes(check, plan, inputs.images_in_batch, inputs.training)
        for name, shape in shapes.items():
            tensor = name.partition("/")[2]
            whole = plan.tensors.get(tensor) or plan.tensors.get(tensor.partition("/")[2], shape)
            double = not low or not shape or whole != shape  # a scalar or a projection
            total += math.prod(shape) * (_DOUBLE if double else np.float32().itemsize)
    return total


def plan_rounds(
    plan: Plan, inputs: Inputs, frameworks: Sequence[str], folder: Path
) -> tuple[tuple[str, ...], ...]:
    """The checks whose traces lie in the folder together: all of them, or one after the other where
    it has no room for all.

    Raises `FrameworkError` where one is too many.
    """
    free = free_space(folder)

    def need(checks: Sequence[str]) -> int:
        return sum(trace_bytes(plan, inputs, checks, name) for name in frameworks)

    if need(inputs.checks) <= free:
        return (inputs.checks,)
    require_space(
        folder,
        max(need([check]) for check in inputs.checks),
        f"the traces of {plan.spec.name}",
        "set TMPDIR to a folder with more room, or compare fewer frameworks, checks or images",
    )
    return tuple((check,) for check in inputs.checks)


def require_space(folder: Path, need: int, what: str, instead: str) -> None:
    """Raise `FrameworkError` where a folder has no room for `need` bytes."""
    free = free_space(folder)
    if need > free:
        kind = "of memory, where it lies, " if in_memory(folder) else ""
        raise FrameworkError(
            f"{folder}: {what} take {need / 2**30:.1f} GiB at a time, and {free / 2**30:.1f} GiB "
            f"{kind}are free; {instead}"
        )


def free_space(folder: Path) -> int:
    """Bytes that may be written to a folder."""
    free = shutil.disk_usage(folder).free
    return min(free, free_memory()) if in_memory(folder) else free
