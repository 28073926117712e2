"""Mistakes in the weights of a port: transposed, exchanged, not loaded, stale, rounded.

Each is there for the whole network, where a wrong rule has done it, and for every single tensor.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from shared.architecture.ops import Conv, Linear, Norm
from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.verification.hypotheses.hypothesis import Array, Hypothesis, Port, reweighted
from shared.weights.dtypes import float_dtype
from shared.weights.initial import initial_weights

# The tensors of one layer by leaf -> those that are changed; None where it is not possible.
LayerChange = Callable[[Any, Mapping[str, Array]], Mapping[str, Array] | None]


def _kernel(test: Callable[[Any, Array], bool], change: Callable[[Any, Array], Array]) -> Any:
    def apply(op: Any, tensors: Mapping[str, Array]) -> Mapping[str, Array] | None:
        kernel = tensors["weight"]
        return {"weight": change(op, kernel)} if test(op, kernel) else None

    return apply


def _wide(op: Any, kernel: Array) -> bool:
    return kernel.ndim == 4 and kernel.shape[2] > 1


def _read_as_oihw(op: Any, kernel: Array) -> Array:
    """The bytes of a kernel that was stored HWIO, read as OIHW."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)).reshape(kernel.shape)


def _interleaved(op: Any, kernel: Array) -> Array:
    """Output channels ordered channel-major instead of group-major."""
    split = kernel.reshape(op.groups, -1, *kernel.shape[1:])
    return split.swapaxes(0, 1).reshape(kernel.shape)


KERNELS: dict[str, LayerChange] = {
    "its height and width transposed": _kernel(_wide, lambda op, k: k.swapaxes(2, 3)),
    "flipped in height and width": _kernel(_wide, lambda op, k: k[:, :, ::-1, ::-1]),
    "flipped in height": _kernel(_wide, lambda op, k: k[:, :, ::-1]),
    "flipped in width": _kernel(_wide, lambda op, k: k[:, :, :, ::-1]),
    "its input and output channels exchanged": _kernel(
        lambda op, k: k.ndim == 4 and k.shape[0] == k.shape[1] > 1, lambda op, k: k.swapaxes(0, 1)
    ),
    "HWIO read as OIHW": _kernel(lambda op, k: k.ndim == 4, _read_as_oihw),
    "its input channels in reverse order": _kernel(
        lambda op, k: k.ndim == 4 and 1 < k.shape[1] <= 4 and op.groups == 1,
        lambda op, k: k[:, ::-1],
    ),
    "its groups interleaved": _kernel(
        lambda op, k: k.ndim == 4 and op.groups > 1 and k.shape[0] > op.groups, _interleaved
    ),
    "[in, out] read as [out, in]": _kernel(
        lambda op, k: k.ndim == 2, lambda op, k: k.T.reshape(k.shape)
    ),
    "not loaded (zeros)": _kernel(lambda op, k: True, lambda op, k: np.zeros_like(k)),
}


def _leaf(leaf: str, change: Callable[[Array], Array]) -> LayerChange:
    def apply(op: Any, tensors: Mapping[str, Array]) -> Mapping[str, Array] | None:
        return {leaf: change(tensors[leaf])} if leaf in tensors else None

    return apply


def _mean_with_variance(op: Any, tensors: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """No port can take the root of a negative mean; their absolute values are taken then."""
    if "running_var" not in tensors:
        return None
    return {"running_mean": tensors["running_var"], "running_var": np.abs(tensors["running_mean"])}


def _unloaded_statistics(op: Any, tensors: Mapping[str, Array]) -> Mapping[str, Array] | None:
    if "running_var" not in tensors:
        return None
    return {
        "running_mean": np.zeros_like(tensors["running_mean"]),
        "running_var": np.ones_like(tensors["running_var"]),
    }


NORMS: dict[str, LayerChange] = {
    "gamma and beta exchanged": lambda op, t: (
        {"weight": t["bias"], "bias": t["weight"]} if "weight" in t else None
    ),
    "mean and variance exchanged": _mean_with_variance,
    "statistics not loaded (mean 0, variance 1)": _unloaded_statistics,
    "its variance taken for a deviation": _leaf("running_var", np.square),
    "its variance stored as a deviation": _leaf("running_var", np.sqrt),
    "gamma not loaded (ones)": _leaf("weight", np.ones_like),
    "gamma zero": _leaf("weight", np.zeros_like),
    "beta not loaded (zeros)": _leaf("bias", np.zeros_like),
    "mean not loaded (zeros)": _leaf("running_mean", np.zeros_like),
    "variance not loaded (ones)": _leaf("running_var", np.ones_like),
}
BIAS: dict[str, LayerChange] = {"bias not loaded (zeros)": _leaf("bias", np.zeros_like)}
HALF = ("float16", "bfloat16")


@functools.lru_cache(maxsize=16)
def layers(spec: ResNetSpec) -> dict[str, Any]:
    """Layer -> operator, of those with tensors, in order."""
    return {node.name: node.op for node in make_plan(spec).nodes() if node.op.tensors()}


def changes_of(op: Any) -> dict[str, LayerChange]:
    """What can be wrong with the tensors of a layer."""
    if isinstance(op, Norm):
        return NORMS
    return KERNELS | (BIAS if "bias" in op.tensors() else {})


def of_weights(spec: ResNetSpec) -> Iterator[Hypothesis]:
    """Every mistake in the weights of a network: of all layers alike, then of single ones, then
    exchanges.
    """
    found = layers(spec)
    yield from _everywhere(found)
    yield from _zero_residual(spec)
    for layer, op in found.items():
        for what, change in changes_of(op).items():
            yield _of_layers(
                f"{layer}: {what}", f"{_called(layer, op)}: {what}", change, (layer,), 3
            )
    yield from _stale(spec, found)
    yield from exchanges(spec, found)


def _called(layer: str, op: Any) -> str:
    kind = "the kernel of " if isinstance(op, Conv) else ""
    return f"{kind}{layer}"


def _of_layers(
    name: str, what: str, change: LayerChange, names: Iterable[str], rank: int
) -> Hypothesis:
    """`change` in every layer of `names` that has what it takes."""
    wanted = tuple(names)

    def apply(port: Port) -> Port | None:
        found = layers(port.spec)
        changed: dict[str, Array] = {}
        for layer in wanted:
            if layer not in found:
                continue
            op = found[layer]
            tensors = {leaf: port.weights[f"{layer}.{leaf}"] for leaf in op.tensors()}
            if change in changes_of(op).values():
                new = change(op, tensors) or {}
                changed |= {f"{layer}.{leaf}": array for leaf, array in new.items()}
        return reweighted(port, changed) if changed else None

    return Hypothesis("weights", name, what, apply, rank=rank)


def _everywhere(found: Mapping[str, Any]) -> Iterator[Hypothesis]:
    """A rule that was wrong for every layer that it concerns, of which there are several."""
    not_rules = (
        "not loaded (zeros)",
        "gamma zero",
        "its input channels in reverse order",
        "[in, out] read as [out, in]",
    )
    for kind, rules in (("norm", NORMS), ("kernel", KERNELS), ("layer", BIAS)):
        for what, change in rules.items():
            concerned = [layer for layer, op in found.items() if change in changes_of(op).values()]
            if what not in not_rules and len(concerned) > 1:
                name = f"every {kind}: {what}"
                yield _of_layers(name, name, change, concerned, 2)
    for dtype in HALF:
        yield Hypothesis(
            "weights",
            f"rounded to {dtype}",
            f"the weights are rounded to {dtype}",
            functools.partial(_rounded, dtype=dtype),
            rank=2,
        )


def _rounded(port: Port, dtype: str) -> Port | None:
    target = float_dtype(dtype)
    return reweighted(
        port, {name: a.astype(target).astype(a.dtype) for name, a in port.weights.items()}
    )


def last_gammas(plan: Plan) -> list[str]:
    """The last norm's gamma of every residual branch, which some networks start at zero."""
    return [
        f"{name}.norm{len(block.convs)}.weight"
        for name, block in plan.blocks()
        if block.norms[-1] is not None
    ]


def _zero_residual(spec: ResNetSpec) -> Iterator[Hypothesis]:
    if spec.block.order == "full_pre":
        return
    names = last_gammas(make_plan(spec))

    def change(port: Port) -> Port | None:
        zeros = {n: np.zeros_like(port.weights[n]) for n in names if n in port.weights}
        return reweighted(port, zeros) if zeros else None

    yield Hypothesis(
        "weights",
        "last gammas zero",
        "the last gamma of every block is zero, as it is initialised",
        change,
        rank=2,
    )


def _stale(spec: ResNetSpec, found: Mapping[str, Any]) -> Iterator[Hypothesis]:
    """A kernel that kept its initial values (of seed 0), while all others were loaded."""
    for layer, op in found.items():
        if isinstance(op, Conv | Linear):
            yield Hypothesis(
                "weights",
                f"{layer}: stale",
                f"the kernel of {layer} still has its initial values (seed 0)",
                functools.partial(_initial, name=f"{layer}.weight"),
                rank=5,
            )


def _initial(port: Port, name: str) -> Port | None:
    if name not in port.weights:
        return None
    return reweighted(port, {name: _initial_of(port.spec)[name].astype(port.weights[name].dtype)})


@functools.lru_cache(maxsize=2)
def _initial_of(spec: ResNetSpec) -> dict[str, Array]:
    return initial_weights(spec, 0)


def exchange(a: str, b: str, rank: int = 4) -> Hypothesis:
    """Everything below two names exchanged: tensors, layers or blocks."""

    def other(name: str) -> str:
        for here, there in ((a, b), (b, a)):
            if name == here or name.startswith(f"{here}."):
                return there + name.removeprefix(here)
        return name

    def change(port: Port) -> Port | None:
        moved = {name: other(name) for name in port.weights if other(name) != name}
        if not moved or any(
            to not in port.weights or port.weights[to].shape != port.weights[name].shape
            for name, to in moved.items()
        ):
            return None
        return reweighted(port, {name: port.weights[to] for name, to in moved.items()})

    return Hypothesis(
        "weights", f"{a} and {b} exchanged", f"{a} and {b} are exchanged", change, rank=rank
    )


def exchanges(spec: ResNetSpec, found: Mapping[str, Any]) -> Iterator[Hypothesis]:
    """Blocks, kernels and norms of one shape exchanged: neighbours first."""
    for stage, depth in enumerate(spec.depths):
        for i, j in itertools.combinations(range(depth), 2):
            a, b = (f"stages.{stage}.blocks.{k}" for k in (i, j))
            yield exchange(a, b, 3 if j == i + 1 else 4)
    by_shape: dict[tuple, list[str]] = {}
    for layer, op in found.items():
        norm = isinstance(op, Norm)
        key = (norm, *sorted(op.tensors().items())) if norm else ("kernel", op.tensors()["weight"])
        by_shape.setdefault(key, []).append(layer)
    for key, alike in by_shape.items():
        for (i, a), (j, b) in itertools.combinations(enumerate(alike), 2):
            near = a.rpartition(".")[0] == b.rpartition(".")[0] or j == i + 1
            leaf = ".weight" if key[0] == "kernel" else ""
            yield exchange(a + leaf, b + leaf, 4 if near else 6)
