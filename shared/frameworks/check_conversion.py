"""Both ends of a conversion, run and compared: what `rosetta convert --check` does."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from shared.formats.checkpoint import Checkpoint
from shared.formats.convert import Conversion, write_canonical
from shared.frameworks.inputs import Inputs
from shared.frameworks.registry import get_framework, installed
from shared.frameworks.verify import take_trace
from shared.verification.comparison import Comparison, compare
from shared.verification.trace import Trace

# The framework whose files a container usually holds; the reference runs what has none.
FRAMEWORK_OF = {
    "torch": "torch",
    "huggingface": "torch",
    "keras-weights": "keras",
    "keras": "keras",
    "hdf5": "keras",
    "tfjs": "keras",
    "msgpack": "flax",
    "orbax": "flax",
}


def compare_ends(
    conversion: Conversion, on_run: Callable[[str, str], None] = lambda end, framework: None
) -> list[Comparison]:
    """Source and target, each in the framework that it is for, and the target in the reference:
    every pair.

    Args:
        conversion: from `shared.formats.convert.convert`.
        on_run: called with "source" or "target" and the framework before each run.

    Raises `FrameworkError` where one fails. A framework that is not installed is replaced by the
    reference.
    """
    traces = []
    target = conversion.open_target()
    runs = [
        ("source", conversion.source, _framework_of(conversion.source)),
        ("target", target, _framework_of(target)),
        ("target", target, "reference"),
    ]
    with tempfile.TemporaryDirectory(prefix="rosetta-") as name:
        for i, (end, checkpoint, framework) in enumerate(runs):
            chosen = framework if framework in installed() else "reference"
            on_run(end, get_framework(chosen).name)
            weights = write_canonical(checkpoint, Path(name) / f"{i}.safetensors", "float64")
            output = Path(name) / f"{i}.trace"
            take_trace(checkpoint.spec, chosen, Inputs(weights=weights), output)
            trace = Trace.load(output)
            trace.framework += f" ({end})"
            trace.about["weights_source"] = str(checkpoint.path)
            traces.append(trace)
        return [compare(a, b) for a, b in itertools.combinations(traces, 2)]


def _framework_of(checkpoint: Checkpoint) -> str:
    usual = "torch" if checkpoint.format.name == "torchvision" else "reference"
    return FRAMEWORK_OF.get(checkpoint.archive.container, usual)
