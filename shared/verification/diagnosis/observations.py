"""What a port made of known images: images, outputs, and whatever layers, gradients, statistics and
steps are there, from an `.npz`, a safetensors file or a trace.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.ops import Shape
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, shown
from shared.formats.containers.registry import read_archive
from shared.training.config import PROBE, Training, num_outputs, probe_labels
from shared.verification.recording import CHECKS, EVAL, OUTPUT, STEP, expected_shapes
from shared.verification.rounding import STORED, finest, lowest_dtype
from shared.verification.trace import FORMAT, Trace
from shared.weights.digests import digest
from shared.weights.dtypes import is_float
from shared.weights.probe import probe_images

Array = np.ndarray
IMAGES, OUTPUTS, LABELS = "images", "outputs", "labels"
OUTPUT_KEY = f"{EVAL}/{OUTPUT}"
CLASSES_AROUND = 1  # a background class more, or less
TELLING = 8  # different values that say in which precision an array is stored


@dataclass(frozen=True)
class Observations:
    """What a port did, in the order of the computation; keys are those of a trace.

    `stored` is the lowest precision that holds every value of an array exactly, of those with
    enough values to tell; `dtype` is the highest of the arrays of evaluation, or else of the first.
    """

    spec: ResNetSpec  # without its classifier where the port returned features
    images: Array  # float64 [N, H, W, C]
    values: Mapping[str, Array]
    dtype: str
    labels: Array
    training: Training = PROBE
    left_out: tuple[str, ...] = ()  # names that are no layer's
    notes: tuple[str, ...] = ()
    stored: Mapping[str, str] = field(default_factory=dict)


def read_observations(
    path: str | Path, spec: ResNetSpec, *, images_alone: bool = False
) -> Observations:
    """Read what a port made of images, for a network of `spec`; or its images alone, where these
    are enough.

    Raises `CheckpointError` for a file that is none of the three, has no images or nothing that a
    layer computes, or arrays of other shapes than the network's.
    """
    archive = read_archive(Path(path))
    if archive.container not in ("npz", "safetensors"):
        raise CheckpointError(
            f"{path}: a {archive.container} file, expected an .npz, a safetensors file or a trace "
            "with the arrays images and outputs"
        )
    if archive.metadata.get("format") == FORMAT:
        given = archive.entries[IMAGES].load() if IMAGES in archive.entries else None
        return observations_of_trace(Trace.load(path), spec, given, str(path))
    arrays = {name: entry.load() for name, entry in archive.entries.items()}
    images = arrays.pop(IMAGES, None)
    if images is None:
        raise CheckpointError(
            f"{path}: has no array called images [N, H, W, C]; it has {_listed(arrays)}"
        )
    return observations(arrays, images, spec, str(path), images_alone=images_alone)


def observations_of_trace(
    trace: Trace, spec: ResNetSpec | None = None, images: Array | None = None, path: str = ""
) -> Observations:
    """What a trace holds. Its images are the probe's, or handed in."""
    where = path or f"the trace of {trace.framework}"
    found = images if images is not None else _probe_images(trace, where)
    training = Training.from_json(trace.about["training"]) if "training" in trace.about else PROBE
    return observations(
        {name: trace[name] for name in trace.names},
        found,
        spec or trace.spec,
        where,
        training,
        int(trace.about.get("seed", "0") or 0),
    )


def _probe_images(trace: Trace, where: str) -> Array:
    """The images that a trace was taken of, made again from its seed."""
    try:
        shape = tuple(int(n) for n in trace.about["image_shape"].split("x"))
        batch, height, width, channels = shape
        seed = int(trace.about.get("seed", "0"))
    except (KeyError, ValueError):
        raise CheckpointError(f"{where}: does not say of which images it was taken") from None
    if batch * height * width * channels <= 1 << 28:
        dtypes = (trace.dtype, "float64", "float32") if trace.dtype in STORED else ("float64",)
        for dtype in dtypes:
            made = probe_images((batch, height, width, channels), seed, dtype).astype(np.float64)
            if digest([("images", made)]) == trace.about.get("images"):
                return made
            if digest([("images", made.astype(dtype))]) == trace.about.get("images"):
                return made
    raise CheckpointError(
        f"{where}: holds no images, and was not taken of the probe's; write an .npz of its arrays "
        "and the images"
    )


def observations(
    arrays: Mapping[str, Array],
    images: Array,
    spec: ResNetSpec,
    where: str,
    training: Training = PROBE,
    seed: int = 0,
    images_alone: bool = False,
) -> Observations:
    """See `read_observations`; `where` is what messages call the file."""
    images = _checked_images(images, spec, where)
    arrays = dict(arrays)
    labels = arrays.pop(LABELS, None)
    spec, arrays = _as_returned(arrays, spec, where)
    plan = make_plan(spec, (images.shape[1], images.shape[2]))
    wanted: dict[str, Shape] = {}
    for check in CHECKS:
        wanted |= expected_shapes(check, plan, len(images), training)
    values: dict[str, Array] = {}
    notes: list[str] = []
    known = {_key(name, wanted): name for name in arrays}
    for key, shape in wanted.items():
        if key in known:
            array, note = _of_shape(arrays[known[key]], key, shape, where)
            values[key] = array
            notes += [note] if note else []
    left_out = tuple(sorted(name for key, name in known.items() if key not in wanted))
    if not values and not images_alone:
        raise CheckpointError(
            f"{where}: has neither outputs nor a layer of {spec.name}; it has {_listed(arrays)}"
        )
    if labels is None:
        labels = probe_labels(len(images), num_outputs(plan), seed)
    stored = {key: lowest_dtype(array) for key, array in values.items() if _tells(array)}
    in_evaluation = [dtype for key, dtype in stored.items() if key.startswith(f"{EVAL}/")]
    first = values.get(OUTPUT_KEY, next(iter(values.values()), images))
    dtype = finest(*in_evaluation) if in_evaluation else lowest_dtype(first)
    labels = np.asarray(labels)
    return Observations(
        spec, images, values, dtype, labels, training, left_out, tuple(notes), stored
    )


def _tells(array: Array) -> bool:
    """Whether there are enough values to say in which precision they are stored: zeros and ones are
    in all of them.
    """
    return np.unique(array.ravel()[: 1 << 12]).size >= TELLING


def _checked_images(images: Array, spec: ResNetSpec, where: str) -> Array:
    if images.ndim != 4 or images.shape[0] == 0:
        raise CheckpointError(
            f"{where}: images have shape {list(images.shape)}, expected [N, height, width, "
            f"{spec.in_channels}]"
        )
    if images.shape[3] != spec.in_channels:
        hint = "; transpose them to [N, H, W, C]" if images.shape[1] == spec.in_channels else ""
        raise CheckpointError(
            f"{where}: images have shape {list(images.shape)}, and the network takes "
            f"{spec.in_channels} channels{hint}"
        )
    images = images.astype(np.float64)
    if not np.isfinite(images).all():
        raise CheckpointError(f"{where}: images hold values that are not finite")
    return images


def _as_returned(
    arrays: dict[str, Array], spec: ResNetSpec, where: str
) -> tuple[ResNetSpec, dict[str, Array]]:
    """The arrays with the outputs under their key, and the network that returns such outputs."""
    name = next((n for n in (OUTPUTS, OUTPUT_KEY, OUTPUT) if n in arrays), None)
    if name is None:
        return spec, arrays
    output = arrays.pop(name)
    features = spec.widths[-1] * spec.expansion
    classes = spec.num_classes
    around = range(max(1, classes - CLASSES_AROUND), classes + CLASSES_AROUND + 1)
    if classes and output.ndim == 2 and output.shape[1] not in around:
        if output.shape[1] != features:
            raise CheckpointError(
                f"{where}: outputs have shape {list(output.shape)}, expected [N, {classes}] of "
                f"classes or [N, {features}] of features"
            )
        spec = spec.replace(num_classes=0)
    return spec, {**arrays, OUTPUT_KEY: output}


def _key(name: str, wanted: Mapping[str, Any]) -> str:
    """The key of a trace that a name means: a layer's may be without `eval/`."""
    return name if name in wanted or f"{EVAL}/{name}" not in wanted else f"{EVAL}/{name}"


def _of_shape(array: Array, key: str, shape: Shape, where: str) -> tuple[Array, str | None]:
    if not is_float(array.dtype):
        raise CheckpointError(f"{where}: {key} is {array.dtype}, expected a float type")
    note = None
    if array.shape != shape and len(shape) == 4:
        n, h, w, c = shape
        if array.shape == (n, c, h, w):
            array, note = array.transpose(0, 2, 3, 1), f"{key} is read as [N, C, H, W]"
    batch = shape[:1] if not key.startswith(("stats/", "grad/", "loss", STEP[:4])) else ()
    if batch and array.shape[:1] != batch:
        raise CheckpointError(
            f"{where}: {key} has shape {list(array.shape)}, and there are {batch[0]} images"
        )
    array = np.ascontiguousarray(array, np.float64) if array.ndim else array.astype(np.float64)
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise CheckpointError(
            f"{where}: {key} has {count} values that are not finite; nothing can be compared "
            "behind them: look for a root of a negative variance, or an overflow"
        )
    return array, note


def _listed(arrays: Mapping[str, Array]) -> str:
    names = [shown(name) for name in itertools.islice(sorted(arrays), 6)]
    more = f" and {len(arrays) - 6} more" if len(arrays) > 6 else ""
    return (", ".join(names) + more) if names else "none"
