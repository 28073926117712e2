"""A LiteRT network as primitives.

The operators are those that `shared.graphs.files` has parsed. Shapes follow from one concrete
image, whatever the file says of them. What each operator computes stands in `litert_operators`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np

from shared.graphs.files.litert_model import DTYPES, Model, Operator, Tensor
from shared.graphs.files.messages import Record
from shared.graphs.primitives import Array, RawGraph, is_float
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.litert_operators import RULES, TENSORFLOW
from shared.graphs.translate.tensorflow import SEE_TILES
from shared.graphs.translate.tensorflow_node import Node, NodeEmitter

# As litert-torch names a module: by its class, and by what it is called in the one around it.
_CLASS = re.compile(r"(?:\w+\.)+[A-Za-z0-9]+")
_SCOPE = re.compile(rf"{_CLASS.pattern}_(\w+)")


class LiteRtReader(NodeEmitter):
    """Appends a network's operators to a graph; `images` is the tensor of its input, and `constant`
    reads the values of one.
    """

    def __init__(
        self,
        graph: RawGraph,
        model: Model,
        images: Tensor,
        constant: Callable[[Tensor], Array | None],
    ):
        super().__init__(graph)
        self._model, self._images, self._constant = model, images, constant
        self._stored_as = Counter(_first(tensor.name) for tensor in model.tensors if tensor.nbytes)

    def run(self, values: dict[int, int]) -> None:
        """Add what the operators compute to `values`, the nodes of tensors by their numbers."""
        for operator in self._model.operators:
            for k in operator.inputs:
                if k >= 0 and k not in values:
                    values[k] = self._stored(k)
            outs = self._node(operator, values)
            for j, k in enumerate(operator.outputs):
                if j >= len(outs):
                    outs.append(self._opaque(operator, values, j))
                values[k] = outs[j]
        for k in self._model.outputs:
            if k not in values:
                values[k] = self._stored(k)

    def _stored(self, k: int) -> int:
        """A constant: floats have names, with the tensor's number where several would have the
        same; single numbers and shapes have none.
        """
        tensor = self._model.tensors[k]
        value = None if tensor.variable and not tensor.nbytes else self._constant(tensor)
        if value is None:
            what = "a variable" if tensor.variable else f"a constant of {tensor.type}"
            return self.graph.opaque(what, [], None, where=tensor.name)
        weight = value.size > 1 and is_float(value)
        short = _first(tensor.name)
        name = short if self._stored_as[short] == 1 else f"{short};{k}"
        return self.graph.const(value, name if weight else None, short)

    def _node(self, operator: Operator, values: dict[int, int]) -> list[int]:
        given = list(operator.inputs)
        while given and given[-1] < 0:  # left out
            given.pop()

        def rule() -> list[int]:
            if min(given, default=0) < 0:
                raise Unknown("an input that is left out")
            ins = [values[k] for k in given]
            kind = TENSORFLOW.get(operator.type, operator.type)
            if self.tiled.keys() & set(ins) and kind not in SEE_TILES:
                raise Unknown("tiles where an image should be")
            return RULES[kind](self, self._described(operator, kind), ins)

        outs = self.attempt(rule)
        return [self._opaque(operator, values)] if outs is None else outs

    def _described(self, operator: Operator, kind: str) -> Node:
        """An operator in TensorFlow's terms."""
        name, dtype = self._where(operator), ""
        if operator.outputs:
            found = DTYPES.get(self._model.tensors[operator.outputs[0]].type)
            dtype = "" if found is None else np.dtype(found).name
        options = operator.options | {"to": dtype}
        attributes = {key: _attribute(value) for key, value in options.items()}
        return Node(Record({"name": name, "op": kind, "attr": attributes}), name)

    def _where(self, operator: Operator) -> str:
        """Operators have no names; their results have."""
        names = [self._model.tensors[k].name for k in operator.outputs[:1]]
        return _first(names[0]) if names else ""

    def _opaque(self, operator: Operator, values: dict[int, int], result: int = 0) -> int:
        ins = [values[k] for k in operator.inputs if k >= 0]
        shape = self._said(operator.outputs[result]) if operator.outputs else None
        return self.graph.opaque(operator.type, ins, shape, where=self._where(operator))

    def _said(self, k: int) -> tuple[int, ...] | None:
        """The shape of a tensor as the file has it, where the images have the file's own size."""
        given, own = self.sized(self.graph.inputs[0]), self._images.free
        first, *rest = self._model.tensors[k].free or (0,)
        if own[1:] != given[1:] or min(rest, default=0) < 1:
            return None
        return (given[0] if first in (-1, own[0]) else first, *rest)


def _first(name: str) -> str:
    """Of the names of several operators that a converter has joined; a module of PyTorch by its
    path, without the classes.
    """
    first = name.partition(";")[0]
    head, *parts = first.split("/")
    found = [_SCOPE.fullmatch(part) for part in parts]
    path = [match[1] for match in found if match]
    return ".".join(path) if path and len(path) == len(parts) and _CLASS.fullmatch(head) else first


def _attribute(value: object) -> Record:
    """A value as an attribute of a GraphDef's node."""
    if isinstance(value, list):
        return Record({"list": Record({"i": value})})
    return Record({"i": value, "f": value, "b": value, "s": str(value).encode()})
