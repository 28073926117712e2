"""The forward pass of a port by the reference's operators, with what a hypothesis leaves as it was
taken from the pass without it.

A hypothesis of a late layer then costs a late layer. Nothing is approximated: a node is taken over
only where its operator, its tensors and all its inputs are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from shared.architecture.graph import INPUT, Node
from shared.architecture.ops import BatchNorm, Conv, Dropout, GroupNorm, Linear, MaxPool, Op
from shared.architecture.plan import Plan
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.reference.forward import OPERATORS, batch_statistics
from shared.reference.windows import pads_of
from shared.training.config import dropout_masks
from shared.verification.hypotheses.hypothesis import Array, Port
from shared.verification.recording import OUTPUT
from shared.verification.rounding import rounded


@dataclass(frozen=True)
class ProbeMasks:
    """What dropout keeps in the probe's step, and what a hypothesis makes of that."""

    step: int = 0
    change: Callable[[Mapping[str, Array], ResNetSpec], Mapping[str, Array]] | None = None

    def __call__(self, plan: Plan, batch: int) -> Mapping[str, Array]:
        masks = dropout_masks(plan, batch, self.step)
        return self.change(masks, plan.spec) if self.change else masks


def in_training(port: Port) -> Port:
    """The port's training branch: the batch's statistics, and the masks of the probe."""
    return dataclasses.replace(
        port,
        spec=port.training_spec or port.spec,
        batch_statistics=not port.training.frozen_norms,
        dropout=ProbeMasks(change=port.training_masks),
    )


def cast(port: Port, dtype: str) -> Port:
    """The port with weights and images in `dtype`."""
    return dataclasses.replace(
        port,
        weights={name: np.asarray(a).astype(dtype) for name, a in port.weights.items()},
        images=np.asarray(port.images).astype(dtype),
    )


class Run:
    """What a port computes, node by node, when asked for.

    Args:
        port: its weights and images are of one dtype, in which everything is computed.
        base: a run of which nothing is computed again that is the same here.
        fixed: values put in the place of what nodes compute, by name.
    """

    def __init__(
        self, port: Port, base: Run | None = None, fixed: Mapping[str, Array] | None = None
    ):
        self.port = port
        self.plan, self.nodes = _graph(port, base)
        self.values: dict[str, Array] = {}
        self.fixed = fixed or {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._masks = port.dropout(self.plan, len(port.images)) if port.dropout else {}
        self.clean = self._taken_over(base) if base else frozenset()
        self._last = next(reversed(self.nodes))

    def _taken_over(self, base: Run) -> frozenset[str]:
        """The nodes that are as in `base`; their values are known where it has them."""
        a, b = self.port, base.port
        if a.images is not b.images or a.precision != b.precision:
            return frozenset()
        other_mode: tuple[type[Op], ...] = ()
        if a.batch_statistics != b.batch_statistics:
            other_mode = (BatchNorm,)
        if a.dropout != b.dropout:
            other_mode = (*other_mode, Dropout)
        clean = {INPUT}
        for name, node in self.nodes.items():
            other = base.nodes.get(name)
            if (
                other is not None
                and node.inputs == other.inputs
                and clean.issuperset(node.inputs)
                and (name in self.fixed) == (name in base.fixed)
                and self.same_tensors(base, node)
                and a.altered.get(name) is b.altered.get(name)
                and not isinstance(node.op, other_mode)
                and _same_op(self.op_in(base, node), other.op, base.known(node))
            ):
                clean.add(name)
                if name in base.values:
                    self.values[name] = base.values[name]
        return frozenset(clean)

    def known(self, node: Node) -> Array | None:
        """The first input of a node, if it is computed already."""
        source = node.inputs[0]
        return self.port.images if source == INPUT else self.values.get(source)

    def size(self, node: Node) -> Array:
        """An empty tensor of the size of a node's first input."""
        source = node.inputs[0]
        if not self._shapes:
            self._shapes = {INPUT: (*self.plan.image_size, self.plan.spec.in_channels)}
            for other in self.nodes.values():
                inputs = [self._shapes[name] for name in other.inputs]
                self._shapes[other.name] = other.op.output(*inputs)
        return np.empty((0, *self._shapes[source]))

    def same_tensors(self, base: Run, node: Node) -> bool:
        """A tensor that the base's network lacks is another one, but for a bias of zeros."""
        return all(
            self.port.weights[f"{node.name}.{leaf}"] is base.port.weights.get(f"{node.name}.{leaf}")
            for leaf in self.op_in(base, node).tensors()
        )

    def op_in(self, base: Run, node: Node) -> Op:
        """A node's operator, without a bias of zeros that the base's network does not have."""
        name = f"{node.name}.bias"
        if not isinstance(node.op, Conv) or not node.op.bias or name in base.port.weights:
            return node.op
        return node.op if self.port.weights[name].any() else replace(node.op, bias=False)

    def node_of(self, layer: str) -> str:
        return self._last if layer == OUTPUT else layer

    def touches(self, layer: str) -> bool:
        """Whether a layer's value, or the network's output, may be another than the base's."""
        return self.node_of(layer) not in self.clean or (
            layer == OUTPUT and bool(self.port.outputs)
        )

    def layer(self, layer: str) -> Array:
        """What a named layer computes, or what the port returns."""
        value = self.value(self.node_of(layer))
        return self.port.returned(value) if layer == OUTPUT else value

    def value(self, name: str) -> Array:
        """The output of a node; whatever it needs is computed first."""
        for needed in self._missing(name):
            self.values[needed] = self._compute(self.nodes[needed])
        return self.values[name] if name != INPUT else self._input()

    def _missing(self, name: str) -> Iterable[str]:
        """The nodes to compute for `name`, in order."""
        needed, stack = set(), [name]
        while stack:
            node = stack.pop()
            if node not in self.values and node not in needed and node != INPUT:
                needed.add(node)
                if node not in self.fixed:
                    stack.extend(self.nodes[node].inputs)
        return [node for node in self.nodes if node in needed]

    def _input(self) -> Array:
        port = self.port
        return rounded(port.images, port.precision) if port.precision != "exact" else port.images

    def inputs(self, node: Node) -> list[Array]:
        return [self._input() if name == INPUT else self.value(name) for name in node.inputs]

    def _compute(self, node: Node) -> Array:
        if node.name in self.fixed:
            return self.fixed[node.name]
        return self.apply(node, self.inputs(node))

    def apply(self, node: Node, inputs: list[Array]) -> Array:
        """The node's operator on other inputs."""
        port, precision = self.port, self.port.precision
        tensors = self.operands(node, inputs)
        narrow = precision not in ("exact", "float32")
        if narrow and (precision != "TF32" or isinstance(node.op, Conv | Linear)):
            inputs = [rounded(x, precision) for x in inputs]
            tensors = {leaf: rounded(a, precision) for leaf, a in tensors.items()}
        function = port.altered.get(node.name) or OPERATORS[type(node.op)]
        try:
            with np.errstate(all="ignore"):  # what is not finite is no explanation, and no news
                value = function(node.op, tensors, *inputs)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if not port.altered:
                raise
            # Of another shape, or made for another operator: a changed network has others there.
            raise SpecError(f"{node.name} does not fit altered operators: {error}") from None
        return rounded(value, precision) if narrow and precision != "TF32" else value

    def operands(self, node: Node, inputs: list[Array]) -> dict[str, Array]:
        """By leaf what the operator reads: in training, with the batch's statistics and masks."""
        tensors = self.tensors(node)
        if self.port.batch_statistics and isinstance(node.op, BatchNorm):
            tensors |= batch_statistics(node.op, tensors, *inputs)[0]
        if node.name in self._masks:
            tensors["mask"] = self._masks[node.name]
        return tensors

    def tensors(self, node: Node) -> dict[str, Array]:
        return {leaf: self.port.weights[f"{node.name}.{leaf}"] for leaf in node.op.tensors()}

    def statistic(self, tensor: str) -> Array:
        """A running statistic after this batch."""
        name, _, leaf = tensor.rpartition(".")
        node = self.nodes[name]
        if not self.port.batch_statistics or not isinstance(node.op, BatchNorm):
            return self.port.weights[tensor]
        return batch_statistics(node.op, self.tensors(node), *self.inputs(node))[1][leaf]


def _graph(port: Port, base: Run | None) -> tuple[Plan, dict[str, Node]]:
    """The plan and its nodes by name; those of `base`, where they are the same."""
    sized = port.images.shape[1:3]
    if base and port.spec is base.port.spec and sized == base.port.images.shape[1:3]:
        return base.plan, base.nodes
    plan = port.plan
    return plan, {node.name: node for node in plan.nodes()}


def effective(op: Op, x: Array | None) -> Op:
    """An operator as evaluation sees it on images like x: without what training alone reads, and
    with one name for paddings that are the same there.
    """
    if isinstance(op, BatchNorm):
        return dataclasses.replace(op, momentum=0.0, unbiased=True, zero_init=False)
    if isinstance(op, GroupNorm):
        return dataclasses.replace(op, zero_init=False)
    if x is not None and isinstance(op, Conv | MaxPool) and op.padding != "zero":
        symmetric = dataclasses.replace(op, padding="symmetric")
        return symmetric if pads_of(op, x) == pads_of(symmetric, x) else op
    return op


def _same_op(a: Op, b: Op, x: Array | None) -> bool:
    """Whether two operators compute the same of images like x."""
    return a == b or (type(a) is type(b) and effective(a, x) == effective(b, x))
