"""Canonical weights: one flat dict of NumPy arrays, `layer.leaf` -> array in PyTorch's layout.

A file of them is a safetensors file whose metadata holds the spec; it loads straight into
`resnet_torch` with `load_state_dict`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import CheckpointError, nearest
from shared.files import read_tensors, write_tensors
from shared.ops import Shape
from shared.plan import Block, Plan, make_plan
from shared.spec import ResNetSpec

Weights = dict[str, np.ndarray]

FORMAT = "resnet-rosetta-weights"

# Layouts of convolution kernels: canonical is PyTorch's OIHW, Keras and Flax store HWIO. Grouped
# convolutions follow the same rule: [out, in / groups, h, w] <-> [h, w, in / groups, out].
OIHW_TO_HWIO = (2, 3, 1, 0)
HWIO_TO_OIHW = (3, 2, 0, 1)


def to_channels_last(name: str, array: np.ndarray) -> np.ndarray:
    """A canonical tensor as Keras and Flax store it: kernels HWIO, linear weights [in, out]."""
    if array.ndim == 4:
        return array.transpose(OIHW_TO_HWIO)
    return array.T if array.ndim == 2 else array


def from_channels_last(name: str, array: np.ndarray) -> np.ndarray:
    """The canonical tensor of what Keras or Flax stores; the inverse of `to_channels_last`."""
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(HWIO_TO_OIHW))
    return np.ascontiguousarray(array.T) if array.ndim == 2 else array


def _shape_problems(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> dict[str, list[str]]:
    """Every missing, extra and mis-shaped tensor, by kind."""
    missing = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in found]
    extra = [f"unexpected {name}{nearest(name, expected, 1)}" for name in _first(set(found) - set(expected))]
    misshaped = [
        f"{name} has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    return {"missing": missing, "unexpected": extra, "of another shape": misshaped}


def check_weights(plan: Plan, weights: Mapping[str, Any], what: str = "weights") -> None:
    """Raise `CheckpointError` unless `weights` are exactly the plan's tensors, all finite floats.

    All problems are reported at once. Running variances must not be negative.
    """
    shapes = {name: np.shape(array) for name, array in weights.items()}
    bad_dtype, non_finite, negative = [], [], []
    for name in (name for name, shape in plan.tensors.items() if shapes.get(name) == shape):
        array = np.asarray(weights[name])
        if not is_float(array.dtype):
            bad_dtype.append(f"{name} is {array.dtype}, expected a float type")
        elif not np.isfinite(array).all():
            non_finite.append(f"{name} has {int((~np.isfinite(array)).sum())} values that are not finite")
        elif name.endswith("running_var") and (array < 0).any():
            negative.append(f"{name} has {int((array < 0).sum())} negative variances")
    values = {"not float": bad_dtype, "not finite": non_finite, "negative": negative}
    raise_problems(what, _shape_problems(plan.tensors, shapes) | values)


def cast_exactly(weights: Mapping[str, np.ndarray], dtype: Any) -> Weights:
    """The weights in `dtype`, as contiguous arrays; `CheckpointError` if a single value would change.

    Loading never rounds in silence: whoever wants float64 weights in a float32 model rounds them first.
    """
    target, cast, changed = float_dtype(dtype), {}, []
    for name, array in weights.items():
        array = np.asarray(array)
        cast[name] = np.ascontiguousarray(array.astype(target, copy=False))
        if array.dtype != target and not np.array_equal(cast[name].astype(array.dtype), array):
            changed.append(f"{name} ({array.dtype}) is not exact in {target}")
    raise_problems("weights", {"not exact; round them first with weights[name].astype": changed})
    return cast


def float_dtype(dtype: Any) -> np.dtype:
    """A NumPy dtype from its name; NumPy learns bfloat16 from ml_dtypes."""
    if str(dtype) == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def is_float(dtype: np.dtype) -> bool:
    """Whether a dtype is a floating type, bfloat16 included."""
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def save_weights(
    path: str | Path, weights: Mapping[str, np.ndarray], spec: ResNetSpec, about: Mapping[str, str] | None = None
) -> None:
    """Write a canonical file, atomically: the spec and each tensor's SHA-256 are in its metadata, and `about`.

    Raises `CheckpointError` if the weights are not the spec's, or the file cannot be written.
    """
    plan = make_plan(spec)
    check_weights(plan, weights)
    ordered = {name: np.ascontiguousarray(weights[name]) for name in plan.tensors}
    digests = {name: sha256_of(array) for name, array in ordered.items()}
    metadata = {"format": FORMAT, "spec": spec.to_json(), "sha256": json.dumps(digests)}
    write_tensors(path, ordered, {**(about or {}), **metadata})


def read_weights(path: str | Path, spec: ResNetSpec | None = None) -> tuple[Weights, ResNetSpec]:
    """The weights of a canonical file and their spec.

    Given a `spec`, the file must hold exactly its tensors. Raises `CheckpointError` for a file that
    is missing, truncated, no safetensors, of another network, or whose contents do not match its hashes.
    """
    weights, metadata = read_tensors(path)
    if spec is None:
        if metadata.get("format") != FORMAT or "spec" not in metadata:
            raise CheckpointError(f"{path}: no {FORMAT} metadata in this safetensors file, so its spec is unknown; "
                                  "name the preset")  # fmt: skip
        try:
            spec = ResNetSpec.from_json(metadata["spec"])
        except ValueError as error:
            raise CheckpointError(f"{path}: the spec in its metadata is invalid: {error}") from None
    check_weights(make_plan(spec), weights, f"{path} for {spec.name}")
    if "sha256" in metadata:
        _check_digests(path, weights, metadata["sha256"])
    return weights, spec


def sha256_of(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()  # bfloat16 has no buffer of its own


def _check_digests(path: str | Path, weights: Weights, text: str) -> None:
    try:
        digests = json.loads(text)
        damaged = [name for name, array in weights.items() if sha256_of(array) != digests[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its table of SHA-256 digests is invalid ({error})") from None
    problems = [f"{name} does not match its SHA-256" for name in damaged]
    raise_problems(str(path), {"damaged": problems})


def probe_weights(spec: ResNetSpec, seed: int = 0, dtype: Any = "float32") -> Weights:
    """Weights on which no mistake can hide, made from each tensor's name and the seed alone.

    Gamma and running variance are in [0.5, 1.5], beta, bias and running mean are normal, kernels are
    normal with He's fan-in variance. What ends a residual branch, its last convolution or the norm behind it,
    is scaled so that activations neither grow nor fade with the depth of the network; gates are mostly closed,
    and where no shortcut keeps the image, ReLUs are mostly open.

    Values are drawn in float64 and rounded to `dtype`.
    """
    plan = make_plan(spec)
    branch = _branch_variance(spec)
    centres = {name: _GATE_BIAS for name in plan.tensors if name.endswith(".gate.bias")}
    if _forgets(spec):
        centres |= {name: _OPEN for name in plan.tensors if ".norm" in name and name.endswith(".bias")}
    gains = {name: branch for path, block in plan.blocks() for name in _end_of_branch(path, block)}
    gains |= {name: _GATE_VARIANCE for name in plan.tensors if name.endswith(".gate.weight")}
    return {
        name: _probe_tensor(name, shape, seed, centres.get(name, 0.0), gains.get(name, 1.0)).astype(float_dtype(dtype))
        for name, shape in plan.tensors.items()
    }


# Gates that mostly keep the shortcut, as those do with which the V2 paper's networks train (-6 and -7, table 1).
# Half-open ones forget it in a few blocks, and what remains is a plain network of 108 layers whose norms, by the
# batch's own statistics, multiply every difference: 1e-16 grew to 1e-8.
_GATE_BIAS = -4.0

# Of a gate's kernel, times He's. A gate that answers strongly to its input multiplies differences too.
_GATE_VARIANCE = 0.02

# The mean beta of a plain network. A norm by the batch's statistics behind ReLUs that are closed half the time
# multiplies differences by 1.21, 108 of them by 1e8; behind ReLUs that are open nine times in ten, by 1.04.
_OPEN = 1.2


def _forgets(spec: ResNetSpec) -> bool:
    """Whether every block passes its input through a scale or a convolution: such a network is a plain one."""
    return spec.shortcut.projection == "always" or (spec.shortcut.join == "scale" and abs(spec.shortcut.scales[0]) < 1)


def _end_of_branch(path: str, block: Block) -> tuple[str, ...]:
    """The tensors that a branch's strength hangs on, whatever its statistics.

    A norm by the batch's statistics undoes every scale of the convolution in front of it. With the scale there, each
    branch was as strong as the whole stream in training mode, and 50 of them (ResNet-152) made 1e-11 of rounding.
    """
    last = len(block.convs)
    if block.order in ("full_pre", "norm_after_add"):
        return (f"{path}.conv{last}.weight",)
    return (f"{path}.norm{last}.weight", f"{path}.norm{last}.bias")


def _branch_variance(spec: ResNetSpec) -> float:
    """What a branch adds to the variance, times that of a branch left alone: all blocks together as much as the stem.

    A shortcut that is scaled down lets the image fade by the same factor in every block, until rounding is all that
    is left of it; there the branch makes up for what the shortcut loses. Closed exclusive gates scale the branch down.
    """
    join, (keep, take) = spec.shortcut.join, spec.shortcut.scales
    if join == "scale" and keep == 0:
        return 1.2 / take**2 if take else 1.0
    if join == "scale" and abs(keep) < 1 and take:
        return 0.8 * (1 - keep**2) / take**2
    return 1.5 if join == "exclusive_gate" else 1 / sum(spec.depths)


def _probe_tensor(name: str, shape: Shape, seed: int, centre: float, gain: float) -> np.ndarray:
    """Values around `centre` (scales and kernels have their own), all times the root of `gain`."""
    rng = named_rng(name, seed)
    leaf = name.rpartition(".")[2]
    if leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape) * np.sqrt(gain)
    if len(shape) == 1:
        return rng.normal(centre, 0.3, shape) * np.sqrt(gain)
    fan_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape) * np.sqrt(2.0 / fan_in * gain)


def probe_images(shape: tuple[int, int, int, int], seed: int = 0, dtype: Any = "float32") -> np.ndarray:
    """Standard normal images [batch, height, width, channels]."""
    return named_rng("images", seed).standard_normal(shape).astype(float_dtype(dtype))


def named_rng(name: str, seed: int) -> np.random.Generator:
    """A random stream of its own for every name, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def digest(arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 of names, shapes and values, in order. Equal values of different float types are the same.

    Pairs are taken one by one: the largest networks do not fit into memory once more.
    """
    total = hashlib.sha256()
    for name, array in arrays.items() if isinstance(arrays, Mapping) else arrays:
        exact = np.ascontiguousarray(array, dtype="<f8")
        total.update(f"{name} {exact.shape}\n".encode())
        total.update(exact.data)
    return total.hexdigest()


def _first(names: Iterable[str], count: int = 1000) -> list[str]:
    return sorted(names)[:count]


def raise_problems(what: str, kinds: Mapping[str, list[str]]) -> None:
    """One line that counts each kind of problem and shows the first ones; all are in `.problems`."""
    parts = []
    for kind, problems in kinds.items():
        if problems:
            shown = "; ".join(sorted(problems)[:5]) + ("; …" if len(problems) > 5 else "")
            parts.append(f"{len(problems)} {kind}: {shown}")
    if parts:
        everything = sorted(p for problems in kinds.values() for p in problems)
        raise CheckpointError(f"{what}: {' | '.join(parts)}", everything)
