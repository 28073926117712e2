"""Which single tensors a difference points at, by the gradient: an order for the search, no proof.

A convolution and a norm in evaluation are linear in what the weights make of them, so the change
that a hypothesis makes there is known exactly. What it does to the output is known to first order,
from a few backward passes for all hypotheses together: products of the outputs with random
directions. Hypotheses whose products point where the observed ones do come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shared.architecture.graph import INPUT
from shared.architecture.ops import BatchNorm
from shared.reference.backward import BACKWARD
from shared.reference.forward import IMAGE, gamma
from shared.verification.diagnosis.execution import Run
from shared.verification.hypotheses.hypothesis import Array, Hypothesis, Port
from shared.verification.recording import OUTPUT
from shared.weights.random import named_rng

DIRECTIONS = 8
LEAST_DIRECTIONS = 3
MEMORY = 512 << 20  # bytes of gradients
NUDGE = 1e-4  # of the largest output
MOST_OUTPUTS = 4096  # that are nudged one by one


def in_order(
    run: Run, layer: str, difference: Array, hypotheses: Sequence[Hypothesis]
) -> list[Hypothesis]:
    """`hypotheses` with those of the weights sorted, the likeliest first.

    Args:
        run: the pass of one image, all of whose values are there.
        layer: where the difference was seen.
        difference: what was observed less what `run` computes there.
    """
    norms = {n.name: n.op for n in run.nodes.values() if isinstance(n.op, BatchNorm)}
    altered = {
        place: moved
        for place, hypothesis in enumerate(hypotheses)
        if hypothesis.kind in ("spec", "precision")
        and (moved := _altered(run, hypothesis(run.port)))
    }
    gradients, products, observed = _gradients(run, layer, difference, altered)
    scored = []
    for place, hypothesis in enumerate(hypotheses):
        predicted = products.get(place)
        if predicted is None:
            predicted = _predicted(run.port, hypothesis(run.port), gradients, norms)
        scored.append((-_alike(predicted, observed), place, hypothesis))
    return [hypothesis for _, _, hypothesis in sorted(scored, key=lambda row: row[:2])]


def _altered(run: Run, changed: Port | None) -> dict[str, Callable[..., Array]]:
    """The nodes that compute something else, with what they compute."""
    if changed is None:
        return {}
    known = run.port.altered
    return {n: f for n, f in changed.altered.items() if known.get(n) is not f and n in run.nodes}


def _gradients(
    run: Run, layer: str, difference: Array, altered: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[str, Array], dict[int, Array], Array]:
    """By every tensor the gradients for all directions, [directions, values]; the products that
    altered nodes would have; and the observed ones.

    A batch norm's are those by its scale gamma / deviation, as `weight`, and by its shift, as
    `bias`.
    """
    size = sum(array.nbytes for array in run.port.weights.values())
    count = max(LEAST_DIRECTIONS, min(DIRECTIONS, MEMORY // max(size, 1)))
    rng = named_rng("directions", 0)
    directions = [difference / np.linalg.norm(difference)]
    while len(directions) < count:
        drawn = rng.standard_normal(difference.shape)
        directions.append(drawn / np.linalg.norm(drawn))
    returned = _through_outputs(run, layer)
    target = run.node_of(layer)
    starts = [returned(d).astype(difference.dtype) for d in directions]
    gradients, products = _backward(run, target, starts, altered)
    return gradients, products, np.array([float((d * difference).sum()) for d in directions])


def _through_outputs(run: Run, layer: str) -> Callable[[Array], Array]:
    """The gradient by the network's output, from that by what the port returns: a softmax, say, or
    another order of the classes.
    """
    if layer != OUTPUT or not run.port.outputs:
        return lambda dy: dy
    output = np.asarray(run.value(run.node_of(layer)), np.float64)
    step = NUDGE * float(np.abs(output).max())
    nudges = step * np.eye(output.shape[1])
    slopes = [
        (run.port.returned(row + nudges) - run.port.returned(row - nudges)) / (2 * step)
        for row in output
    ]  # of each image, [what goes in, what comes out]
    return lambda dy: np.stack([slope @ d for slope, d in zip(slopes, dy, strict=True)])


def _backward(
    run: Run, target: str, starts: list[Array], altered: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[str, Array], dict[int, Array]]:
    """See `_gradients`; `starts` are the directions at `target`."""
    names = list(run.nodes)
    by_value = {target: starts}
    by_tensor: dict[str, Array] = {}
    products: dict[int, Array] = {}
    for name in reversed(names[: names.index(target) + 1]):
        if name not in by_value:
            continue
        node, dys = run.nodes[name], by_value.pop(name)
        inputs, tensors = run.inputs(node), run.tensors(node)
        for place, nodes in altered.items():
            if name in nodes:
                with np.errstate(all="ignore"):
                    change = nodes[name](node.op, tensors, *inputs)
                if change.shape == dys[0].shape:
                    change = change - run.value(name)
                    found = np.array([float((dy * change).sum()) for dy in dys])
                    products[place] = products.get(place, 0.0) + found
        by_leaf: dict[str, list[Array]] = {}
        for k, dy in enumerate(dys):
            if isinstance(node.op, BatchNorm):
                centred = inputs[0] - tensors["running_mean"]
                leaves = {"weight": (dy * centred).sum(axis=IMAGE), "bias": dy.sum(axis=IMAGE)}
                by_inputs: tuple[Array, ...] = (dy * _scale(node.op, tensors),)
            else:
                by_inputs, leaves = BACKWARD[type(node.op)](node.op, tensors, dy, *inputs)
            for leaf, gradient in leaves.items():
                by_leaf.setdefault(leaf, []).append(gradient.ravel())
            for source, gradient in zip(node.inputs, by_inputs, strict=True):
                if source == INPUT:
                    continue
                row = by_value.setdefault(source, [])
                if len(row) > k:
                    row[k] = row[k] + gradient
                else:
                    row.append(gradient)
        by_tensor |= {f"{name}.{leaf}": np.stack(rows) for leaf, rows in by_leaf.items()}
    return by_tensor, products


def _scale(op: BatchNorm, tensors: Mapping[str, Array]) -> Array:
    return gamma(tensors) / np.sqrt(tensors["running_var"] + op.eps)


def _predicted(
    port: Port, changed: Port | None, gradients: Mapping[str, Array], norms: Mapping[str, BatchNorm]
) -> np.ndarray:
    """To first order, the products that a hypothesis would have."""
    total: Array = np.zeros(len(next(iter(gradients.values()))))
    if changed is None or changed.spec is not port.spec or changed.images is not port.images:
        return total
    moved = [name for name, a in changed.weights.items() if a is not port.weights[name]]
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in moved):
        for leaf, change in _linear_changes(port, changed, layer, norms.get(layer)).items():
            key = f"{layer}.{leaf}"
            if key in gradients:
                total = total + gradients[key] @ change.ravel()
    return total


def _linear_changes(
    before: Port, after: Port, layer: str, norm: BatchNorm | None
) -> dict[str, Array]:
    """The change of what a layer is linear in: kernel and bias, or scale and shift."""
    leaves = [n for n in before.weights if n.rpartition(".")[0] == layer]
    old = {n.rpartition(".")[2]: before.weights[n] for n in leaves}
    new = {n.rpartition(".")[2]: after.weights[n] for n in leaves}
    if norm is None:
        return {leaf: new[leaf] - old[leaf] for leaf in old if new[leaf] is not old[leaf]}
    scales = _scale(norm, old), _scale(norm, new)
    shift = new["bias"] - old["bias"] - scales[1] * (new["running_mean"] - old["running_mean"])
    return {"weight": scales[1] - scales[0], "bias": shift}


def _alike(predicted: np.ndarray, observed: np.ndarray) -> float:
    """The cosine of the two; -1 where a hypothesis changes nothing or cannot be said."""
    norm = float(np.linalg.norm(predicted) * np.linalg.norm(observed))
    if not np.isfinite(predicted).all() or norm == 0.0:
        return -1.0
    return float(predicted @ observed) / norm
