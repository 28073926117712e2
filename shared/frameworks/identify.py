"""`identify`: which ResNet a live model is, where it departs, and the proof."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.presets import get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import FrameworkError, RosettaError
from shared.frameworks.readers import reader_of
from shared.frameworks.targets import checked, said, target_reader, told_in_one_line, working_folder
from shared.graphs.pair import ComparedModels, compare_graphs
from shared.graphs.verdict import DEPARTS, SAME_MODEL, Identified, identify_graph
from shared.processes import ON_CPU, call
from shared.weights.canonical import Weights

SECONDS = 600.0  # that a target may take, its framework's import among them

# Of every framework: what the model is written in is not known yet. Nothing that changes numbers.
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR", **ON_CPU}


def identify(
    model: Any, image_size: int | None = None, against: str | ResNetSpec | None = None
) -> Identified:
    """Which ResNet `model` is, or where it departs from one.

    `model` is a `torch.nn.Module` or `ExportedProgram`, a `keras.Model`, a `tf.Module`, an
    `nnx.Module`, or a tuple of a function, a Linen module or a Haiku transform and its variables.
    It is traced at `image_size` pixels (by default the size that it says, else 224, or 32 without
    a stride in its first convolution) and at one more, because even sizes hide padding; its
    operators are compared one by one with the plan, and its output with the NumPy reference.
    `against`: a preset or a spec to compare with, instead of the likeliest. The model is left as
    it is.

    >>> import resnet_torch
    >>> from shared import get_spec, identify
    >>> model = resnet_torch.build(get_spec("cifar/resnet20", num_classes=7))
    >>> found = identify(model)
    >>> found.preset, found.spec.num_classes, found.verdict
    ('cifar/resnet20', 7, 'same model')

    Raises `FrameworkError` for what is no model, or cannot be traced.
    """
    spec = get_spec(against) if isinstance(against, str) else against
    read = reader_of(model)
    try:
        return identify_graph(read, image_size, spec)
    except RosettaError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's model may raise anything
        raise FrameworkError(f"the model cannot be read: {said(error)}") from None


def compare_models(model_a: Any, model_b: Any, image_size: int | None = None) -> ComparedModels:
    """Whether two models, of one framework or of two, are the same network with the same weights,
    or where they part first.

    Both are what `identify` takes. They are compared operator by operator at an image size and at
    the next one, tensor by tensor, and by their outputs for the same images.

    >>> import resnet_torch
    >>> from shared import compare_models, get_spec
    >>> one, other = (resnet_torch.build(get_spec("cifar/resnet20"), seed=k) for k in (1, 2))
    >>> found = compare_models(one, other)
    >>> found.same, found.departures[0].where, found.departures[0].what
    (False, 'stem.conv1', 'weights')

    Raises `FrameworkError` for what is no model, or cannot be traced.
    """
    readers = (reader_of(model_a), reader_of(model_b))
    try:
        return compare_graphs(*readers, image_size)
    except RosettaError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's model may raise anything
        raise FrameworkError(f"the models cannot be compared: {said(error)}") from None


@dataclass
class Answer:
    """What a target's process answered: `Identified.to_dict()`, and the weights."""

    found: dict[str, Any]
    weights: Weights = field(default_factory=dict)

    @property
    def spec(self) -> ResNetSpec | None:
        spec = self.found["spec"]
        return ResNetSpec.from_dict(spec) if spec else None


def identify_target(
    target: str,
    image_size: int | None = None,
    against: ResNetSpec | None = None,
    *,
    keep_weights: bool = False,
    seconds: float = SECONDS,
) -> Answer:
    """`identify` for a target of the command line, in a process of its own.

    Raises `FrameworkError` in one line for a target that is not there, fails, cannot be traced, or
    takes longer than so many seconds.
    """
    folder = working_folder()
    full = checked(target, folder)
    with tempfile.TemporaryDirectory(prefix="rosetta-") as scratch:
        path = Path(scratch) / "weights.npz"
        found = call(
            serve_identify,
            full,
            str(folder),
            image_size,
            against.to_dict() if against else None,
            str(path) if keep_weights else None,
            target,
            name=target,
            environment=ENVIRONMENT,
            seconds=seconds,
        )
        return Answer(found, _read(path) if keep_weights and found["tensors"] else {})


def _read(path: Path) -> Weights:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def of_one_dtype(weights: Weights) -> Weights:
    """In the dtype that most of the tensors have: what was put in is zeros and ones."""
    commonest = Counter(array.dtype for array in weights.values()).most_common(1)[0][0]
    return {name: np.ascontiguousarray(array, dtype=commonest) for name, array in weights.items()}


def serve_identify(
    target: str,
    folder: str,
    image_size: int | None,
    against: dict[str, Any] | None,
    output: str | None,
    name: str,
) -> dict[str, Any]:
    """The child's side of `identify_target`: values of JSON, and a file of weights. `name` is the
    target as the user wrote it.
    """
    spec = ResNetSpec.from_dict(against) if against else None
    # Opened before the user's code runs, which may be confined to reading.
    with open(output or os.devnull, "wb") as file, told_in_one_line(target, name):
        found = identify_graph(target_reader(target, folder), image_size, spec)
        if output and found.weights:
            np.savez(file, allow_pickle=False, **of_one_dtype(found.weights))
    return found.to_dict()


def compare_targets(
    target: str, other: str, image_size: int | None = None, *, seconds: float = SECONDS
) -> dict[str, Any]:
    """`compare_models` for two targets, in one process, as `rosetta identify --json` writes it.

    Raises `FrameworkError` as `identify_target` does.
    """
    folder = working_folder()
    full = [checked(name, folder) for name in (target, other)]
    found = call(
        serve_compare,
        *full,
        str(folder),
        image_size,
        name=f"{target} and {other}",
        environment=ENVIRONMENT,
        seconds=seconds,
    )
    answer = Identified(SAME_MODEL if found["same"] else DEPARTS).to_dict()
    rest = {key: found[key] for key in ("departures", "image_sizes", "notes", "evidence")}
    return answer | rest | {"recognised": found["same"], "nearest": other}


def serve_compare(target: str, other: str, folder: str, image_size: int | None) -> dict[str, Any]:
    """The child's side of `compare_targets`."""
    readers = []
    for name in (target, other):
        try:
            readers.append(target_reader(name, folder))
        except RosettaError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            raise FrameworkError(f"{name}: {said(error)}") from None
    a, b = readers
    try:
        return compare_graphs(a, b, image_size).to_dict()
    except RosettaError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise FrameworkError(f"{target} and {other}: {said(error)}") from None
