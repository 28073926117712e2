"""Mistakes in the operator of a single layer, or of all layers of a kind, that no field of the spec
says: the padding of one convolution, the epsilon of one norm, an activation left out or another.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from shared.architecture.graph import Node
from shared.architecture.ops import BatchNorm, Conv, GroupNorm, Linear, MaxPool, Merge, Op, ReLU
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.reference.forward import OPERATORS, batch_norm, batch_statistics, kernel_of
from shared.reference.windows import padded, pads_of, pool_windows
from shared.verification.hypotheses.hypothesis import Array, Hypothesis, Port
from shared.verification.rounding import rounded

EPS = (1e-2, 1e-3, 1e-5, 1e-6)  # of a single norm
WHOLE, SINGLE = 2, 4  # ranks


def of_layers(spec: ResNetSpec) -> Iterator[Hypothesis]:
    """Every mistake in operators: of all activations alike, of the stem, then of single layers."""
    nodes = {node.name: node for node in make_plan(spec).nodes()}
    relus = [name for name, node in nodes.items() if isinstance(node.op, ReLU)]
    for what, function in ACTIVATIONS.items():
        sentence = f"the activations are {what}, where ReLU is meant"
        yield _altered(f"every ReLU: {what}", sentence, relus, function, WHOLE)
    for name, node in nodes.items():
        where = _where(node)
        for what, function in _changes_of(node):
            stem = name.startswith("stem.") and isinstance(node.op, Conv | MaxPool)
            yield _altered(
                f"{name}: {what}", f"{where}: {what}", [name], function, WHOLE if stem else SINGLE
            )
        if isinstance(node.op, Conv | Linear):
            what = f"rounding, no mistake: {name} is computed in TF32"
            of_rounding = _altered(f"{name}: TF32", what, [name], _in_tf32, SINGLE)
            yield dataclasses.replace(of_rounding, kind="precision")
        if isinstance(node.op, BatchNorm):
            yield dataclasses.replace(
                _altered(
                    f"{name}: batch statistics",
                    f"{where} uses the batch's own statistics in evaluation (training mode)",
                    [name],
                    _of_the_batch,
                    SINGLE + 1,
                ),
                whole_batch=True,
                shows_in="evaluation",
            )
    yield from _strides(nodes)


def _altered(
    name: str, what: str, names: Iterable[str], function: Callable[..., Array], rank: int
) -> Hypothesis:
    changes = dict.fromkeys(names, function)
    change = functools.partial(with_operators, changes=changes)
    return Hypothesis("spec", name, what, change, rank=rank)


def with_operators(port: Port, changes: Mapping[str, Callable[..., Array]]) -> Port:
    """The port with other functions in the place of nodes' operators."""
    return dataclasses.replace(port, altered={**port.altered, **changes})


def _where(node: Node) -> str:
    """What a sentence calls a node: activations and sums are no layers of their own."""
    block = node.name.rpartition(".")[0]
    if node.row and not isinstance(node.op, ReLU | Merge):
        return node.name
    if isinstance(node.op, Merge):
        return f"the sum of {node.name if node.row else block}"
    if node.row:
        return f"the last activation of {node.name}"
    return f"the activation behind {node.inputs[0]}"


def _changes_of(node: Node) -> Iterator[tuple[str, Callable[..., Array]]]:
    """(what is wrong, what is computed then) of a node."""
    op = node.op
    if isinstance(op, BatchNorm | GroupNorm):
        for eps in EPS:
            if eps != op.eps:
                yield f"its epsilon is {eps:g}", _with(eps=eps)
        yield "left out", _first_input
        yield "a ReLU behind it", _rectified
    elif isinstance(op, ReLU):
        yield "left out", _first_input
    elif isinstance(op, Merge):
        yield "the shortcut left out", _branch_alone
        yield "the branch twice", _branch_twice
    elif isinstance(op, Conv) and op.kernel_size > 1:
        other = "same" if op.padding == "symmetric" else "symmetric"
        if op.stride > 1:
            yield f"its padding is {other}", _with(padding=other)
        yield "it is padded with the pixels at its border", _padded_as("edge")
        yield "it is padded with the image mirrored (reflect)", _padded_as("reflect")
        if op.stride == 1 and op.padding == "symmetric" and op.dilation == 1:
            yield "it is dilated by 2", _with(dilation=2)
        if node.name.startswith("stem."):
            yield "it is not padded", _with(padding="valid")
    elif isinstance(op, MaxPool):
        yield "an average pool", _averaged


def _with(**changes: Any) -> Callable[..., Array]:
    """The operator with other numbers."""

    def apply(op: Any, weights: Mapping[str, Array], *inputs: Array) -> Array:
        return OPERATORS[type(op)](dataclasses.replace(op, **changes), weights, *inputs)

    return apply


def _first_input(op: Op, weights: Mapping[str, Array], *inputs: Array) -> Array:
    return inputs[0]


def _rectified(op: Op, weights: Mapping[str, Array], *inputs: Array) -> Array:
    return np.maximum(OPERATORS[type(op)](op, weights, *inputs), 0)


def _branch_alone(op: Op, weights: Mapping[str, Array], shortcut: Array, branch: Array, *gate):
    return OPERATORS[type(op)](op, weights, np.zeros_like(shortcut), branch, *gate)


def _branch_twice(op: Op, weights: Mapping[str, Array], shortcut: Array, branch: Array, *gate):
    return OPERATORS[type(op)](op, weights, branch, branch, *gate)


def _padded_as(mode: Literal["edge", "reflect"]) -> Callable[..., Array]:
    """As `padding_mode='replicate'` and `'reflect'` of PyTorch."""

    def apply(op: Conv, weights: Mapping[str, Array], x: Array) -> Array:
        padded_image = np.pad(x, ((0, 0), *pads_of(op, x), (0, 0)), mode=mode)
        return _with(padding="valid")(op, weights, padded_image)

    return apply


def _averaged(op: MaxPool, weights: Mapping[str, Array], x: Array) -> Array:
    """Zeros of the padding count, as by default in PyTorch."""
    seen = pool_windows(op, padded(x, pads_of(op, x)))
    return np.sum(seen, axis=0) / len(seen)


def _in_tf32(op: Conv | Linear, weights: Mapping[str, Array], x: Array) -> Array:
    """Inputs and kernel rounded to 10 bits of mantissa, as by default in convolutions of PyTorch on
    NVIDIA's hardware; sums in full.
    """
    kernel = weights["weight"]
    if isinstance(op, Conv):  # a standardised kernel is rounded as it is used
        kernel, op = kernel_of(op, weights), dataclasses.replace(op, weight_std_eps=None)
    tensors = {**weights, "weight": rounded(kernel, "TF32")}
    return OPERATORS[type(op)](op, tensors, rounded(x, "TF32"))


def computes_in_tf32(port: Port) -> bool:
    """Whether single layers of it do."""
    return any(function is _in_tf32 for function in port.altered.values())


def _of_the_batch(op: BatchNorm, weights: Mapping[str, Array], x: Array) -> Array:
    return batch_norm(op, {**weights, **batch_statistics(op, weights, x)[0]}, x)


def _strides(nodes: Mapping[str, Node]) -> Iterator[Hypothesis]:
    """A block that strides in another convolution than the others."""
    blocks: dict[str, dict[str, Conv]] = {}
    for name, node in nodes.items():
        block, _, leaf = name.rpartition(".")
        if isinstance(node.op, Conv) and leaf.startswith("conv") and block.startswith("stages."):
            blocks.setdefault(block, {})[leaf] = node.op
    for block, convs in blocks.items():
        striding = next((leaf for leaf, conv in convs.items() if conv.stride > 1), None)
        for leaf, conv in convs.items() if striding else ():
            if leaf != striding and conv.stride == 1:
                changes = {
                    f"{block}.{striding}": _with(stride=1),
                    f"{block}.{leaf}": _with(stride=convs[striding or ""].stride),
                }
                yield Hypothesis(
                    "spec",
                    f"{block}: strides in {leaf}",
                    f"{block} strides in {leaf}, not in {striding}",
                    functools.partial(with_operators, changes=changes),
                    rank=WHOLE,
                )


def _elementwise(function: Callable[[Array], Array]) -> Callable[..., Array]:
    return lambda op, weights, x: function(x)


_erf = np.frompyfunc(math.erf, 1, 1)


def _exact_gelu(x: Array) -> Array:
    return x * (1 + np.asarray(_erf(x / math.sqrt(2)), x.dtype)) / 2


def _gelu(x: Array) -> Array:
    """The approximation by a hyperbolic tangent."""
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


ACTIVATIONS = {
    "ReLU6": _elementwise(lambda x: np.clip(x, 0, 6)),
    "leaky ReLU (0.01)": _elementwise(lambda x: np.where(x > 0, x, x * 0.01)),
    "leaky ReLU (0.2)": _elementwise(lambda x: np.where(x > 0, x, x * 0.2)),
    "ELU": _elementwise(lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "SiLU": _elementwise(lambda x: x * (1 + np.tanh(x / 2)) / 2),
    "GELU": _elementwise(_exact_gelu),
    "GELU (tanh)": _elementwise(_gelu),
}
