"""`rosetta trace` of a user's own model: its own layers, under canonical names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import FrameworkError
from shared.frameworks.identify import ENVIRONMENT, SECONDS
from shared.frameworks.inputs import BATCH
from shared.frameworks.targets import checked, target_reader, told_in_one_line, working_folder
from shared.graphs.record import Recorded, record
from shared.graphs.verdict import Identified, identify_graph, listed
from shared.processes import call
from shared.verification.recording import EVAL, OUTPUT
from shared.verification.trace import Trace, provenance
from shared.weights.probe import probe_images

IMAGES, WEIGHT = "images", "weight of "  # names in the file between the processes


@dataclass
class TargetTraced:
    """A trace of a user's model, and what has to be said about it, in sentences."""

    trace: Trace
    remarks: list[str]


def trace_target(
    target: str,
    image_size: int | None = None,
    *,
    batch: int = BATCH,
    seed: int = 0,
    seconds: float = SECONDS,
) -> TargetTraced:
    """What the layers of a target compute of the probe's images, in float64.

    Where the model departs from every network, its layers are those that stand in the place of the
    nearest one's. Raises `FrameworkError` where it is no ResNet, or its graph cannot be evaluated.
    """
    folder = working_folder()
    full = checked(target, folder)
    with tempfile.TemporaryDirectory(prefix="rosetta-") as scratch:
        path = Path(scratch) / "arrays.npz"
        about = call(
            serve_trace,
            full,
            str(folder),
            image_size,
            batch,
            seed,
            str(path),
            target,
            name=target,
            environment=ENVIRONMENT,
            seconds=seconds,
        )
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    weights = [(name, found.pop(WEIGHT + name)) for name in about["weights"]]
    described = provenance(weights, found.pop(IMAGES)) | {
        "device": "cpu",
        "seed": str(seed),
        "weights_source": target,
        "images_source": "probe",
    }
    if not weights:  # the network's are not all there
        del described["weights"]
    spec = ResNetSpec.from_dict(about["spec"])
    return TargetTraced(Trace(spec, about["source"], "float64", found, described), about["remarks"])


def serve_trace(
    target: str, folder: str, image_size: int | None, batch: int, seed: int, path: str, name: str
) -> dict[str, Any]:
    """The child's side of `trace_target`: values of JSON, and a file of arrays."""
    # Opened before the user's code runs, which may be confined to reading.
    with open(path, "wb") as file:
        with told_in_one_line(target, name):
            read = target_reader(target, folder)
            answer = identify_graph(read, image_size)
            spec = answer.spec
            if spec is None:
                raise FrameworkError(f"is no ResNet: {'; '.join(answer.notes)}")
            side = answer.image_sizes[0]
            images = probe_images((batch, side, side, spec.in_channels), seed, "float64")
            found = record(read, spec, images)
        names = list(make_plan(spec).tensors)
        names = names if set(names) == set(answer.weights) else []
        arrays = {f"{EVAL}/{layer}": array for layer, array in found.layers.items()}
        arrays |= {f"{EVAL}/{OUTPUT}": found.output, IMAGES: images}
        arrays |= {WEIGHT + tensor: answer.weights[tensor] for tensor in names}
        np.savez(file, allow_pickle=False, **arrays)
    return {
        "spec": spec.to_dict(),
        "source": f"{found.source} model",
        "weights": names,
        "remarks": list(_remarks(answer, found)),
    }


def _remarks(answer: Identified, found: Recorded) -> Iterator[str]:
    """What tells the trace from one of the network alone."""
    if found.departures:
        count, places = len(found.departures), listed(d.where for d in found.departures)
        yield (
            f"the model departs from {answer.nearest} in {count} place{'s' * (count > 1)}, "
            f"{places}; "
            "the layers are those in the place of the network's"
        )
    elif not answer.recognised:
        yield f"the model is not shown to be a network: {answer.verdict}"
    if found.left_out:
        yield f"not recorded, because the model has none of its own: {listed(found.left_out)}"
    if answer.surroundings:
        yield (
            "the images are as the stem reads them, and the output is before a softmax; around "
            f"the network stands: {'; '.join(answer.surroundings)}"
        )
    yield (
        "each layer is computed by the model's own operators, in NumPy and float64; what the model "
        f"itself returns in {found.dtype} is {found.apart:.1e} away"
    )
